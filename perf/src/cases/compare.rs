//! Two builds of the server in one run: what a change costs. Both run on the same core, and their measurements are made
//! in turn.

use std::path::Path;

use super::Case;
use crate::bench::{Bench, hosts, in_turn};
use crate::child::ChildProcess;
use crate::clock::now;
use crate::container_host::{AcquiredInstance, ContainerHost, Stack, StartMode, millis};
use crate::failure::Failure;
use crate::peers::Role;
use crate::report::{Bound, Row};
use crate::server::{Programs, ServerOptions};
use crate::stats::median;
use crate::traffic::{Repeated, Turnover};

/// For each ready template its name, a text in its front page, and the names of the figures: restore, private memory.
const APPS: [(&str, &str, [&str; 2]); 4] = [
    ("sample", "<h1", ["sample: restore p50", "sample: private memory"]),
    ("php", "A PHP app of your own", ["php: restore p50", "php: private memory"]),
    ("node", "A shop of your own", ["node: restore p50", "node: private memory"]),
    ("wordpress", "Hello world!", ["wordpress: restore p50", "wordpress: private memory"]),
];

/// Minimum ratio of requests per second to those of the earlier build.
const RATE_BOUND: Bound = Bound::AtLeast(0.97);
/// Maximum ratio of the time of a restore to that of the earlier build.
const RESTORE_BOUND: Bound = Bound::AtMost(1.1);
/// Maximum ratio of the private memory of an instance to that with the earlier build.
const MEMORY_BOUND: Bound = Bound::AtMost(1.05);

/// What the figures are compared with.
const TO: &str = "earlier build";
/// Pairs of restores for each pair of other measurements.
const RESTORES: usize = 2;
/// Ready instances of a server that replaces them.
const READY: usize = 5000;

/// Measures how the server compares with one of an earlier build in a case.
pub(super) fn measure(bench: &Bench, earlier: &Path, case: Case) -> Result<Vec<Row>, Failure> {
    match case {
        Case::Acquire => Ok(vec![acquires(bench, earlier)?]),
        Case::ProxiedThroughput => Ok(vec![proxied(bench, earlier)?]),
        Case::Restore => restores(bench, earlier),
        _ => Err("two builds are compared in the cases acquire, proxied-throughput and restore".into()),
    }
}

/// Starts a server of the earlier build.
fn earlier_server(bench: &Bench, earlier: &Path, options: ServerOptions) -> Result<ChildProcess, Failure> {
    let programs = Programs { server: earlier.to_owned(), runtime: bench.programs.runtime };
    programs.server(options, bench.cores.server)
}

/// Acquire, release and a new instance, again and again.
fn acquires(bench: &Bench, earlier: &Path) -> Result<Row, Failure> {
    let ready = READY.min(bench.size.pool);
    let options = ServerOptions { is_refilled: true, ..ServerOptions::new(ready, bench.plain.address) };
    let old = earlier_server(bench, earlier, options)?;
    let new = bench.programs.server(options, bench.cores.server)?;
    let connections = crate::load::CONNECTIONS;
    let bursts = in_turn(
        bench.size.tight_pairs,
        || bench.burst(&new, &mut Turnover::new(connections)),
        || bench.burst(&old, &mut Turnover::new(connections)),
    )?;
    Ok(rates("acquire, release, new instance", &bursts))
}

/// Requests to instances through the proxy.
fn proxied(bench: &Bench, earlier: &Path) -> Result<Row, Failure> {
    let app = ChildProcess::role(Role::Plain, bench.cores.load)?;
    let ready = bench.size.hosts;
    let options = ServerOptions::new(ready, app.address);
    let old = earlier_server(bench, earlier, options)?;
    let new = bench.server(ready, app.address)?;
    let old_hosts = hosts(&bench.acquire(&old, ready)?);
    let new_hosts = hosts(&bench.acquire(&new, ready)?);
    let bursts = in_turn(
        bench.size.tight_pairs,
        || bench.burst(&new, &mut Repeated::get("/", &new_hosts)),
        || bench.burst(&old, &mut Repeated::get("/", &old_hosts)),
    )?;
    Ok(rates("proxied requests", &bursts))
}

type Burst = (crate::load::Outcome, std::time::Duration);

fn rates(what: &'static str, bursts: &[(Burst, Burst)]) -> Row {
    let pairs: Vec<_> = bursts.iter().map(|((new, _), (old, _))| (new.rate, old.rate)).collect();
    let micros = |times: Vec<std::time::Duration>| {
        median(&times.iter().map(|time| time.as_secs_f64() * 1e6).collect::<Vec<_>>()).value
    };
    let new = micros(bursts.iter().map(|((_, each), _)| *each).collect());
    let old = micros(bursts.iter().map(|(_, (_, each))| *each).collect());
    Row::of(
        what,
        "/s",
        &pairs,
        TO,
        RATE_BOUND,
        format!("processor time {new:.1} us each; earlier {old:.1} us"),
    )
}

/// Restores of every image that was built, to the first page, and the private memory of the instances.
fn restores(bench: &Bench, earlier: &Path) -> Result<Vec<Row>, Failure> {
    let Some(stack) = Stack::find_for("restore") else { return Ok(Vec::new()) };
    let mut rows = Vec::new();
    for (name, text, [time, memory]) in APPS {
        if !stack.has_image("restore", name) {
            continue;
        }
        let template = stack.template(name);
        let earlier_template = template.renamed(&format!("{name}-earlier"));
        let serve =
            |program, template| stack.serve(program, template, 0, StartMode::Shared, bench.cores.server);
        let new = serve(&bench.programs.server, &template)?;
        let old = serve(earlier, &earlier_template)?;
        // The first instance waits for the checkpoint; the second shows which pages later ones need.
        for host in [&new, &old] {
            drop(AcquiredInstance::new(host, Some(text))?);
            drop(AcquiredInstance::new(host, Some(text))?);
        }
        let restore = |host: &ContainerHost| {
            let begin = now();
            let instance = AcquiredInstance::new(host, Some(text))?;
            let took = millis(begin.elapsed());
            drop(instance);
            Ok::<_, Failure>(took)
        };
        let pairs = in_turn(RESTORES * bench.size.tight_pairs, || restore(&new), || restore(&old))?;
        let before = median(&pairs.iter().map(|(_, old)| *old).collect::<Vec<_>>()).value;
        let note = format!("to the first page; earlier {before:.1} ms");
        rows.push(Row::of(time, "ms", &pairs, TO, RESTORE_BOUND, note));
        let private_mib = |host: &ContainerHost| {
            let instance = AcquiredInstance::new(host, None)?;
            Ok::<_, Failure>(host.private_memory(&instance.id)? / f64::from(1 << 20))
        };
        let pairs = in_turn(bench.size.pairs.min(3), || private_mib(&new), || private_mib(&old))?;
        rows.push(Row::of(memory, "MiB", &pairs, TO, MEMORY_BOUND, "idle".to_owned()));
    }
    Ok(rows)
}
