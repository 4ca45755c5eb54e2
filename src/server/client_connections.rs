//! Decides which peers may open a connection: a maximum for all of them, one for each client, and a few slots beyond for
//! programs on this host.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::instance::{Visitor, VisitorNetwork};
use crate::request::visitor_at;
use crate::telemetry::ConnectionRefusal;

/// Most slots beyond the maximum, for programs on this host.
pub(super) const MAX_LOCAL_SLOTS: usize = 16;

/// The most connections at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ConnectionMaxima {
    /// Of all peers together. Programs on this host that connect to `localhost` have an eighth more, up to
    /// [`MAX_LOCAL_SLOTS`]: an operator reads `/health` and `/metrics` while other hosts hold all connections.
    pub(super) total: usize,
    /// Of each client: an IPv4 address, or the /64 of an IPv6 address. All clients of a /56 together have 4 times, those
    /// of a /48 16 times as many.
    pub(super) per_client: usize,
}

/// The open connections.
#[derive(Debug)]
pub(super) struct ConnectionSlots {
    maxima: ConnectionMaxima,
    open: Mutex<OpenConnections>,
}

#[derive(Debug, Default)]
struct OpenConnections {
    /// Of all peers.
    total: usize,
    /// Of each network with at least one counted connection.
    by_network: HashMap<String, usize>,
}

/// One open connection. Dropping it frees its slot.
#[derive(Debug)]
pub(super) struct ConnectionSlot {
    slots: Arc<ConnectionSlots>,
    /// The networks in which the connection counts; `None` for a peer that is no single client.
    client: Option<Visitor>,
}

impl ConnectionSlots {
    pub(super) fn new(maxima: ConnectionMaxima) -> Arc<Self> {
        Arc::new(Self { maxima, open: Mutex::default() })
    }

    /// Takes a slot for a connection of `peer`. `is_proxy` says that the peer connects for many clients: then only the
    /// maximum of all peers counts.
    ///
    /// # Errors
    /// The connection is beyond a maximum.
    pub(super) fn take(
        self: &Arc<Self>,
        peer: IpAddr,
        is_proxy: bool,
    ) -> Result<ConnectionSlot, ConnectionRefusal> {
        let address = peer.to_canonical();
        let client = (!is_proxy).then(|| visitor_at(address));
        let mut open = self.open.lock();
        if open.total >= self.maxima.total_for(address) {
            return Err(ConnectionRefusal::Server);
        }
        if let Some(client) = &client {
            let is_full = |VisitorNetwork { name, factor }: VisitorNetwork<'_>| {
                let maximum = self.maxima.per_client.saturating_mul(factor as usize);
                open.by_network.get(name).is_some_and(|count| *count >= maximum)
            };
            if client.networks().any(is_full) {
                return Err(ConnectionRefusal::Client);
            }
            for network in client.networks() {
                *open.by_network.entry(network.name.to_owned()).or_default() += 1;
            }
        }
        open.total += 1;
        Ok(ConnectionSlot { slots: self.clone(), client })
    }
}

impl ConnectionMaxima {
    fn total_for(self, address: IpAddr) -> usize {
        // Not all of 127.0.0.0/8: a program that means to reach this host connects to one of these.
        let is_localhost = address == Ipv4Addr::LOCALHOST || address == Ipv6Addr::LOCALHOST;
        let local = if is_localhost { (self.total / 8).min(MAX_LOCAL_SLOTS) } else { 0 };
        self.total.saturating_add(local)
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        let mut open = self.slots.open.lock();
        open.total -= 1;
        for network in self.client.iter().flat_map(Visitor::networks) {
            if let Some(count) = open.by_network.get_mut(network.name) {
                *count -= 1;
                if *count == 0 {
                    open.by_network.remove(network.name);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots(total: usize, per_client: usize) -> Arc<ConnectionSlots> {
        ConnectionSlots::new(ConnectionMaxima { total, per_client })
    }

    fn take(slots: &Arc<ConnectionSlots>, peer: &str) -> Result<ConnectionSlot, ConnectionRefusal> {
        slots.take(peer.parse().unwrap(), false)
    }

    /// Takes slots for one peer until one is refused.
    fn take_all(slots: &Arc<ConnectionSlots>, peer: &str) -> (Vec<ConnectionSlot>, ConnectionRefusal) {
        let mut taken = Vec::new();
        loop {
            match take(slots, peer) {
                Ok(slot) => taken.push(slot),
                Err(refusal) => return (taken, refusal),
            }
        }
    }

    #[test]
    fn one_client_cannot_take_the_slots_of_another() {
        let slots = slots(100, 3);
        let (taken, refusal) = take_all(&slots, "203.0.113.1");
        assert_eq!((taken.len(), refusal), (3, ConnectionRefusal::Client));
        // An IPv4-mapped address is the IPv4 address that it maps.
        assert_eq!(take(&slots, "::ffff:203.0.113.1").unwrap_err(), ConnectionRefusal::Client);
        assert!(take(&slots, "203.0.113.2").is_ok());
    }

    #[test]
    fn an_ipv6_client_counts_by_its_networks() {
        let slots = slots(10_000, 2);
        let (_taken, refusal) = take_all(&slots, "2001:db8::1");
        assert_eq!(refusal, ConnectionRefusal::Client);
        assert_eq!(take(&slots, "2001:db8::2").unwrap_err(), ConnectionRefusal::Client);
        assert!(take(&slots, "2001:db8:0:1::1").is_ok());
        // A client with a whole /48 has 16 times as many, not 65536 times.
        let mut site = Vec::new();
        for network in 0..=u16::MAX {
            site.extend(take(&slots, &format!("2001:db8:7:{network:x}::1")));
        }
        assert_eq!(site.len(), 32);
        let household = (0..=u8::MAX).filter_map(|n| take(&slots, &format!("2001:db8:8:{n:x}::1")).ok());
        assert_eq!(household.collect::<Vec<_>>().len(), 8);
    }

    #[test]
    fn a_peer_that_connects_for_many_clients_counts_in_the_total_only() {
        let slots = slots(5, 1);
        let proxy = "10.0.0.1".parse().unwrap();
        let taken: Vec<_> = (0..5).map(|_| slots.take(proxy, true).unwrap()).collect();
        assert_eq!(slots.take(proxy, true).unwrap_err(), ConnectionRefusal::Server);
        drop(taken);
        assert!(slots.take(proxy, true).is_ok());
    }

    #[test]
    fn programs_on_this_host_have_slots_beyond_the_maximum() {
        let slots = slots(200, 200);
        let (taken, refusal) = take_all(&slots, "127.66.0.1");
        assert_eq!((taken.len(), refusal), (200, ConnectionRefusal::Server));
        for peer in ["127.0.0.1", "::1"] {
            assert_eq!(take_all(&slots, peer).0.len(), MAX_LOCAL_SLOTS, "{peer}");
        }
        assert_eq!(take(&slots, "203.0.113.1").unwrap_err(), ConnectionRefusal::Server);
    }

    #[test]
    fn every_slot_returns_and_no_network_stays_counted() {
        let slots = slots(50, 5);
        for _ in 0..3 {
            let peers = ["203.0.113.1", "2001:db8::1", "2001:db8:0:1::1", "127.0.0.1"];
            let taken: Vec<_> = peers.into_iter().map(|peer| take_all(&slots, peer)).collect();
            assert_eq!(slots.open.lock().total, 20);
            drop(taken);
            assert_eq!(slots.open.lock().total, 0);
            assert!(slots.open.lock().by_network.is_empty());
        }
    }
}
