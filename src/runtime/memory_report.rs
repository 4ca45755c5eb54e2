//! What instances take of the host's memory. All numbers are bytes.

use std::iter::Sum;

use crate::instance::InstanceId;

/// What one instance takes, or several in sum.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryUse {
    /// Of its processes' memory, what is no file's and nobody else's: what a copy of a checkpoint has changed since.
    pub private: u64,
    /// Of its processes' memory, their share: what several have counts for each in part, so that the sum over all
    /// processes of the host is what they have in all.
    pub proportional: u64,
    /// What would be free without it: its private memory, what it has written to its disk, which is in memory, and what
    /// the kernel keeps for it. Not what the kernel would give back anyway, such as files that it has read.
    pub charged: u64,
}

/// What all instances of a runtime took at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryReport {
    /// Those that have processes.
    pub instances: Vec<(InstanceId, MemoryUse)>,
    /// By template, what its copies have in common, once for all of them.
    pub shared: Vec<(String, u64)>,
    /// What the host has.
    pub host: HostMemory,
}

/// The memory of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostMemory {
    /// All of it.
    pub total: u64,
    /// What could be used without anybody having to give up something.
    pub available: u64,
}

impl Sum for MemoryUse {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, one| Self {
            private: sum.private.saturating_add(one.private),
            proportional: sum.proportional.saturating_add(one.proportional),
            charged: sum.charged.saturating_add(one.charged),
        })
    }
}
