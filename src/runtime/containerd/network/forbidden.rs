//! The addresses that no instance reaches, whatever its template allows: of the store, the nodes and this host.

use std::collections::{BTreeSet, HashMap};
use std::net::Ipv4Addr;

use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use super::dns::{self, LastSeen};
use crate::template::egress::is_public;

/// Most hosts whose names are looked up. A cluster has a few dozen nodes.
const MAX_HOSTS: usize = 1024;

/// Hosts that no instance reaches, with their addresses. Only public addresses count here, since all others are closed
/// to instances anyway.
#[derive(Debug)]
pub(super) struct ForbiddenHosts {
    /// Names and addresses, which change at run time.
    hosts: watch::Receiver<BTreeSet<String>>,
    /// Names and addresses from the settings.
    configured: Vec<String>,
    /// The addresses of names. Those of a name that cannot be looked up now stay.
    known: Mutex<HashMap<String, LastSeen>>,
    current: Mutex<BTreeSet<Ipv4Addr>>,
}

impl ForbiddenHosts {
    pub(super) fn new(hosts: watch::Receiver<BTreeSet<String>>, configured: Vec<String>) -> Self {
        Self { hosts, configured, known: Mutex::default(), current: Mutex::default() }
    }

    /// Returns a receiver that notices when the hosts change.
    pub(super) fn watch(&self) -> watch::Receiver<BTreeSet<String>> {
        self.hosts.clone()
    }

    /// Returns the addresses by the last refresh.
    pub(super) fn addresses(&self) -> BTreeSet<Ipv4Addr> {
        self.current.lock().clone()
    }

    /// Looks up all names and the addresses of this host, which takes seconds at most.
    pub(super) async fn refresh(&self) {
        // An IPv6 address may have brackets.
        let bare = |host: &String| host.trim_matches(['[', ']']).to_owned();
        let hosts: BTreeSet<String> =
            self.hosts.borrow().iter().chain(&self.configured).take(MAX_HOSTS).map(bare).collect();
        let (addresses, names): (Vec<_>, Vec<_>) = hosts.into_iter().partition(|host| is_address(host));
        let own = super::links::own_addresses().await.unwrap_or_else(|error| {
            tracing::warn!(%error, "failed to list this host's addresses");
            Vec::new()
        });
        let found = join_all(names.iter().map(|name| dns::addresses_of(name))).await;
        let mut known = self.known.lock();
        known.retain(|name, _| names.contains(name));
        for (name, found) in names.into_iter().zip(found) {
            if let Some(found) = found {
                dns::merge(known.entry(name).or_default(), &found, Instant::now());
            }
        }
        let of_names = known.values().flat_map(|seen| seen.keys().copied());
        let addresses = addresses.iter().filter_map(|address| address.parse().ok());
        let all = of_names.chain(addresses).chain(own).filter(|address| is_public(*address));
        *self.current.lock() = all.collect();
    }
}

/// Returns whether a host is an address: then there is no name to look up. Instances have no IPv6.
fn is_address(host: &str) -> bool {
    host.parse::<std::net::IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn public_addresses_of_all_hosts_are_forbidden_and_follow_changes() {
        let hosts = |hosts: &[&str]| hosts.iter().map(|host| (*host).to_owned()).collect::<BTreeSet<_>>();
        let (sender, receiver) =
            watch::channel(hosts(&["198.51.100.7", "10.0.0.1", "[2001:db8::1]", "localhost"]));
        let forbidden = ForbiddenHosts::new(receiver, vec!["198.51.100.8".to_owned()]);
        let of = |last: u8| Ipv4Addr::new(198, 51, 100, last);
        forbidden.refresh().await;
        let found = forbidden.addresses();
        assert!(found.contains(&of(7)) && found.contains(&of(8)));
        assert!(found.iter().all(|address| is_public(*address)), "{found:?}");
        sender.send(hosts(&["198.51.100.9"])).unwrap();
        forbidden.refresh().await;
        let found = forbidden.addresses();
        assert!(!found.contains(&of(7)) && found.contains(&of(8)) && found.contains(&of(9)));
    }
}
