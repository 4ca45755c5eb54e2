//! Who is next: the ready records of one template, in the order in which they became ready.

use std::collections::{BTreeMap, HashMap};

use super::records::Slot;
use crate::instance::NodeId;

/// One queue a node, and a turn that counts over all of them.
#[derive(Default)]
pub(super) struct ReadyQueue {
    by_node: HashMap<NodeId, BTreeMap<u64, Slot>>,
    last_turn: u64,
}

impl ReadyQueue {
    /// Appends, and says which turn it is.
    pub(super) fn push(&mut self, node: &NodeId, slot: Slot) -> u64 {
        self.last_turn += 1;
        match self.by_node.get_mut(node) {
            Some(turns) => turns.insert(self.last_turn, slot),
            None => self.by_node.entry(node.clone()).or_default().insert(self.last_turn, slot),
        };
        self.last_turn
    }

    /// Takes one out, from whatever place.
    pub(super) fn remove(&mut self, node: &NodeId, turn: u64) {
        if let Some(turns) = self.by_node.get_mut(node) {
            turns.remove(&turn);
            // Nodes come and go; an empty queue must not stay for ever.
            if turns.is_empty() {
                self.by_node.remove(node);
            }
        }
    }

    /// The longest-ready of `node`.
    pub(super) fn next_of(&self, node: &NodeId) -> Option<Slot> {
        self.by_node.get(node).and_then(BTreeMap::first_key_value).map(|(_, slot)| *slot)
    }

    /// The longest-ready of all nodes that are fit.
    pub(super) fn next_of_any(&self, is_fit: impl Fn(&NodeId) -> bool) -> Option<Slot> {
        let fit = self.by_node.iter().filter(|(node, _)| is_fit(node));
        let first = fit.filter_map(|(_, turns)| turns.first_key_value()).min_by_key(|(turn, _)| **turn);
        first.map(|(_, slot)| *slot)
    }
}
