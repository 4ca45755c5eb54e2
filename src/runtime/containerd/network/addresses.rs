//! Allocates addresses to links. Pure: the current time is an argument.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::time::Instant;

use crate::template::egress::{Ipv4Network, LINK_PREFIX};

/// How long an address is unused before it goes to another instance: by then no answers to the previous instance are in
/// flight any more, and its connections are closed.
pub(super) const ADDRESS_COOLDOWN: Duration = Duration::from_secs(60);

/// Two neighbouring addresses, one for each end of a link, as their index in the range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct AddressPair(pub(crate) u32);

impl AddressPair {
    /// Returns the address of this host's end.
    pub(super) fn of_host(self, range: &Ipv4Network) -> Ipv4Addr {
        range.address_at(2 * self.0)
    }

    /// Returns the address of the instance's end.
    pub(crate) fn of_instance(self, range: &Ipv4Network) -> Ipv4Addr {
        range.address_at(2 * self.0 + 1)
    }

    /// Returns the name of this host's end. An index has at most 22 bits, so that the name has at most 14 of the 15
    /// characters that the kernel allows.
    pub(super) fn link_name(self, links: &str) -> String {
        format!("{links}{:x}", self.0)
    }
}

/// Returns the prefix of the names of a node's links. Two nodes of a host are unlikely to share it. If they do, the
/// kernel refuses the second link of a name, and the next pair is tried.
pub(super) fn link_prefix(node: &str) -> String {
    const LETTERS: &[u8; 16] = b"ghjkmnpqrstvwxyz";
    let mut hash = fnv1a(node);
    let mut name = LINK_PREFIX.to_owned();
    for _ in 0..5 {
        name.push(char::from(LETTERS[(hash & 15) as usize]));
        hash >>= 4;
    }
    name
}

fn fnv1a(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// All address pairs of a range.
#[derive(Debug)]
pub(super) struct AddressPool {
    /// Number of pairs. The first one is left out: its address is that of the network itself.
    count: u32,
    next: u32,
    /// The pairs in use, and those in their cooldown with the time at which it ends.
    used: HashMap<AddressPair, Option<Instant>>,
}

impl AddressPool {
    /// Returns a pool that begins at a random pair: then nodes of one host that share a range seldom try the same pair,
    /// and a restarted server seldom assigns a pair that was in use a moment ago.
    pub(crate) fn new(range: &Ipv4Network, random: u32) -> Self {
        let count = (range.address_count() / 2) as u32;
        Self { count, next: random % count, used: HashMap::new() }
    }

    /// Allocates the pair that was free for longest; `None` if all are in use or in their cooldown.
    pub(super) fn allocate(&mut self, now: Instant) -> Option<AddressPair> {
        self.used.retain(|_, free| free.is_none_or(|free| free > now));
        for _ in 0..self.count {
            let pair = AddressPair(self.next);
            self.next = (self.next + 1) % self.count;
            if pair.0 != 0 && !self.used.contains_key(&pair) {
                self.used.insert(pair, None);
                return Some(pair);
            }
        }
        None
    }

    /// Marks a pair as in use.
    pub(crate) fn mark_used(&mut self, pair: AddressPair) {
        self.used.insert(pair, None);
    }

    /// Releases a pair, which begins its cooldown.
    pub(crate) fn release(&mut self, pair: AddressPair, now: Instant) {
        self.used.insert(pair, Some(now + ADDRESS_COOLDOWN));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range() -> Ipv4Network {
        Ipv4Network::containing("10.0.0.0".parse().unwrap(), 28)
    }

    #[test]
    fn a_released_pair_is_not_allocated_before_the_end_of_its_cooldown() {
        let mut pool = AddressPool::new(&range(), 5);
        let mut now = Instant::now();
        let all: Vec<AddressPair> = std::iter::from_fn(|| pool.allocate(now)).collect();
        assert_eq!(all.len(), 7);
        pool.release(all[3], now);
        now += ADDRESS_COOLDOWN / 2;
        assert_eq!(pool.allocate(now), None);
        now += ADDRESS_COOLDOWN / 2;
        assert_eq!(pool.allocate(now), Some(all[3]));
        assert_eq!(pool.allocate(now), None);
    }

    #[test]
    fn a_pair_that_was_just_released_comes_last() {
        let mut pool = AddressPool::new(&range(), 5);
        let now = Instant::now();
        let first = pool.allocate(now).unwrap();
        pool.release(first, now);
        assert_ne!(pool.allocate(now + ADDRESS_COOLDOWN).unwrap(), first);
    }

    #[test]
    fn each_pair_has_two_addresses_and_a_link_name_that_the_kernel_accepts() {
        let largest = Ipv4Network::containing("10.0.0.0".parse().unwrap(), 9);
        let pair = AddressPair((largest.address_count() / 2 - 1) as u32);
        assert_eq!(pair.of_host(&largest).to_string(), "10.127.255.254");
        assert_eq!(pair.of_instance(&largest).to_string(), "10.127.255.255");
        let links = link_prefix("node-1");
        assert!(pair.link_name(&links).len() <= 15 && pair.link_name(&links).starts_with(LINK_PREFIX));
        assert_ne!(links, link_prefix("node-2"));
    }
}
