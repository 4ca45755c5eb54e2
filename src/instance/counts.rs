//! The number of instances in each state.

/// How many instances of a template are in each living state, on one node or over all nodes. An instance whose deadline
/// has passed counts as assigned until it is swept, because its resources are still in use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StateCounts {
    /// Instances that are being made.
    pub warming: usize,
    /// Instances that wait for a visitor.
    pub ready: usize,
    /// Instances that a visitor has.
    pub assigned: usize,
}
