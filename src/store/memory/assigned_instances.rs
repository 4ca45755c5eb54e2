//! The assigned instances of one template by their visitors' networks, for the limit of instances at a time.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::records::Slot;
use crate::clock::Millis;
use crate::instance::Visitor;

/// The assigned instances of each network, in the order of their deadlines.
#[derive(Default)]
pub(super) struct AssignedInstances {
    by_network: HashMap<Arc<str>, BTreeSet<(Millis, Slot)>>,
}

impl AssignedInstances {
    /// Adds the instance in a slot to each of the visitor's networks.
    pub(super) fn insert(&mut self, visitor: &Visitor, deadline: Millis, slot: Slot) {
        for network in visitor.networks() {
            match self.by_network.get_mut(network.name) {
                Some(assigned) => assigned.insert((deadline, slot)),
                None => self.by_network.entry(network.name.into()).or_default().insert((deadline, slot)),
            };
        }
    }

    /// Removes the instance in a slot from each of the visitor's networks.
    pub(super) fn remove(&mut self, visitor: &Visitor, deadline: Millis, slot: Slot) {
        for network in visitor.networks() {
            if let Some(assigned) = self.by_network.get_mut(network.name) {
                assigned.remove(&(deadline, slot));
                if assigned.is_empty() {
                    self.by_network.remove(network.name);
                }
            }
        }
    }

    /// Returns the time until so many of the visitor's instances have reached their deadlines that the visitor may have
    /// one more; `None` if that is now. An instance whose deadline has passed does not count, swept or not.
    pub(super) fn wait(&self, visitor: &Visitor, limit: u32, now: Millis) -> Option<Duration> {
        if limit == 0 {
            return None;
        }
        let waits = visitor.networks().filter_map(|network| {
            let assigned = self.by_network.get(network.name)?;
            let limit = limit.saturating_mul(network.factor) as usize;
            // The usual case, in constant time: a network may have many instances under a high limit.
            if assigned.len() < limit {
                return None;
            }
            let overdue = assigned.range(..(Millis(now.0 + 1), Slot::MIN)).count();
            // The instance after whose deadline fewer than `limit` are left.
            let (deadline, _) = assigned.iter().nth(assigned.len() - limit)?;
            (assigned.len() - overdue >= limit).then(|| deadline.since(now))
        });
        waits.max()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.by_network.len()
    }
}
