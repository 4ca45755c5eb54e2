//! How much one client may use at a time: requests in flight, or bytes.

use std::collections::HashMap;
use std::collections::hash_map::{Entry, RandomState};
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;

use super::client_network;
use crate::config::TrustedProxies;

/// Number of maps. Requests of different clients seldom wait for each other's lock.
const SHARDS: usize = 32;

/// Counts what is in use by client: an IPv4 address, or the /64 of an IPv6 address. What is counted, requests or bytes,
/// the owner decides. All clones share the counts.
///
/// A trusted proxy that names no client is not bounded: all visitors come through it.
#[derive(Debug, Clone)]
pub struct ClientPermits(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    max: usize,
    trusted: TrustedProxies,
    hasher: RandomState,
    shards: [Mutex<HashMap<IpAddr, usize>>; SHARDS],
}

/// What one request uses. It counts until it is dropped.
#[derive(Debug)]
pub struct ClientPermit(Option<(Arc<Inner>, IpAddr, usize)>);

impl ClientPermits {
    /// Allows each client, but the proxies in `trusted`, at most `max` at a time.
    pub fn new(max: usize, trusted: TrustedProxies) -> Self {
        let shards = std::array::from_fn(|_| Mutex::default());
        Self(Arc::new(Inner { max, trusted, hasher: RandomState::new(), shards }))
    }

    /// Returns separate counts with another maximum, for the same clients.
    pub fn with_max(&self, max: usize) -> Self {
        Self::new(max, self.0.trusted.clone())
    }

    /// Counts `amount` for the client at this address until the permit is dropped. Returns `None` if it has less left.
    pub fn try_take(&self, client: IpAddr, amount: usize) -> Option<ClientPermit> {
        let inner = &self.0;
        if amount == 0 || inner.trusted.contains(client) {
            return Some(ClientPermit(None));
        }
        let network = client_network(client);
        let mut counts = inner.shard(network).lock();
        let used = counts.get(&network).copied().unwrap_or(0);
        let more = used.checked_add(amount).filter(|more| *more <= inner.max)?;
        counts.insert(network, more);
        drop(counts);
        Some(ClientPermit(Some((inner.clone(), network, amount))))
    }
}

impl Inner {
    fn shard(&self, network: IpAddr) -> &Mutex<HashMap<IpAddr, usize>> {
        &self.shards[self.hasher.hash_one(network) as usize % SHARDS]
    }
}

impl Drop for ClientPermit {
    fn drop(&mut self) {
        let Some((inner, network, amount)) = self.0.take() else { return };
        let mut counts = inner.shard(network).lock();
        if let Entry::Occupied(mut entry) = counts.entry(network) {
            *entry.get_mut() -= amount;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(address: &str) -> IpAddr {
        address.parse().unwrap()
    }

    fn permits(max: usize) -> ClientPermits {
        ClientPermits::new(max, TrustedProxies(vec!["127.0.0.1".parse().unwrap()]))
    }

    #[test]
    fn each_client_has_its_own_permits_and_gets_them_back() {
        let permits = permits(2);
        let held: Vec<_> = (0..2).map(|_| permits.try_take(client("192.0.2.1"), 1).unwrap()).collect();
        assert!(permits.try_take(client("192.0.2.1"), 1).is_none());
        assert!(permits.try_take(client("192.0.2.2"), 1).is_some());
        drop(held);
        assert!(permits.try_take(client("192.0.2.1"), 1).is_some());
        assert!(permits.0.shards.iter().all(|shard| shard.lock().is_empty()), "no client is remembered");
    }

    #[test]
    fn amounts_add_up_to_the_maximum() {
        let permits = permits(10);
        let six = permits.try_take(client("192.0.2.1"), 6).unwrap();
        assert!(permits.try_take(client("192.0.2.1"), 5).is_none());
        assert!(permits.try_take(client("192.0.2.1"), usize::MAX).is_none());
        let _four = permits.try_take(client("192.0.2.1"), 4).unwrap();
        drop(six);
        assert!(permits.try_take(client("192.0.2.1"), 6).is_some());
        assert!(permits.try_take(client("192.0.2.2"), 0).is_some());
    }

    #[test]
    fn the_addresses_of_one_ipv6_network_are_one_client() {
        let permits = permits(1);
        let _held = permits.try_take(client("2001:db8::1"), 1).unwrap();
        assert!(permits.try_take(client("2001:db8::2"), 1).is_none());
        assert!(permits.try_take(client("2001:db8:0:1::1"), 1).is_some());
    }

    #[test]
    fn a_trusted_proxy_that_names_no_client_is_not_bounded() {
        let permits = permits(1);
        let held: Vec<_> = (0..9).map(|_| permits.try_take(client("127.0.0.1"), 1)).collect();
        assert!(held.iter().all(Option::is_some));
    }
}
