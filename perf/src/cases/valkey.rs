//! The same steps with Valkey as the store: what one costs, and how soon another server knows of it.
//!
//! Valkey is on the core of the load, as whatever the server asks is. Its own measuring tool takes the server's place
//! where both are compared.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::{Bench, hosts, in_turn, micros};
use crate::Failure;
use crate::child::Running;
use crate::clock::now;
use crate::cores;
use crate::load::{self, LINKS, histogram, nanos};
use crate::report::{Bound, Row};
use crate::roles::Role;
use crate::server::{RuntimeKind, Wanted};
use crate::stats::{Median, median};
use crate::traffic::{Acquires, Same, Turnover, request};
use crate::valkey::{Programs, Valkey, with_random_token};
use crate::visitor::Visitor;

/// Claims of the measuring tool in one go.
const CLAIMS: u64 = 5000;
/// Acquires a second that a server is to do, or half of what the measuring tool does, if that is less.
const WANTED: f64 = 8000.0;
/// Steps a second where it is asked how long one takes.
const RATE: f64 = 1000.0;
/// Acquires and releases a second of another server, each of which changes a route.
const UPDATES: f64 = 1000.0;
/// In microseconds.
const MILLISECOND: f64 = 1000.0;
/// The changes go on for a multiple of this.
const SLICE: Duration = Duration::from_millis(250);
/// Instances that are acquired here and visited there.
const VISITS: usize = 500;
/// Longest time until one can be visited there.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) fn measure(bench: &Bench) -> Result<Vec<Row>, Failure> {
    if bench.programs.runtime != RuntimeKind::None {
        return Ok(Vec::new());
    }
    let programs = match Programs::find() {
        Ok(programs) => programs,
        Err(missing) => {
            println!("skipped: valkey, without {missing}");
            return Ok(Vec::new());
        }
    };
    let mut rows = alone(bench, &programs)?;
    rows.extend(together(bench, &programs)?);
    Ok(rows)
}

/// One server.
fn alone(bench: &Bench, programs: &Programs) -> Result<Vec<Row>, Failure> {
    let valkey = programs.start(bench.cores.load)?;
    let server = serve(bench, &valkey, bench.scale.pool / 3, bench.plain.address, bench.cores.server)?;
    let ids = bench.acquire(&server, bench.scale.hosts)?;
    let claim = with_random_token(&valkey.overhear(
        |words| words.len() > 10 && words.get(6).is_some_and(|template| template == "default"),
        || bench.acquire(&server, 1).map(drop),
    )?);

    let bursts = in_turn(
        bench.scale.pairs,
        || valkey.rate(&claim, LINKS, CLAIMS, bench.cores.server),
        || bench.burst(&server, &mut Acquires::new(0)),
    )?;
    // Where the machine cannot do as much, half of what it can.
    let wanted: Vec<_> =
        bursts.iter().map(|(tool, (ours, _))| (ours.rate, (tool / 2.0).min(WANTED))).collect();
    let middle = |values: Vec<f64>| median(&values).value;
    let note = format!(
        "{LINKS} clients; {:.2} of {:.0} /s, which valkey-benchmark has of the same script",
        middle(bursts.iter().map(|(tool, (ours, _))| ours.rate / tool).collect()),
        middle(bursts.iter().map(|(tool, _)| *tool).collect()),
    );
    let throughput =
        Row::of("Valkey: acquire throughput", "/s", &wanted, "wanted", Bound::AtLeast(1.0), note);
    let rate = throughput.measured;

    let before = valkey.calls("evalsha")?;
    let windows = in_turn(
        bench.scale.pairs,
        || bench.rtt(),
        || bench.window(server.address, rate / 2.0, &mut Acquires::new(0)),
    )?;
    let acquired = windows.iter().map(|(_, outcome)| outcome.answered).sum::<u64>();
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
        format!("{note}, with all that the server asks beside it"),
    );
    let look = step(bench, &valkey, &server, "Valkey: GET of an instance, p50", &mut Same::look(&ids))?;
    let extend = step(bench, &valkey, &server, "Valkey: extend, p50", &mut Same::extend(&ids))?;
    Ok(vec![half, tail, throughput, calls, look, extend])
}

/// One kind of step against a round trip to Valkey and a plain answer, which it needs whoever does it.
fn step(
    bench: &Bench,
    valkey: &Valkey,
    server: &Running,
    what: &'static str,
    traffic: &mut Same,
) -> Result<Row, Failure> {
    let plain = ["localhost".to_owned()];
    let pairs = in_turn(
        bench.scale.pairs,
        || {
            // As far from Valkey as the server is: on one core with it, nobody would have to be woken.
            let round_trip = cores::on(bench.cores.server, || valkey.round_trip(bench.scale.window / 4))?;
            let plain = bench.window(bench.plain.address, RATE, &mut Same::get("/", &plain))?;
            Ok(round_trip + micros(&plain, 0.5))
        },
        || bench.window(server.address, RATE, traffic),
    )?;
    let times: Vec<_> = pairs.iter().map(|(least, outcome)| (micros(outcome, 0.5), *least)).collect();
    let least: Vec<f64> = pairs.iter().map(|(least, _)| *least).collect();
    let note = format!("at {RATE:.0} /s; PING and plain {:.0} us", median(&least).value);
    Ok(Row::of(what, "us", &times, "PING + plain", Bound::AtMost(1.2), note))
}

