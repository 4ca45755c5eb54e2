//! Which addresses are free. Pure: the present is an argument.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::time::Instant;

use crate::template::egress::{Ipv4Network, LINK_PREFIX};

/// How long an address is nobody's before it is another instance's: answers to the one before are under way no more,
/// and its connections are closed for good.
pub(crate) const REST: Duration = Duration::from_secs(60);

/// Two addresses, one for each end of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct AddressPair(pub(crate) u32);

impl AddressPair {
    /// The address of this host's end.
    pub(crate) fn of_host(self, range: &Ipv4Network) -> Ipv4Addr {
        range.at(2 * self.0)
    }

    /// The address of the instance's end.
    pub(crate) fn of_instance(self, range: &Ipv4Network) -> Ipv4Addr {
        range.at(2 * self.0 + 1)
    }

    /// The name of this host's end. There are at most 22 bits of slots, so that it has at most 14 of 15 characters.
    pub(crate) fn link(self, links: &str) -> String {
        format!("{links}{:x}", self.0)
    }
}

/// What the names of a node's links begin with: no two nodes of a host are likely to share it, and if they do, the
/// kernel refuses the second of a name and the next slot is tried.
pub(crate) fn links_of(node: &str) -> String {
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

/// All slots of a range.
#[derive(Debug)]
pub(crate) struct AddressPool {
    /// How many there are. The first of the range is left out: its address is the network's own.
    count: u32,
    next: u32,
    /// Those in use, and those at rest with the time from which they are free.
    taken: HashMap<AddressPair, Option<Instant>>,
}

impl AddressPool {
    /// Begins at a place that anything may decide. If it is chance, nodes of one host that share a range seldom meet,
    /// and a server that starts anew seldom gives what was in use a moment ago.
    pub(crate) fn new(range: &Ipv4Network, chance: u32) -> Self {
        let count = (range.size() / 2) as u32;
        Self { count, next: chance % count, taken: HashMap::new() }
    }

    /// The one that was free for longest; `None` when all are in use or at rest.
    pub(crate) fn take(&mut self, now: Instant) -> Option<AddressPair> {
        self.taken.retain(|_, free| free.is_none_or(|free| free > now));
        for _ in 0..self.count {
            let slot = AddressPair(self.next);
            self.next = (self.next + 1) % self.count;
            if slot.0 != 0 && !self.taken.contains_key(&slot) {
                self.taken.insert(slot, None);
                return Some(slot);
            }
        }
        None
    }

    /// It is in use already.
    pub(crate) fn keep(&mut self, slot: AddressPair) {
        self.taken.insert(slot, None);
    }

    /// It is in use no more.
    pub(crate) fn give_back(&mut self, slot: AddressPair, now: Instant) {
        self.taken.insert(slot, Some(now + REST));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range() -> Ipv4Network {
        Ipv4Network::around("10.0.0.0".parse().unwrap(), 28)
    }

    #[test]
    fn a_slot_rests_before_it_is_given_again() {
        let mut slots = AddressPool::new(&range(), 5);
        let mut now = Instant::now();
        let all: Vec<AddressPair> = std::iter::from_fn(|| slots.take(now)).collect();
        assert_eq!(all.len(), 7);
        slots.give_back(all[3], now);
        now += REST / 2;
        assert_eq!(slots.take(now), None);
        now += REST / 2;
        assert_eq!(slots.take(now), Some(all[3]));
        assert_eq!(slots.take(now), None);
    }

    #[test]
    fn one_that_was_just_given_back_comes_last() {
        let mut slots = AddressPool::new(&range(), 5);
        let now = Instant::now();
        let first = slots.take(now).unwrap();
        slots.give_back(first, now);
        assert_ne!(slots.take(now + REST).unwrap(), first);
    }

    #[test]
    fn each_slot_has_two_addresses_and_a_name_that_the_kernel_takes() {
        let largest = Ipv4Network::around("10.0.0.0".parse().unwrap(), 9);
        let slot = AddressPair((largest.size() / 2 - 1) as u32);
        assert_eq!(slot.of_host(&largest).to_string(), "10.127.255.254");
        assert_eq!(slot.of_instance(&largest).to_string(), "10.127.255.255");
        let links = links_of("node-1");
        assert!(slot.link(&links).len() <= 15 && slot.link(&links).starts_with(LINK_PREFIX));
        assert_ne!(links, links_of("node-2"));
    }
}
