//! What all cases use: servers, loads of two kinds, and pairs of measurements.

use std::net::SocketAddr;
use std::time::Duration;

use crate::child::ChildProcess;
use crate::cpu::Cores;
use crate::failure::Failure;
use crate::load::{self, Outcome, Traffic, Until};
use crate::server::{Programs, RuntimeKind, ServerOptions};
use crate::traffic::{Acquires, Releases};

/// How much is measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct BenchSize {
    /// When a load at full speed ends.
    pub(crate) burst: Until,
    /// How long a load at a given rate takes.
    pub(crate) window: Duration,
    /// Number of pairs for bounds that are loose.
    pub(crate) pairs: usize,
    /// Number of pairs for bounds tighter than 10 %.
    pub(crate) tight_pairs: usize,
    /// Instances in a pool to which none is added during the measurement.
    pub(crate) pool: usize,
    /// Instances that are acquired and released before the measurement, see [`Bench::warm_up_memory`].
    pub(crate) warm_up: usize,
    /// Hosts that a load through the proxy requests.
    pub(crate) hosts: usize,
    /// Assigned instances where there are many.
    pub(crate) many: usize,
    /// Maximum requests per second of a load at a given rate.
    pub(crate) max_rate: f64,
}

impl BenchSize {
    /// The size on which the verdicts are based.
    pub(crate) const FULL: Self = Self {
        burst: Until::Elapsed(Duration::from_millis(500)),
        window: Duration::from_millis(600),
        pairs: 7,
        tight_pairs: 15,
        pool: 600_000,
        warm_up: 500_000,
        hosts: 10,
        many: 100_000,
        max_rate: f64::INFINITY,
    };
    /// A few seconds, to check that everything works. The figures mean little.
    pub(crate) const QUICK: Self = Self {
        burst: Until::Elapsed(Duration::from_millis(100)),
        window: Duration::from_millis(100),
        pairs: 1,
        tight_pairs: 1,
        pool: 60_000,
        warm_up: 20_000,
        hosts: 10,
        many: 1000,
        max_rate: f64::INFINITY,
    };
    /// Like `QUICK`, where each instance is a process. The figures mean nothing.
    pub(crate) const QUICK_WITH_PROCESSES: Self = Self {
        burst: Until::Responses(2),
        window: Duration::from_millis(200),
        pairs: 1,
        tight_pairs: 1,
        pool: 4,
        warm_up: 2,
        hosts: 1,
        many: 2,
        max_rate: 10.0,
    };
}

/// The programs, the cores and the peers of all cases.
#[derive(Debug)]
pub(crate) struct Bench {
    /// How to start servers.
    pub(crate) programs: Programs,
    /// How much to measure.
    pub(crate) size: BenchSize,
    /// Which core runs what.
    pub(crate) cores: Cores,
    /// The peer of `rtt`.
    pub(crate) echo: ChildProcess,
    /// The peer of `plain`.
    pub(crate) plain: ChildProcess,
}

impl Bench {
    /// Starts a server with a full pool, on the core of what is measured.
    pub(crate) fn server(&self, ready: usize, app: SocketAddr) -> Result<ChildProcess, Failure> {
        let is_refilled = self.programs.runtime == RuntimeKind::Process;
        let options = ServerOptions { ready, is_refilled, app, valkey: None };
        self.programs.server(options, self.cores.server)
    }

    /// Acquires `count` instances. Returns the ids of some of them, spread over all.
    pub(crate) fn acquire(&self, server: &ChildProcess, count: usize) -> Result<Vec<String>, Failure> {
        let mut traffic = Acquires::new((count / self.size.hosts).max(1));
        load::closed(server.address, Until::Responses(count as u64), &mut traffic)?;
        traffic.ids.truncate(self.size.hosts);
        Ok(traffic.ids)
    }

    /// Has the server use the memory that assigned instances take, and free it again. Memory that a virtual machine
    /// uses for the first time can cost more than everything else in an acquire, and no real server assigns tens of
    /// thousands of instances per second of which none is released.
    pub(crate) fn warm_up_memory(&self, server: &ChildProcess) -> Result<(), Failure> {
        let until = Until::Responses(self.size.warm_up as u64);
        let mut acquires = Acquires::new(1);
        load::closed(server.address, until, &mut acquires)?;
        load::closed(server.address, until, &mut Releases::new(acquires.ids))?;
        Ok(())
    }

    /// Runs a load at full speed. Returns the processor time of each request too.
    pub(crate) fn burst(
        &self,
        target: &ChildProcess,
        traffic: &mut impl Traffic,
    ) -> Result<(Outcome, Duration), Failure> {
        let before = target.cpu_time();
        let outcome = load::closed(target.address, self.size.burst, traffic)?;
        let used = target.cpu_time().saturating_sub(before);
        let each = used / u32::try_from(outcome.responses.max(1)).unwrap_or(u32::MAX);
        Ok((outcome, each))
    }

    /// Runs a load at a given rate.
    pub(crate) fn window(
        &self,
        target: SocketAddr,
        rate: f64,
        traffic: &mut impl Traffic,
    ) -> Result<Outcome, Failure> {
        load::open(target, rate.min(self.size.max_rate), self.size.window, traffic)
    }
}

/// Returns the hosts of instances.
pub(crate) fn hosts(ids: &[String]) -> Vec<String> {
    ids.iter().map(|id| format!("{id}.localhost")).collect()
}

/// Returns the microseconds that a share of the requests took at most.
pub(crate) fn micros(outcome: &Outcome, quantile: f64) -> f64 {
    outcome.times.value_at_quantile(quantile) as f64 / 1000.0
}

/// Makes pairs of two measurements in turn, and changes which comes first, so that drifts affect both equally.
pub(crate) fn in_turn<A, B>(
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
