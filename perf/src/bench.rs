//! What all cases use: servers, loads of two kinds, and pairs of measurements.

use std::net::SocketAddr;
use std::time::Duration;

use crate::certificate::Certificate;
use crate::child::ChildProcess;
use crate::clock::now;
use crate::cpu::Cores;
use crate::failure::Failure;
use crate::findings::Findings;
use crate::http2;
use crate::load::{self, Outcome, Traffic, Until};
use crate::progress;
use crate::server::{Programs, RuntimeKind, ServerOptions};
use crate::traffic::{self, Acquires, Releases};

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
    /// Bytes of a large body.
    pub(crate) transfer_bytes: u64,
    /// Clients that request a body and do not read it.
    pub(crate) stalled_readers: usize,
    /// Assigned instances of an idle server.
    pub(crate) idle_routes: usize,
    /// How long an idle server is observed at a time.
    pub(crate) idle_window: Duration,
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
        transfer_bytes: 1 << 30,
        stalled_readers: 200,
        idle_routes: 10_000,
        idle_window: Duration::from_secs(10),
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
        transfer_bytes: 16 << 20,
        stalled_readers: 10,
        idle_routes: 1000,
        idle_window: Duration::from_secs(1),
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
        transfer_bytes: 1 << 20,
        stalled_readers: 3,
        idle_routes: 2,
        idle_window: Duration::from_millis(200),
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
    /// What the cases have found besides their rows.
    pub(crate) findings: Findings,
}

impl Bench {
    /// Starts a server with a full pool, on the core of what is measured.
    pub(crate) fn server(&self, ready: usize, app: SocketAddr) -> Result<ChildProcess, Failure> {
        let is_refilled = self.programs.runtime == RuntimeKind::Process;
        let options = ServerOptions { is_refilled, ..ServerOptions::new(ready, app) };
        self.programs.server(options, self.cores.server)
    }

    /// Acquires `count` instances. Returns the ids of some of them, spread over all.
    pub(crate) fn acquire(&self, server: &ChildProcess, count: usize) -> Result<Vec<String>, Failure> {
        let mut traffic = Acquires::new((count / self.size.hosts).max(1));
        load::closed(server.address, Until::Responses(count as u64), &mut traffic)?;
        traffic.ids.truncate(self.size.hosts);
        Ok(traffic.ids)
    }

    /// Acquires a few instances one after another, over TLS with a certificate. Returns their ids.
    pub(crate) fn acquire_from(
        &self,
        server: &ChildProcess,
        certificate: Option<&Certificate>,
        count: usize,
    ) -> Result<Vec<String>, Failure> {
        let Some(certificate) = certificate else { return self.acquire(server, count) };
        let acquire = || http2::request("POST", "/api/v1/demo/acquire", "localhost");
        let requests = (0..count).map(|_| acquire()).collect::<Result<_, _>>()?;
        let responses = http2::exchange(server.address, certificate, requests)?;
        responses.iter().map(|(_, body)| Ok(traffic::id(body)?.to_owned())).collect()
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

    /// Runs a load with HTTP/2 over TLS at full speed. Returns the requests per second, the microseconds of processor
    /// time of each, and the part of the time in which the target was busy.
    pub(crate) fn http2_burst(
        &self,
        target: &ChildProcess,
        certificate: &Certificate,
        hosts: &[String],
        path: &str,
    ) -> Result<(f64, f64, f64), Failure> {
        let (begin, before) = (now(), target.cpu_time());
        let outcome = http2::closed(target.address, certificate, self.size.burst, hosts, path)?;
        let used = target.cpu_time().saturating_sub(before).as_secs_f64();
        let each = used * 1e6 / outcome.responses.max(1) as f64;
        Ok((outcome.rate, each, used / begin.elapsed().as_secs_f64()))
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
            progress::step("pair", pair + 1, pairs);
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
