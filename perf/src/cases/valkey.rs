//! Acquires and routes with Valkey as the store: what one costs, and how soon another node knows it.
//!
//! Valkey runs on the core of the load. Where the server is compared with Valkey's benchmark tool, that runs on the
//! core of the server.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::bench::{Bench, hosts, in_turn, micros};
use crate::child::ChildProcess;
use crate::client::Client;
use crate::clock::now;
use crate::cpu;
use crate::failure::Failure;
use crate::load::{self, CONNECTIONS, histogram, nanos};
use crate::peers::Role;
use crate::report::{Bound, Row};
use crate::server::{RuntimeKind, ServerOptions};
use crate::stats::{Median, median};
use crate::traffic::{Acquires, Repeated, Turnover, request};
use crate::valkey::{Valkey, ValkeyPrograms, with_random_token};

/// Claims of one run of the benchmark tool.
const CLAIMS: u64 = 5000;
/// Acquires per second that a server must reach, or half of what the benchmark tool reaches if that is less.
const REQUIRED_RATE: f64 = 8000.0;
/// Requests per second of the measurements of time.
const RATE: f64 = 1000.0;
/// Acquires and releases per second of another node, each of which changes a route.
const UPDATE_RATE: f64 = 1000.0;
/// A millisecond in microseconds.
const MILLISECOND: f64 = 1000.0;
/// The other node changes routes for a multiple of this time.
const UPDATE_PERIOD: Duration = Duration::from_millis(250);
/// Instances that are acquired on one node and requested through another.
const VISITS: usize = 500;
/// Maximum time until the other node forwards to the instance.
const VISIBLE_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) fn measure(bench: &Bench) -> Result<Vec<Row>, Failure> {
    if bench.programs.runtime != RuntimeKind::None {
        return Ok(Vec::new());
    }
    let programs = match ValkeyPrograms::find() {
        Ok(programs) => programs,
        Err(missing) => {
            crate::progress::print(&format!("skipped: valkey, {missing} is missing"));
            return Ok(Vec::new());
        }
    };
    let mut rows = alone(bench, &programs)?;
    rows.extend(together(bench, &programs)?);
    Ok(rows)
}

/// Measures one node.
fn alone(bench: &Bench, programs: &ValkeyPrograms) -> Result<Vec<Row>, Failure> {
    let valkey = programs.start(bench.cores.load)?;
    let server = serve(bench, &valkey, bench.size.pool / 3, bench.plain.address, bench.cores.server)?;
    let ids = bench.acquire(&server, bench.size.hosts)?;
    let claim = with_random_token(&valkey.observe_call(
        |words| words.len() > 10 && words.get(6).is_some_and(|template| template == "default"),
        || bench.acquire(&server, 1).map(drop),
    )?);

    let bursts = in_turn(
        bench.size.pairs,
        || valkey.rate(&claim, CONNECTIONS, CLAIMS, bench.cores.server),
        || bench.burst(&server, &mut Acquires::new(0)),
    )?;
    // If the machine cannot reach the rate, half of what it reaches is required.
    let required: Vec<_> =
        bursts.iter().map(|(tool, (server, _))| (server.rate, (tool / 2.0).min(REQUIRED_RATE))).collect();
    let middle = |values: Vec<f64>| median(&values).value;
    let note = format!(
        "{CONNECTIONS} clients; {:.2} of {:.0} /s, which valkey-benchmark reaches with the same script",
        middle(bursts.iter().map(|(tool, (server, _))| server.rate / tool).collect()),
        middle(bursts.iter().map(|(tool, _)| *tool).collect()),
    );
    let throughput =
        Row::of("Valkey: acquire throughput", "/s", &required, "required", Bound::AtLeast(1.0), note);
    let rate = throughput.measured;

    let before = valkey.calls("evalsha")?;
    let windows = in_turn(
        bench.size.pairs,
        || bench.rtt(),
        || bench.window(server.address, rate / 2.0, &mut Acquires::new(0)),
    )?;
    let acquired = windows.iter().map(|(_, outcome)| outcome.responses).sum::<u64>();
    let commands = (valkey.calls("evalsha")? - before) as f64 / acquired.max(1) as f64;
    let note = format!("at {:.0} /s", rate / 2.0);
    let p50: Vec<_> = windows.iter().map(|(rtt, outcome)| (micros(outcome, 0.5), *rtt)).collect();
    let p99: Vec<_> = windows.iter().map(|(_, outcome)| (micros(outcome, 0.99), MILLISECOND)).collect();
    let half =
        Row::of("Valkey: acquire p50 at half load", "us", &p50, "rtt", Bound::AtMost(10.0), note.clone());
    let tail =
        Row::of("Valkey: acquire p99 at half load", "us", &p99, "ms", Bound::AtMost(1.0), note.clone());
    let calls = Row::of(
        "Valkey: script calls of an acquire",
        "calls",
        &[(commands, 1.0)],
        "acquires",
        Bound::AtMost(1.1),
        format!("{note}, including the server's other calls"),
    );
    let get =
        step(bench, &valkey, &server, "Valkey: GET of an instance, p50", &mut Repeated::get_instances(&ids))?;
    let extend = step(bench, &valkey, &server, "Valkey: extend, p50", &mut Repeated::extend(&ids))?;
    Ok(vec![half, tail, throughput, calls, get, extend])
}

