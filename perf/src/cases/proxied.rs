//! Requests to an instance, through the server and without it.

use crate::bench::{Bench, hosts, in_turn, micros};
use crate::child::ChildProcess;
use crate::failure::Failure;
use crate::peers::Role;
use crate::report::{Bound, Row};
use crate::stats::median;
use crate::traffic::Repeated;

/// The path that is requested of the sample app: its front page.
const PAGE: &str = "/";

/// Measures how much longer a request to the sample app takes through the server. The app runs beside the load in both
/// cases.
pub(super) fn time(bench: &Bench) -> Result<Vec<Row>, Failure> {
    let app = bench.programs.sample_app(bench.cores.load)?;
    let server = bench.server(bench.size.hosts, app.address)?;
    let hosts = hosts(&bench.acquire(&server, bench.size.hosts)?);
    let traffic = || Repeated::get(PAGE, &hosts);
    let (burst, _) = bench.burst(&server, &mut traffic())?;
    let rate = burst.rate / 2.0;
    let windows = in_turn(
        bench.size.pairs,
        || Ok((bench.rtt()?, bench.window(app.address, rate, &mut traffic())?)),
        || bench.window(server.address, rate, &mut traffic()),
    )?;
    let chart = format!("A page of the sample app, {rate:.0} requests per second");
    bench.findings.add_line(&chart, "direct", windows.iter().map(|((_, direct), _)| &direct.times));
    bench.findings.add_line(&chart, "Try It Now", windows.iter().map(|(_, proxied)| &proxied.times));
    let [rtt, direct, proxied, direct_p99, proxied_p99] = [
        windows.iter().map(|((rtt, _), _)| *rtt).collect::<Vec<f64>>(),
        windows.iter().map(|((_, direct), _)| micros(direct, 0.5)).collect(),
        windows.iter().map(|(_, proxied)| micros(proxied, 0.5)).collect(),
        windows.iter().map(|((_, direct), _)| micros(direct, 0.99)).collect(),
        windows.iter().map(|(_, proxied)| micros(proxied, 0.99)).collect(),
    ];
    let added: Vec<f64> = (0..windows.len()).map(|i| (proxied[i] - direct[i]) / rtt[i]).collect();
    let middle = |values: &[f64]| median(values).value;
    Ok(vec![Row {
        what: "proxied p50 over direct".into(),
        measured: middle(&proxied),
        unit: "us",
        ratio: median(&added),
        to: "rtt more",
        bound: Bound::AtMost(2.5),
        pairs: added.len(),
        note: format!(
            "at {rate:.0} /s; direct {:.1} us; rtt {:.1} us; p99 {:.0} us, direct {:.0} us",
            middle(&direct),
            middle(&rtt),
            middle(&proxied_p99),
            middle(&direct_p99),
        ),
    }])
}

/// Measures how many requests per second the server passes to a fixed upstream. There are two figures: against that
/// upstream on a core of its own, like the server; and against it where it runs, beside the load.
pub(super) fn throughput(bench: &Bench) -> Result<Vec<Row>, Failure> {
    let app = ChildProcess::role(Role::Plain, bench.cores.load)?;
    let server = bench.server(bench.size.hosts, app.address)?;
    let hosts = hosts(&bench.acquire(&server, bench.size.hosts)?);
    let traffic = || Repeated::get("/", &hosts);
    let bursts = in_turn(
        bench.size.pairs,
        || Ok((bench.burst(&bench.plain, &mut traffic())?, bench.burst(&app, &mut traffic())?)),
        || bench.burst(&server, &mut traffic()),
    )?;
    let middle = |values: Vec<f64>| median(&values).value;
    let rate = middle(bursts.iter().map(|(_, (server, _))| server.rate).collect());
    let each = middle(bursts.iter().map(|(_, (_, each))| each.as_secs_f64() * 1e6).collect());
    let own_core: Vec<f64> =
        bursts.iter().map(|(((direct, _), _), (server, _))| server.rate / direct.rate).collect();
    let in_place: Vec<f64> =
        bursts.iter().map(|((_, (direct, _)), (server, _))| server.rate / direct.rate).collect();
    let direct = middle(bursts.iter().map(|(((direct, _), _), _)| direct.rate).collect());
    let direct_in_place = middle(bursts.iter().map(|((_, (direct, _)), _)| direct.rate).collect());
    let direct_each = middle(bursts.iter().map(|(((_, each), _), _)| each.as_secs_f64() * 1e6).collect());
    let row = |what: &'static str, ratios: Vec<f64>, note| Row {
        what: what.into(),
        measured: rate,
        unit: "/s",
        ratio: median(&ratios),
        to: "direct",
        bound: Bound::AtLeast(0.4),
        pairs: ratios.len(),
        note,
    };
    Ok(vec![
        row(
            "proxied throughput (direct: own core)",
            own_core,
            format!("processor time {each:.1} us each; direct {direct:.0} /s, {direct_each:.1} us"),
        ),
        row(
            "proxied throughput (direct: in its place)",
            in_place,
            format!("direct {direct_in_place:.0} /s: the app shares a core with the load in both"),
        ),
    ])
}
