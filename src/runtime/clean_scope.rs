//! Whose things `clean` removes from a host.

use crate::instance::NodeId;

/// The nodes of which everything is removed from a host. Their servers must not run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CleanScope {
    /// These nodes, and no other.
    Nodes(Vec<NodeId>),
    /// Every node, also those whose state folder is elsewhere or gone.
    All,
}

impl CleanScope {
    /// Returns whether what belongs to the node of this name is removed.
    pub fn contains(&self, node: &str) -> bool {
        match self {
            Self::Nodes(nodes) => nodes.iter().any(|one| one.as_str() == node),
            Self::All => true,
        }
    }

    /// Returns what to list one after another: each of the nodes, or `None` once, which stands for every node.
    pub(in crate::runtime) fn filters(&self) -> Vec<Option<&NodeId>> {
        match self {
            Self::Nodes(nodes) => nodes.iter().map(Some).collect(),
            Self::All => vec![None],
        }
    }
}
