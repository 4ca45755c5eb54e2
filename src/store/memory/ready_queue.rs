//! The queue of ready instances of one template, in the order in which they became ready.

use std::collections::{BTreeMap, HashMap};

use super::records::{QueuePosition, Slot};
use crate::instance::NodeId;

/// The end of the queue at which a record is added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum QueueEnd {
    Front,
    Back,
}

/// One queue for each node, with positions that count over all of them.
#[derive(Default)]
pub(super) struct ReadyQueue {
    by_node: HashMap<NodeId, BTreeMap<QueuePosition, Slot>>,
    /// The position given last at the front.
    front: QueuePosition,
    /// The position given last at the back.
    back: QueuePosition,
}

impl ReadyQueue {
    /// Adds a record, and returns its position.
    pub(super) fn push(&mut self, node: &NodeId, slot: Slot, end: QueueEnd) -> QueuePosition {
        let position = match end {
            QueueEnd::Front => {
                self.front -= 1;
                self.front
            }
            QueueEnd::Back => {
                self.back += 1;
                self.back
            }
        };
        match self.by_node.get_mut(node) {
            Some(queue) => queue.insert(position, slot),
            None => self.by_node.entry(node.clone()).or_default().insert(position, slot),
        };
        position
    }

    /// Removes the record at a position.
    pub(super) fn remove(&mut self, node: &NodeId, position: QueuePosition) {
        if let Some(queue) = self.by_node.get_mut(node) {
            queue.remove(&position);
            // Nodes come and go; an empty queue must not stay for ever.
            if queue.is_empty() {
                self.by_node.remove(node);
            }
        }
    }

    /// Returns the longest-ready record of `node`.
    pub(super) fn first_of(&self, node: &NodeId) -> Option<Slot> {
        self.by_node.get(node).and_then(BTreeMap::first_key_value).map(|(_, slot)| *slot)
    }

    /// Returns the longest-ready record of all claimable nodes.
    pub(super) fn first_of_any(&self, is_claimable: impl Fn(&NodeId) -> bool) -> Option<Slot> {
        let claimable = self.by_node.iter().filter(|(node, _)| is_claimable(node));
        let first =
            claimable.filter_map(|(_, queue)| queue.first_key_value()).min_by_key(|(position, _)| **position);
        first.map(|(_, slot)| *slot)
    }
}
