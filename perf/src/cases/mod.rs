//! What is measured.

mod acquire;
mod many;
mod memory;
mod proxied;
mod refill;
mod restore;
mod units;
mod valkey;

use std::net::SocketAddr;
use std::time::Duration;

use crate::Failure;
use crate::child::Running;
use crate::cores::Cores;
use crate::load::{self, Outcome, Traffic, Until};
use crate::report::Row;
use crate::server::{Programs, RuntimeKind, Wanted};
use crate::traffic::{Acquires, Releases};

/// A group of figures that share their processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Case {
    /// Acquire: how many a second, and how long one takes at half of that
    Acquire,
    /// Through the proxy: how long a request to the sample app takes
    ProxiedTime,
    /// Through the proxy: how many requests a second to a fixed upstream
    ProxiedThroughput,
    /// Both with 100,000 instances in visitors' hands, against 10
    Many,
    /// Containers: how long a restore, a cold start, a refill and a release take; skipped where nothing runs containers
    Restore,
    /// Containers: what memory a copy takes, and that its size costs no time; skipped where nothing runs containers
    Memory,
    /// Acquires and routes with Valkey as the store; skipped where there is no Valkey
    Valkey,
}

/// How much is measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Scale {
    /// One load at full speed.
    pub(crate) burst: Until,
    /// One load at a given rate.
    pub(crate) window: Duration,
    /// Pairs for bounds that are loose.
    pub(crate) pairs: usize,
    /// Pairs for bounds tighter than 10 %.
    pub(crate) tight_pairs: usize,
    /// Instances in the pool where none is made during the measurement.
    pub(crate) pool: usize,
    /// Instances acquired and released before it, see [`Bench::touch`].
    pub(crate) touched: usize,
    /// Hosts that the load through the proxy asks.
    pub(crate) hosts: usize,
    /// Instances in visitors' hands where there are many.
    pub(crate) many: usize,
    /// Most requests a second at a given rate.
    pub(crate) most_rate: f64,
}

impl Scale {
    /// What the verdicts are made of.
    pub(crate) const FULL: Self = Self {
        burst: Until::Passed(Duration::from_millis(500)),
        window: Duration::from_millis(600),
        pairs: 7,
        tight_pairs: 15,
        pool: 600_000,
        touched: 500_000,
        hosts: 10,
        many: 100_000,
        most_rate: f64::INFINITY,
    };
    /// A few seconds, to see that all of it still works. The figures mean little.
    pub(crate) const QUICK: Self = Self {
        burst: Until::Passed(Duration::from_millis(100)),
        window: Duration::from_millis(100),
        pairs: 1,
        tight_pairs: 1,
        pool: 60_000,
        touched: 20_000,
        hosts: 10,
        many: 1000,
        most_rate: f64::INFINITY,
    };
    /// The same where each instance is a process. The figures mean nothing.
    pub(crate) const QUICK_WITH_PROCESSES: Self = Self {
        burst: Until::Answered(2),
        window: Duration::from_millis(200),
        pairs: 1,
        tight_pairs: 1,
        pool: 4,
        touched: 2,
        hosts: 1,
        many: 2,
        most_rate: 10.0,
    };
}

/// What all cases share.
#[derive(Debug)]
pub(crate) struct Bench {
    /// How to start servers.
    pub(crate) programs: Programs,
    /// How much to measure.
    pub(crate) scale: Scale,
    /// Which core runs what.
    pub(crate) cores: Cores,
    /// The other end of `rtt`.
    pub(crate) echo: Running,
    /// The other end of `plain`.
    pub(crate) plain: Running,
}

impl Bench {
    /// Measures one case.
    pub(crate) fn run(&self, case: Case) -> Result<Vec<Row>, Failure> {
        match case {
            Case::Acquire => acquire::measure(self),
            Case::ProxiedTime => proxied::time(self),
            Case::ProxiedThroughput => proxied::throughput(self),
            Case::Many => many::measure(self),
            Case::Restore => restore::measure(self),
            Case::Memory => memory::measure(self),
            Case::Valkey => valkey::measure(self),
        }
    }

    /// A server with a full pool, on the core of what is measured.
    fn server(&self, ready: usize, app: SocketAddr) -> Result<Running, Failure> {
        let refilled = self.programs.runtime == RuntimeKind::Process;
        self.programs.server(Wanted { ready, refilled, app, valkey: None }, self.cores.server)
    }

    /// Puts `count` instances into visitors' hands and gives the ids of some of them, spread over all.
    fn acquire(&self, server: &Running, count: usize) -> Result<Vec<String>, Failure> {
        let mut traffic = Acquires::new((count / self.scale.hosts).max(1));
        load::closed(server.address, Until::Answered(count as u64), &mut traffic)?;
        traffic.ids.truncate(self.scale.hosts);
        Ok(traffic.ids)
    }

    /// Has the server use the memory that instances in visitors' hands take, and let go of it again. Memory that a
    /// virtual machine uses for the first time can cost more than everything else in an acquire, and tens of thousands
    /// of instances a second that nobody gives back are nobody's day.
    fn touch(&self, server: &Running) -> Result<(), Failure> {
        let until = Until::Answered(self.scale.touched as u64);
        let mut acquires = Acquires::new(1);
        load::closed(server.address, until, &mut acquires)?;
        load::closed(server.address, until, &mut Releases::new(acquires.ids))?;
        Ok(())
    }

    /// As many requests as can be had, and the processor time of each.
    fn burst(&self, target: &Running, traffic: &mut impl Traffic) -> Result<(Outcome, Duration), Failure> {
        let before = target.processor_time();
        let outcome = load::closed(target.address, self.scale.burst, traffic)?;
        let used = target.processor_time().saturating_sub(before);
        let each = used / u32::try_from(outcome.answered.max(1)).unwrap_or(u32::MAX);
        Ok((outcome, each))
    }

    /// A load at a rate.
    fn window(&self, target: SocketAddr, rate: f64, traffic: &mut impl Traffic) -> Result<Outcome, Failure> {
        load::open(target, rate.min(self.scale.most_rate), self.scale.window, traffic)
    }
}

/// Where those instances are.
fn hosts(ids: &[String]) -> Vec<String> {
    ids.iter().map(|id| format!("{id}.localhost")).collect()
}

/// The nanoseconds that `quantile` of the requests took at most, as microseconds.
fn micros(outcome: &Outcome, quantile: f64) -> f64 {
    outcome.times.value_at_quantile(quantile) as f64 / 1000.0
}

/// Runs two measurements in turn, `pairs` times, and changes which comes first, so that what drifts hits both.
fn in_turn<A, B>(
    pairs: usize,
    mut a: impl FnMut() -> Result<A, Failure>,
    mut b: impl FnMut() -> Result<B, Failure>,
) -> Result<Vec<(A, B)>, Failure> {
    (0..pairs)
        .map(|pair| {
            if pair % 2 == 0 {
                let first = a()?;
                Ok((first, b()?))
            } else {
                let first = b()?;
                Ok((a()?, first))
            }
        })
        .collect()
}
