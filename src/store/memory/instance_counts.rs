//! How many instances of one template are in each state.

use std::collections::HashMap;

use crate::instance::{NodeId, State, StateCounts};

/// The counts of all nodes together, and of each node that has instances.
#[derive(Default)]
pub(super) struct InstanceCounts {
    all: StateCounts,
    by_node: HashMap<NodeId, StateCounts>,
}

impl InstanceCounts {
    /// Returns the counts of one node, or of all nodes.
    pub(super) fn of(&self, node: Option<&NodeId>) -> StateCounts {
        match node {
            None => self.all,
            Some(node) => self.by_node.get(node).copied().unwrap_or_default(),
        }
    }

    /// Changes the count of a node's instances in a state.
    pub(super) fn change(&mut self, node: &NodeId, state: &State, change: impl Fn(&mut usize)) {
        let apply = |counts: &mut StateCounts| match state {
            State::Warming => change(&mut counts.warming),
            State::Ready { .. } => change(&mut counts.ready),
            State::Assigned { .. } => change(&mut counts.assigned),
            State::Expired { .. } => {}
        };
        apply(&mut self.all);
        let of_node = self.by_node.entry(node.clone()).or_default();
        apply(of_node);
        // Nodes come and go; counts of zero must not stay for ever.
        if *of_node == StateCounts::default() {
            self.by_node.remove(node);
        }
    }
}
