//! The cases: groups of figures that use the same processes.

mod acquire;
mod baseline;
mod compare;
mod engines;
mod http2;
mod idle;
mod memory;
mod peers;
mod proxied;
mod refill;
mod restore;
mod scale;
mod stall;
mod transfer;
mod valkey;

use std::path::Path;

use clap::ValueEnum as _;

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
    /// Through the proxy, beside nginx, HAProxy, Caddy and Traefik; each is skipped where it is not installed
    Peers,
    /// Through the proxy over TLS with HTTP/2, beside nginx and HAProxy
    Http2,
    /// Through the proxy: an upload and a download of 1 GiB, beside nginx and HAProxy
    Transfer,
    /// Through the proxy: what a client costs that reads nothing of a large response, beside nginx
    Stall,
    /// What a server with 10,000 routes and 20 ready instances uses while nothing happens
    Idle,
    /// Both with 100,000 assigned instances, against 10
    #[value(name = "many")]
    Scale,
    /// Containers: how long a restore, a cold start, a refill and a release take; skipped without containerd
    Restore,
    /// Containers: how a refill affects pages of other instances; skipped without containerd
    Refill,
    /// Containers: how much memory an instance takes, and that its size costs no time; skipped without containerd
    Memory,
    /// Docker and Podman: how long a start and a refill take, beside the engine alone; skipped where they do not run
    Engines,
    /// Acquires and routes with Valkey as the store; skipped without Valkey
    Valkey,
}

impl Case {
    /// Measures how the server compares in this case with one of an earlier build.
    pub(crate) fn compare(self, bench: &Bench, earlier: &Path) -> Result<Vec<Row>, Failure> {
        compare::measure(bench, earlier, self)
    }

    /// Whether it needs the stack: containerd, or the programs of Valkey.
    pub(crate) fn needs_stack(self) -> bool {
        matches!(self, Self::Restore | Self::Refill | Self::Memory | Self::Engines | Self::Valkey)
    }

    /// Returns its name on the command line.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
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
            Self::Peers => peers::measure(bench),
            Self::Http2 => http2::measure(bench),
            Self::Transfer => transfer::measure(bench),
            Self::Stall => stall::measure(bench),
            Self::Idle => idle::measure(bench),
            Self::Scale => scale::measure(bench),
            Self::Restore => restore::measure(bench),
            Self::Refill => refill::measure(bench),
            Self::Memory => memory::measure(bench),
            Self::Engines => engines::measure(bench),
            Self::Valkey => valkey::measure(bench),
        }
    }
}