/// Compares one kind of request with what it needs at least: a round trip to Valkey and a plain response.
fn step(
    bench: &Bench,
    valkey: &Valkey,
    server: &ChildProcess,
    what: &'static str,
    traffic: &mut Repeated,
) -> Result<Row, Failure> {
    let plain = ["localhost".to_owned()];
    let pairs = in_turn(
        bench.size.pairs,
        || {
            // On the core of the server: on the core of Valkey no thread of another core would have to be woken.
            let round_trip = cpu::on(bench.cores.server, || valkey.round_trip(bench.size.window / 4))?;
            let plain = bench.window(bench.plain.address, RATE, &mut Repeated::get("/", &plain))?;
            Ok(round_trip + micros(&plain, 0.5))
        },
        || bench.window(server.address, RATE, traffic),
    )?;
    let times: Vec<_> = pairs.iter().map(|(least, outcome)| (micros(outcome, 0.5), *least)).collect();
    let least: Vec<f64> = pairs.iter().map(|(least, _)| *least).collect();
    let note = format!("at {RATE:.0} /s; PING and plain {:.0} us", median(&least).value);
    Ok(Row::of(what, "us", &times, "PING + plain", Bound::AtMost(1.2), note))
}

/// Compares few instances with many, and measures two nodes that share them.
fn together(bench: &Bench, programs: &ValkeyPrograms) -> Result<Vec<Row>, Failure> {
    let size = bench.size;
    let app = ChildProcess::role(Role::Plain, bench.cores.load)?;
    let spare = size.pool / 20;
    let few_valkey = programs.start(bench.cores.load)?;
    let few = serve(bench, &few_valkey, size.hosts + spare, app.address, bench.cores.server)?;
    bench.acquire(&few, size.hosts)?;
    let many_valkey = programs.start(bench.cores.load)?;
    let many = serve(bench, &many_valkey, size.many + spare, app.address, bench.cores.server)?;
    let hosts = hosts(&bench.acquire(&many, size.many)?);

    let windows = in_turn(
        size.pairs,
        || bench.window(few.address, RATE, &mut Turnover::new(CONNECTIONS)),
        || bench.window(many.address, RATE, &mut Turnover::new(CONNECTIONS)),
    )?;
    let times: Vec<_> = windows.iter().map(|(few, many)| (micros(many, 0.5), micros(few, 0.5))).collect();
    let note = format!("{} against {} assigned, at {RATE:.0} /s", size.many, size.hosts);
    let many_row =
        Row::of("Valkey: acquire p50, many instances", "us", &times, "few", Bound::AtMost(1.1), note);
    drop(few);

    // On the core of the load, because the first node is measured.
    let other = serve(bench, &many_valkey, 0, app.address, bench.cores.load)?;
    let visible = measure_visibility(&many, &other)?;
    let bursts = in_turn(
        size.tight_pairs,
        || bench.burst(&many, &mut Repeated::get("/", &hosts)),
        || while_routes_change(&other, || bench.burst(&many, &mut Repeated::get("/", &hosts))),
    )?;
    let rates: Vec<_> = bursts.iter().map(|((calm, _), (busy, _))| (busy.rate, calm.rate)).collect();
    let [calm, busy] = [
        bursts.iter().map(|((_, each), _)| each.as_secs_f64() * 1e6).collect::<Vec<_>>(),
        bursts.iter().map(|(_, (_, each))| each.as_secs_f64() * 1e6).collect(),
    ]
    .map(|each| median(&each).value);
    let note = format!(
        "{UPDATE_RATE:.0} changes /s among {} routes; processor time {busy:.1} us each, calm {calm:.1} us",
        size.many,
    );
    let updates = Row::of(
        "Valkey: proxied throughput while routes change",
        "/s",
        &rates,
        "calm",
        Bound::AtLeast(0.97),
        note,
    );
    Ok(vec![many_row, visible, updates])
}

