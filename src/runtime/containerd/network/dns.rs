//! Resolves the names of allow lists. This host looks them up again and again, and an address stays allowed for a while
//! after it was last seen, because large sites answer with a few of their addresses at a time.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::net::lookup_host;
use tokio::time::{Instant, timeout};

use super::firewall_rules::AllowedDestinations;
use crate::template::Egress;
use crate::template::egress::{Destination, DestinationHost, is_public};

/// How long an address stays allowed after it was last seen.
const ADDRESS_TTL: Duration = Duration::from_secs(600);

/// Longest time of a lookup.
const LOOKUP_DEADLINE: Duration = Duration::from_secs(3);

/// Most concurrent lookups.
const MAX_CONCURRENT_LOOKUPS: usize = 8;

/// Most addresses kept of one name.
const MAX_ADDRESSES_PER_NAME: usize = 64;

/// Addresses with the time at which each was last seen.
pub(super) type LastSeen = BTreeMap<Ipv4Addr, Instant>;

/// The names in use, with their addresses.
#[derive(Debug, Default)]
pub(super) struct ResolvedNames {
    known: Mutex<HashMap<String, LastSeen>>,
}

impl ResolvedNames {
    /// Returns what a template's instances may reach now. New names are looked up first, which takes seconds at most. A
    /// name without an address is no error: it may have one later.
    pub(crate) async fn resolve(&self, egress: &Egress) -> AllowedDestinations {
        let new: BTreeSet<&str> = {
            let known = self.known.lock();
            names(egress).filter(|name| !known.contains_key(*name)).collect()
        };
        self.look_up(new.into_iter()).await;
        self.known_destinations(egress)
    }

    /// Returns what a template's instances may reach, by the last lookups.
    pub(super) fn known_destinations(&self, egress: &Egress) -> AllowedDestinations {
        let Egress::Only(destinations) = egress else { return AllowedDestinations::AnyPublic };
        let known = self.known.lock();
        let addresses = |destination: &Destination| -> Vec<Ipv4Addr> {
            match &destination.host {
                DestinationHost::Address(address) => vec![*address],
                DestinationHost::Name(name) => {
                    known.get(name).into_iter().flat_map(|seen| seen.keys().copied()).collect()
                }
            }
        };
        let destinations =
            destinations.iter().flat_map(|to| addresses(to).into_iter().map(|address| (address, to.port)));
        AllowedDestinations::Only(destinations.collect())
    }

    /// Returns the addresses of a name that the last lookups found, the newest first.
    pub(super) fn newest_addresses(&self, name: &str) -> Vec<Ipv4Addr> {
        let known = self.known.lock();
        let mut seen: Vec<(Ipv4Addr, Instant)> =
            known.get(name).into_iter().flatten().map(|(address, last)| (*address, *last)).collect();
        seen.sort_by_key(|(_, last)| std::cmp::Reverse(*last));
        seen.into_iter().map(|(address, _)| address).collect()
    }

    /// Looks up all names in use, and discards the others.
    pub(super) async fn refresh(&self, in_use: &[Egress]) {
        let wanted: BTreeSet<&str> = in_use.iter().flat_map(names).collect();
        self.known.lock().retain(|name, _| wanted.contains(name.as_str()));
        self.look_up(wanted.into_iter()).await;
    }

    async fn look_up<'a>(&self, names: impl Iterator<Item = &'a str>) {
        let names: Vec<&str> = names.collect();
        for batch in names.chunks(MAX_CONCURRENT_LOOKUPS) {
            let found = join_all(batch.iter().map(|name| addresses_of(name))).await;
            let now = Instant::now();
            let mut known = self.known.lock();
            for (name, found) in batch.iter().zip(found) {
                merge(known.entry((*name).to_owned()).or_default(), &found.unwrap_or_default(), now);
            }
        }
    }
}

/// Returns the names of an allow list.
pub(super) fn names(egress: &Egress) -> impl Iterator<Item = &str> {
    let destinations = match egress {
        Egress::Only(destinations) => destinations.as_slice(),
        Egress::Sealed | Egress::Internet => &[],
    };
    destinations.iter().filter_map(|destination| match &destination.host {
        DestinationHost::Name(name) => Some(name.as_str()),
        DestinationHost::Address(_) => None,
    })
}

/// Looks up the addresses of a name; `None` if it cannot be looked up now. Only public ones count, because the owner of a
/// name can point it anywhere.
pub(super) async fn addresses_of(name: &str) -> Option<Vec<Ipv4Addr>> {
    let found = match timeout(LOOKUP_DEADLINE, lookup_host((name, 0))).await {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => {
            tracing::warn!(name, %error, "failed to resolve name");
            return None;
        }
        Err(_) => {
            tracing::warn!(name, "failed to resolve name in time");
            return None;
        }
    };
    let ipv4 = |address: IpAddr| if let IpAddr::V4(address) = address { Some(address) } else { None };
    let found = found.filter_map(|found| ipv4(found.ip()));
    Some(found.filter(|address| is_public(*address)).take(MAX_ADDRESSES_PER_NAME).collect())
}

/// Adds the addresses that were just found, and drops those that were not seen for too long.
pub(super) fn merge(seen: &mut LastSeen, found: &[Ipv4Addr], now: Instant) {
    seen.extend(found.iter().map(|address| (*address, now)));
    seen.retain(|_, last| now.duration_since(*last) < ADDRESS_TTL);
    while seen.len() > MAX_ADDRESSES_PER_NAME {
        let oldest = seen.iter().min_by_key(|(_, last)| **last).map(|(address, _)| *address);
        let Some(oldest) = oldest else { return };
        seen.remove(&oldest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(198, 51, 100, last)
    }

    #[test]
    fn an_address_stays_for_a_while_after_it_was_last_seen() {
        let (mut seen, begun) = (LastSeen::new(), Instant::now());
        merge(&mut seen, &[address(1), address(2)], begun);
        merge(&mut seen, &[address(2), address(3)], begun + ADDRESS_TTL / 2);
        assert_eq!(seen.len(), 3);
        merge(&mut seen, &[], begun + ADDRESS_TTL);
        assert_eq!(seen.into_keys().collect::<Vec<_>>(), [address(2), address(3)]);
    }

    #[test]
    fn a_name_with_ever_new_addresses_keeps_the_newest() {
        let (mut seen, begun) = (LastSeen::new(), Instant::now());
        for last in 0..=255 {
            merge(&mut seen, &[address(last)], begun + Duration::from_millis(u64::from(last)));
        }
        assert_eq!(seen.len(), MAX_ADDRESSES_PER_NAME);
        assert!(seen.contains_key(&address(255)) && !seen.contains_key(&address(0)));
    }

    #[tokio::test]
    async fn a_name_with_a_local_address_opens_nothing() {
        let egress = Egress::Only(vec!["localhost:80".parse().unwrap(), "198.51.100.1:81".parse().unwrap()]);
        let allowed = ResolvedNames::default().resolve(&egress).await;
        assert_eq!(allowed, AllowedDestinations::Only(BTreeSet::from([(address(1), 81)])));
    }
}
