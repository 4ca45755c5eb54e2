//! The cases: groups of figures that use the same processes.

mod acquire;
mod baseline;
mod compare;
mod memory;
mod proxied;
mod refill;
mod restore;
mod scale;
mod valkey;

use std::path::Path;

use crate::bench::Bench;
use crate::failure::Failure;
use crate::report::Row;

/// A group of figures that use the same processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Case {
    /// Acquire: how many per second, and how long one takes at half of that rate
    Acquire,
    /// Through the proxy: how long a request to the sample app takes
    ProxiedTime,
    /// Through the proxy: how many requests per second to a fixed upstream
    ProxiedThroughput,
    /// Both with 100,000 assigned instances, against 10
    #[value(name = "many")]
    Scale,
    /// Containers: how long a restore, a cold start, a refill and a release take; skipped without containerd
    Restore,
    /// Containers: how much memory an instance takes, and that its size costs no time; skipped without containerd
    Memory,
    /// Acquires and routes with Valkey as the store; skipped without Valkey
    Valkey,
}

impl Case {
    /// Measures how the server compares in this case with one of an earlier build.
    pub(crate) fn compare(self, bench: &Bench, earlier: &Path) -> Result<Vec<Row>, Failure> {
        compare::measure(bench, earlier, self)
    }

    /// Whether two builds can be compared in this case.
    pub(crate) fn is_comparable(self) -> bool {
        matches!(self, Self::Acquire | Self::ProxiedThroughput | Self::Restore)
    }

    /// Measures the case.
    pub(crate) fn measure(self, bench: &Bench) -> Result<Vec<Row>, Failure> {
        match self {
            Self::Acquire => acquire::measure(bench),
            Self::ProxiedTime => proxied::time(bench),
            Self::ProxiedThroughput => proxied::throughput(bench),
            Self::Scale => scale::measure(bench),
            Self::Restore => restore::measure(bench),
            Self::Memory => memory::measure(bench),
            Self::Valkey => valkey::measure(bench),
        }
    }
}
