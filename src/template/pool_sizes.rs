//! How many instances of a template a node keeps.

use std::time::Duration;

/// How many instances of a template one node keeps, and when it refills the pool.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PoolSizes {
    /// The number of ready instances that the pool refills to.
    pub target: usize,
    /// A warning is logged when fewer instances than this are ready.
    pub min: usize,
    /// The most instances in all living states together.
    pub max: usize,
    /// Whether the host's memory may limit the pool to fewer than `max`. Containers only.
    pub limited_by_memory: bool,
    /// A refill starts at once when fewer than `target` times this are ready. From 0 to 1.
    pub replenish_threshold: f64,
    /// The longest time between two refills.
    pub replenish_interval: Duration,
    /// The most instances that are made at the same time.
    pub concurrency: usize,
    /// How long an instance may wait for a visitor before another takes its place; `None` for any time.
    pub max_idle_age: Option<Duration>,
}

impl Eq for PoolSizes {}
