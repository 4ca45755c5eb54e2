//! The number of instances in each state.

/// How many instances of a template there are in each living state, on one node or over all. One whose deadline has
/// passed counts as assigned until it is swept: what it uses is still in use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Being made.
    pub warming: usize,
    /// Waiting for a visitor.
    pub ready: usize,
    /// In a visitor's hands.
    pub assigned: usize,
}
