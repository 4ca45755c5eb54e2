//! How many instances of a template a node keeps.

use std::time::Duration;

/// How many instances of a template one server keeps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PoolSizes {
    /// Ready instances wanted.
    pub target: usize,
    /// Fewer ready than this is a warning.
    pub min: usize,
    /// Most instances in all living states.
    pub max: usize,
    /// Whether there may be fewer than that where the host's memory has no room for them. Containers only.
    pub by_memory: bool,
    /// Fewer ready than `target` times this starts a refill at once.
    pub replenish_threshold: f64,
    /// Otherwise a refill starts this often.
    pub replenish_interval: Duration,
    /// Most instances made at the same time.
    pub concurrency: usize,
}

impl Eq for PoolSizes {}
