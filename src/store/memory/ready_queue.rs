//! Who is next: the ready records of one template, in the order in which they became ready.

use std::collections::{BTreeMap, HashMap};

use super::records::Slot;
use crate::instance::NodeId;

/// A place in the order; those of a queue's front count downwards from zero.
pub(super) type Turn = i64;

/// Where one steps into the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Front,
    Back,
}

/// One queue a node, and a turn that counts over all of them.
#[derive(Default)]
pub(super) struct ReadyQueue {
    by_node: HashMap<NodeId, BTreeMap<Turn, Slot>>,
    first_turn: Turn,
    last_turn: Turn,
}

impl ReadyQueue {
    /// Puts one in, and says which turn it is.
    pub(super) fn push(&mut self, node: &NodeId, slot: Slot, end: End) -> Turn {
        let turn = match end {
            End::Front => {
                self.first_turn -= 1;
                self.first_turn
            }
            End::Back => {
                self.last_turn += 1;
                self.last_turn
            }
        };
        match self.by_node.get_mut(node) {
            Some(turns) => turns.insert(turn, slot),
            None => self.by_node.entry(node.clone()).or_default().insert(turn, slot),
        };
        turn
    }

    /// Takes one out, from whatever place.
    pub(super) fn remove(&mut self, node: &NodeId, turn: Turn) {
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
