//! `POST /api/v1/demo/acquire`, from a pool with enough ready instances.

use crate::bench::{Bench, in_turn, micros};
use crate::failure::Failure;
use crate::load::CONNECTIONS;
use crate::report::{Bound, Row};
use crate::server::{RuntimeKind, ServerOptions};
use crate::stats::median;
use crate::traffic::{Acquires, Repeated, Turnover};

pub(super) fn measure(bench: &Bench) -> Result<Vec<Row>, Failure> {
    let app = bench.plain.address;
    let server = bench.server(bench.size.pool + bench.size.warm_up, app)?;
    bench.warm_up_memory(&server)?;
    let hosts = ["localhost".to_owned()];

    let bursts = in_turn(
        bench.size.pairs,
        || bench.burst(&bench.plain, &mut Repeated::get("/", &hosts)),
        || bench.burst(&server, &mut Acquires::new(0)),
    )?;
    let rates: Vec<_> = bursts.iter().map(|((plain, _), (server, _))| (server.rate, plain.rate)).collect();
    let [plain_each, each] = [
        bursts.iter().map(|((_, each), _)| each.as_secs_f64() * 1e6).collect::<Vec<_>>(),
        bursts.iter().map(|(_, (_, each))| each.as_secs_f64() * 1e6).collect(),
    ]
    .map(|values| median(&values).value);
    let note = format!("processor time {each:.1} us each; plain {plain_each:.1} us");
    let throughput = Row::of("acquire throughput", "/s", &rates, "plain", Bound::AtLeast(0.6), note);
    let rate = throughput.measured;

    let windows = in_turn(
        bench.size.pairs,
        || bench.rtt(),
        || bench.window(server.address, rate / 2.0, &mut Acquires::new(0)),
    )?;
    let chart = format!("Acquire, {:.0} requests per second", rate / 2.0);
    bench.findings.add_line(&chart, "acquire", windows.iter().map(|(_, outcome)| &outcome.times));
    let rtts: Vec<f64> = windows.iter().map(|(rtt, _)| *rtt).collect();
    let note = format!("at {:.0} /s; rtt {:.1} us", rate / 2.0, median(&rtts).value);
    let row = |what, quantile, bound| {
        let times: Vec<_> = windows.iter().map(|(rtt, outcome)| (micros(outcome, quantile), *rtt)).collect();
        Row::of(what, "us", &times, "rtt", bound, note.clone())
    };
    let p50 = row("acquire p50 at half load", 0.5, Bound::AtMost(5.0));
    let p99 = row("acquire p99 at half load", 0.99, Bound::AtMost(40.0));
    drop(server);
    Ok(vec![p50, p99, throughput, turnover(bench)?])
}

/// Acquire, release and start of a new instance, continuously: the cost of a busy day.
fn turnover(bench: &Bench) -> Result<Row, Failure> {
    let ready = if bench.programs.runtime == RuntimeKind::None { 5000 } else { bench.size.pool };
    let options = ServerOptions { is_refilled: true, ..ServerOptions::new(ready, bench.plain.address) };
    let server = bench.programs.server(options, bench.cores.server)?;
    let hosts = ["localhost".to_owned()];
    let bursts = in_turn(
        bench.size.pairs,
        || bench.burst(&bench.plain, &mut Repeated::get("/", &hosts)),
        || bench.burst(&server, &mut Turnover::new(CONNECTIONS)),
    )?;
    let rates: Vec<_> = bursts.iter().map(|((plain, _), (server, _))| (server.rate, plain.rate)).collect();
    let note = "two requests and one instance each".to_owned();
    Ok(Row::of("acquire, release, new instance", "/s", &rates, "plain", Bound::None, note))
}
