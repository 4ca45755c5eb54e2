//! What the names of allow lists lead to. They are looked up by this host, again and again, and an address stays allowed
//! for a while after its last sight, because large sites answer with a few of theirs at a time.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::net::lookup_host;
use tokio::time::{Instant, timeout};

use super::firewall_rules::OutboundInterface;
use crate::template::Egress;
use crate::template::egress::{Destination, Host, is_public};

/// How long an address is allowed after it was last seen.
const KEEP: Duration = Duration::from_secs(600);

/// Longest time of a look-up.
const PATIENCE: Duration = Duration::from_secs(3);

/// Most look-ups at a time.
const AT_ONCE: usize = 8;

/// Most addresses of one name.
const MOST_ADDRESSES: usize = 64;

/// Addresses, and when each was last seen.
type Seen = BTreeMap<Ipv4Addr, Instant>;

/// All that was ever looked up and is still in use.
#[derive(Debug, Default)]
pub(crate) struct ResolvedNames {
    known: Mutex<HashMap<String, Seen>>,
}

impl ResolvedNames {
    /// What a template's instances may reach now. Names that nobody has asked for yet are looked up, which takes
    /// seconds at most; one that leads nowhere is no error, it may later.
    pub(crate) async fn way(&self, egress: &Egress) -> OutboundInterface {
        let new: BTreeSet<&str> = {
            let known = self.known.lock();
            names(egress).filter(|name| !known.contains_key(*name)).collect()
        };
        self.look_up(new.into_iter()).await;
        self.known_way(egress)
    }

    /// The same without a look-up.
    pub(crate) fn known_way(&self, egress: &Egress) -> OutboundInterface {
        let Egress::Only(places) = egress else { return OutboundInterface::Open };
        let known = self.known.lock();
        let addresses = |destination: &Destination| -> Vec<Ipv4Addr> {
            match &destination.host {
                Host::Address(address) => vec![*address],
                Host::Name(name) => {
                    known.get(name).into_iter().flat_map(|seen| seen.keys().copied()).collect()
                }
            }
        };
        let places = places.iter().flat_map(|to| addresses(to).into_iter().map(|address| (address, to.port)));
        OutboundInterface::Only { places: places.collect(), asks: names(egress).next().is_some() }
    }

    /// Looks all names up that are in use, and forgets the others.
    pub(crate) async fn refresh(&self, in_use: &[Egress]) {
        let wanted: BTreeSet<&str> = in_use.iter().flat_map(names).collect();
        self.known.lock().retain(|name, _| wanted.contains(name.as_str()));
        self.look_up(wanted.into_iter()).await;
    }

    async fn look_up<'a>(&self, names: impl Iterator<Item = &'a str>) {
        let names: Vec<&str> = names.collect();
        for some in names.chunks(AT_ONCE) {
            let found = join_all(some.iter().map(|name| addresses_of(name))).await;
            let now = Instant::now();
            let mut known = self.known.lock();
            for (name, found) in some.iter().zip(found) {
                merge(known.entry((*name).to_owned()).or_default(), &found, now);
            }
        }
    }
}

/// The names of a list.
fn names(egress: &Egress) -> impl Iterator<Item = &str> {
    let places = match egress {
        Egress::Only(places) => places.as_slice(),
        Egress::Sealed | Egress::Internet => &[],
    };
    places.iter().filter_map(|place| match &place.host {
        Host::Name(name) => Some(name.as_str()),
        Host::Address(_) => None,
    })
}

/// The addresses of a name that instances may be let to; whoever owns a name can have it lead anywhere.
async fn addresses_of(name: &str) -> Vec<Ipv4Addr> {
    let found = match timeout(PATIENCE, lookup_host((name, 0))).await {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => {
            tracing::warn!(name, %error, "a name that instances may reach leads nowhere");
            return Vec::new();
        }
        Err(_) => {
            tracing::warn!(name, "a name that instances may reach was not found in time");
            return Vec::new();
        }
    };
    let of_four = |address: IpAddr| if let IpAddr::V4(address) = address { Some(address) } else { None };
    let found = found.filter_map(|found| of_four(found.ip()));
    found.filter(|address| is_public(*address)).take(MOST_ADDRESSES).collect()
}

/// Adds what was found just now, and drops what was not for too long.
fn merge(seen: &mut Seen, found: &[Ipv4Addr], now: Instant) {
    seen.extend(found.iter().map(|address| (*address, now)));
    seen.retain(|_, last| now.duration_since(*last) < KEEP);
    while seen.len() > MOST_ADDRESSES {
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
        let (mut seen, begun) = (Seen::new(), Instant::now());
        merge(&mut seen, &[address(1), address(2)], begun);
        merge(&mut seen, &[address(2), address(3)], begun + KEEP / 2);
        assert_eq!(seen.len(), 3);
        merge(&mut seen, &[], begun + KEEP);
        assert_eq!(seen.into_keys().collect::<Vec<_>>(), [address(2), address(3)]);
    }

    #[test]
    fn a_name_with_no_end_of_addresses_keeps_the_newest() {
        let (mut seen, begun) = (Seen::new(), Instant::now());
        for last in 0..=255 {
            merge(&mut seen, &[address(last)], begun + Duration::from_millis(u64::from(last)));
        }
        assert_eq!(seen.len(), MOST_ADDRESSES);
        assert!(seen.contains_key(&address(255)) && !seen.contains_key(&address(0)));
    }

    #[tokio::test]
    async fn a_name_that_leads_home_opens_nothing() {
        let egress = Egress::Only(vec!["localhost:80".parse().unwrap(), "198.51.100.1:81".parse().unwrap()]);
        let way = ResolvedNames::default().way(&egress).await;
        assert_eq!(way, OutboundInterface::Only { places: BTreeSet::from([(address(1), 81)]), asks: true });
    }
}