/// Measures the time from the response to an acquire on one node to the first page of that instance through another
/// node. Every other response meanwhile counts as a failure.
fn measure_visibility(acquiring: &ChildProcess, forwarding: &ChildProcess) -> Result<Row, Failure> {
    let mut acquiring = Client::connect(acquiring.address, VISIBLE_TIMEOUT)?;
    let mut forwarding = Client::connect(forwarding.address, VISIBLE_TIMEOUT)?;
    let mut times = histogram();
    let mut failed = 0;
    for _ in 0..VISITS {
        let (status, body) = acquiring.request(&request("POST", "/api/v1/demo/acquire", "localhost"))?;
        let response: serde_json::Value = serde_json::from_slice(&body)?;
        let id = response["id"]
            .as_str()
            .ok_or_else(|| format!("the response {status} to an acquire has no id"))?;
        let visit = request("GET", "/", &format!("{id}.localhost"));
        let begin = now();
        while forwarding.request(&visit)?.0 != 200 {
            failed += 1;
            if now() >= begin + VISIBLE_TIMEOUT {
                return Err(format!("the other node does not forward to {id}").into());
            }
        }
        times.saturating_record(nanos(now() - begin));
    }
    let millis = |quantile| times.value_at_quantile(quantile) as f64 / 1e6;
    let value = millis(0.99);
    Ok(Row {
        what: "Valkey: route visible on another node, p99".into(),
        measured: value * 1000.0,
        unit: "us",
        ratio: Median { value, low: millis(0.5), high: millis(1.0) },
        to: "ms",
        bound: Bound::AtMost(20.0),
        pairs: VISITS,
        note: format!("interval: p50 to maximum; {failed} failed requests meanwhile"),
    })
}

/// Calls a function while another node with the same Valkey acquires and releases instances.
fn while_routes_change<T>(
    other: &ChildProcess,
    act: impl FnOnce() -> Result<T, Failure>,
) -> Result<T, Failure> {
    let (address, is_over) = (other.address, AtomicBool::new(false));
    std::thread::scope(|scope| {
        let changing = scope.spawn(|| change_routes(address, &is_over).map_err(|error| error.to_string()));
        let done = act();
        is_over.store(true, Ordering::Release);
        changing.join().map_err(|_| "the thread that changes routes panicked")??;
        done
    })
}

/// Changes routes until `is_over` is set.
fn change_routes(address: SocketAddr, is_over: &AtomicBool) -> Result<(), Failure> {
    let mut turnover = Turnover::new(CONNECTIONS);
    while !is_over.load(Ordering::Acquire) {
        load::open(address, UPDATE_RATE, UPDATE_PERIOD, &mut turnover)?;
    }
    Ok(())
}

/// Starts a server with this Valkey whose pool is not refilled.
fn serve(
    bench: &Bench,
    valkey: &Valkey,
    ready: usize,
    app: SocketAddr,
    core: usize,
) -> Result<ChildProcess, Failure> {
    let options = ServerOptions { valkey: Some(valkey.address()), ..ServerOptions::new(ready, app) };
    bench.programs.server(options, core)
}
