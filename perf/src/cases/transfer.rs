//! One large upload and one large download at a time, through the server and through other proxies, and how much memory
//! the server uses meanwhile.

use super::peers::ENGINES;
use crate::bench::{Bench, hosts};
use crate::bulk::BulkClient;
use crate::child::ChildProcess;
use crate::clock::now;
use crate::failure::Failure;
use crate::memory;
use crate::peers::Role;
use crate::progress;
use crate::proxies::{HAPROXY, InstalledProxy, NGINX, ProxyKind, Setup};
use crate::report::{Bound, Row};
use crate::server::ServerOptions;
use crate::stats::median;

/// Least ratio of the throughput to that of nginx.
const THROUGHPUT_BOUND: Bound = Bound::AtLeast(0.9);
/// Most ratio of the memory during a transfer to that before.
const MEMORY_BOUND: Bound = Bound::AtMost(1.2);

/// The direction of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Download,
    Upload,
}

/// What is measured: a server with one of the engines, or another proxy.
struct Target {
    process: ChildProcess,
    host: String,
    /// Its engine; `None` for another proxy.
    engine: Option<&'static str>,
    kind: Option<&'static ProxyKind>,
}

/// What one target reached in each round.
#[derive(Default)]
struct Figures {
    /// MiB per second.
    rates: Vec<f64>,
    /// Microseconds of processor time of each MiB.
    times: Vec<f64>,
    /// Bytes of memory: at most during the transfer, and before.
    memory: Vec<(f64, f64)>,
}

/// Measures both directions with both engines, and each proxy that is installed.
pub(super) fn measure(bench: &Bench) -> Result<Vec<Row>, Failure> {
    let app = ChildProcess::role(Role::Bulk, bench.cores.load)?;
    let mut targets = Vec::new();
    for engine in ENGINES {
        let options = ServerOptions {
            engine: Some(engine),
            role: Some(Role::Bulk),
            returns_memory: true,
            ..ServerOptions::new(1, app.address)
        };
        let process = bench.programs.server(options, bench.cores.server)?;
        let host = hosts(&bench.acquire(&process, 1)?).remove(0);
        targets.push(Target { process, host, engine: Some(engine), kind: None });
    }
    for kind in [&NGINX, &HAPROXY] {
        let Some(proxy) = InstalledProxy::find(kind)? else { continue };
        bench.findings.add_version(&proxy.version);
        let host = targets[0].host.clone();
        let setup = Setup { app: app.address, hosts: std::slice::from_ref(&host), certificate: None };
        let process = proxy.start(&setup, bench.cores.server)?;
        targets.push(Target { process, host, engine: None, kind: Some(kind) });
    }
    let mut rows = Vec::new();
    for direction in [Direction::Download, Direction::Upload] {
        let figures = rounds(bench, &targets, direction)?;
        rows.extend(compare(bench, &targets, &figures, direction));
    }
    Ok(rows)
}

/// Returns the figures of each target. Every second round goes backwards, so that drifts affect all equally.
fn rounds(bench: &Bench, targets: &[Target], direction: Direction) -> Result<Vec<Figures>, Failure> {
    let mut figures: Vec<Figures> = targets.iter().map(|_| Figures::default()).collect();
    let bytes = bench.size.transfer_bytes;
    for target in targets {
        // The allocators and the kernel have what they need afterwards.
        transfer(target, direction, bytes / 16)?;
    }
    for round in 0..bench.size.pairs {
        progress::step(&format!("{direction:?}, round"), round + 1, bench.size.pairs);
        for step in 0..targets.len() {
            let at = if round % 2 == 0 { step } else { targets.len() - 1 - step };
            let target = &targets[at];
            let before = memory::of_process(target.process.id())?;
            let cpu = target.process.cpu_time();
            let (rate, most) = transfer(target, direction, bytes)?;
            let used = target.process.cpu_time().saturating_sub(cpu);
            figures[at].rates.push(rate);
            figures[at].times.push(used.as_secs_f64() * 1e6 * f64::from(1 << 20) / bytes as f64);
            figures[at].memory.push((most, before as f64));
        }
    }
    Ok(figures)
}

/// Transfers a body of so many bytes. Returns the MiB per second, and the most memory of the target in bytes.
fn transfer(target: &Target, direction: Direction, bytes: u64) -> Result<(f64, f64), Failure> {
    let (process, host) = (&target.process, &target.host);
    let mut client = BulkClient::connect(process.address)?;
    let mut most = 0;
    let mut look = || {
        most = most.max(memory::of_process(process.id())?);
        Ok(())
    };
    let begin = now();
    match direction {
        Direction::Download => client.download(host, bytes, &mut look)?,
        Direction::Upload => client.upload(host, bytes, &mut look)?,
    }
    let rate = bytes as f64 / f64::from(1 << 20) / begin.elapsed().as_secs_f64();
    look()?;
    Ok((rate, most as f64))
}

fn compare(bench: &Bench, targets: &[Target], figures: &[Figures], direction: Direction) -> Vec<Row> {
    let size = match bench.size.transfer_bytes >> 20 {
        1024 => "1 GiB".to_owned(),
        mebibytes => format!("{mebibytes} MiB"),
    };
    let name = match direction {
        Direction::Download => "download",
        Direction::Upload => "upload",
    };
    let mut rows = Vec::new();
    for (target, of_target) in targets.iter().zip(figures) {
        let Some(engine) = target.engine else { continue };
        for (other, of_other) in targets.iter().zip(figures) {
            let Some(kind) = other.kind else { continue };
            let bound = if kind.has_bounds { THROUGHPUT_BOUND } else { Bound::None };
            let pairs: Vec<_> = of_target.rates.iter().copied().zip(of_other.rates.iter().copied()).collect();
            let note = format!("{} {:.0} MiB/s", kind.name, median(&of_other.rates).value);
            rows.push(Row::of(
                format!("{name} of {size}, {engine}"),
                "MiB/s",
                &pairs,
                kind.name,
                bound,
                note,
            ));
            let pairs: Vec<_> = of_target.times.iter().copied().zip(of_other.times.iter().copied()).collect();
            // A quick run is too short for the clock of processor time.
            if pairs.iter().all(|(one, other)| *one > 0.0 && *other > 0.0) {
                let note = format!("for each MiB; {} {:.0} us", kind.name, median(&of_other.times).value);
                let what = format!("processor, {name}, {engine}");
                rows.push(Row::of(what, "us", &pairs, kind.name, Bound::None, note));
            }
        }
        let in_mebibytes = |bytes: f64| bytes / f64::from(1 << 20);
        let pairs: Vec<_> = of_target
            .memory
            .iter()
            .map(|(most, before)| (in_mebibytes(*most), in_mebibytes(*before)))
            .collect();
        let growth = pairs.iter().map(|(most, before)| most - before).fold(0.0, f64::max);
        let note = format!("at most {growth:.1} MiB more");
        rows.push(Row::of(format!("memory, {name}, {engine}"), "MiB", &pairs, "before", MEMORY_BOUND, note));
    }
    for (target, of_target) in targets.iter().zip(figures) {
        let label = target.engine.map_or_else(
            || target.kind.map_or("", |kind| kind.name).to_owned(),
            |engine| format!("Try It Now, {engine}"),
        );
        bench.findings.add_bar(&format!("{name} of {size}"), "MiB/s", &label, &of_target.rates);
    }
    rows
}