/// Few instances against many, and two servers that share them.
fn together(bench: &Bench, programs: &Programs) -> Result<Vec<Row>, Failure> {
    let scale = bench.scale;
    let app = Running::role(Role::Plain, bench.cores.load)?;
    let spare = scale.pool / 20;
    let few_valkey = programs.start(bench.cores.load)?;
    let few = serve(bench, &few_valkey, scale.hosts + spare, app.address, bench.cores.server)?;
    bench.acquire(&few, scale.hosts)?;
    let many_valkey = programs.start(bench.cores.load)?;
    let many = serve(bench, &many_valkey, scale.many + spare, app.address, bench.cores.server)?;
    let hosts = hosts(&bench.acquire(&many, scale.many)?);

    let windows = in_turn(
        scale.pairs,
        || bench.window(few.address, RATE, &mut Turnover::new(LINKS)),
        || bench.window(many.address, RATE, &mut Turnover::new(LINKS)),
    )?;
    let times: Vec<_> = windows.iter().map(|(few, many)| (micros(many, 0.5), micros(few, 0.5))).collect();
    let note = format!("{} against {} in visitors' hands, at {RATE:.0} /s", scale.many, scale.hosts);
    let live = Row::of("Valkey: acquire p50, many instances", "us", &times, "few", Bound::AtMost(1.1), note);
    drop(few);

    // On the load's core: what is measured is the first.
    let other = serve(bench, &many_valkey, 0, app.address, bench.cores.load)?;
    let visible = visible(&many, &other)?;
    let bursts = in_turn(
        scale.tight_pairs,
        || bench.burst(&many, &mut Same::get("/", &hosts)),
        || while_others_change(&other, || bench.burst(&many, &mut Same::get("/", &hosts))),
    )?;
    let rates: Vec<_> = bursts.iter().map(|((calm, _), (busy, _))| (busy.rate, calm.rate)).collect();
    let [calm, busy] = [
        bursts.iter().map(|((_, each), _)| each.as_secs_f64() * 1e6).collect::<Vec<_>>(),
        bursts.iter().map(|(_, (_, each))| each.as_secs_f64() * 1e6).collect(),
    ]
    .map(|each| median(&each).value);
    let note = format!(
        "{UPDATES:.0} changes /s among {} routes; processor {busy:.1} us each, calm {calm:.1} us",
        scale.many,
    );
    let updates = Row::of(
        "Valkey: proxied throughput while routes change",
        "/s",
        &rates,
        "calm",
        Bound::AtLeast(0.97),
        note,
    );
    Ok(vec![live, visible, updates])
}

/// From the answer to an acquire on one server to the first good answer of that instance through another. Any other
/// answer on the way counts as a failure.
fn visible(here: &Running, there: &Running) -> Result<Row, Failure> {
    let (mut here, mut there) =
        (Visitor::connect(here.address, PATIENCE)?, Visitor::connect(there.address, PATIENCE)?);
    let mut times = histogram();
    let mut failed = 0;
    for _ in 0..VISITS {
        let (status, body) = here.ask(&request("POST", "/api/v1/demo/acquire", "localhost"))?;
        let answer: serde_json::Value = serde_json::from_slice(&body)?;
        let id =
            answer["id"].as_str().ok_or_else(|| format!("an acquire answered {status} without an id"))?;
        let visit = request("GET", "/", &format!("{id}.localhost"));
        let begin = now();
        while there.ask(&visit)?.0 != 200 {
            failed += 1;
            if now() >= begin + PATIENCE {
                return Err(format!("{id} cannot be visited through the other server").into());
            }
        }
        times.saturating_record(nanos(now() - begin));
    }
    let millis = |quantile| times.value_at_quantile(quantile) as f64 / 1e6;
    let value = millis(0.99);
    Ok(Row {
        what: "Valkey: route visible on another server, p99",
        measured: value * 1000.0,
        unit: "us",
        ratio: Median { value, low: millis(0.5), high: millis(1.0) },
        to: "ms",
        bound: Bound::AtMost(20.0),
        pairs: VISITS,
        note: format!("interval: p50 to longest; {failed} failed requests in between"),
    })
}

/// Does something while instances of the same Valkey are acquired and released through another server.
fn while_others_change<T>(other: &Running, act: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    let (address, over) = (other.address, AtomicBool::new(false));
    std::thread::scope(|scope| {
        let changing = scope.spawn(|| change(address, &over).map_err(|error| error.to_string()));
        let done = act();
        over.store(true, Ordering::Release);
        changing.join().map_err(|_| "the changes ended badly")??;
        done
    })
}

/// Changes routes until it is over.
fn change(address: SocketAddr, over: &AtomicBool) -> Result<(), Failure> {
    let mut turnover = Turnover::new(LINKS);
    while !over.load(Ordering::Acquire) {
        load::open(address, UPDATES, SLICE, &mut turnover)?;
    }
    Ok(())
}

/// A server of that Valkey whose pool is not refilled.
fn serve(
    bench: &Bench,
    valkey: &Valkey,
    ready: usize,
    app: SocketAddr,
    core: usize,
) -> Result<Running, Failure> {
    let wanted = Wanted { ready, refilled: false, app, valkey: Some(valkey.address()) };
    bench.programs.server(wanted, core)
}
