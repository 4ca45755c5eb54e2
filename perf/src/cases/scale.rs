//! Acquires and proxied requests with 100,000 assigned instances against 10: their routes and their records.

use crate::bench::{Bench, hosts, in_turn, micros};
use crate::child::ChildProcess;
use crate::failure::Failure;
use crate::load::CONNECTIONS;
use crate::peers::Role;
use crate::report::{Bound, Row};
use crate::server::RuntimeKind;
use crate::stats::median;
use crate::traffic::{Repeated, Turnover};

/// Acquires and releases per second, far below the maximum of a server.
const RATE: f64 = 10_000.0;

pub(super) fn measure(bench: &Bench) -> Result<Vec<Row>, Failure> {
    let size = bench.size;
    let app = ChildProcess::role(Role::Plain, bench.cores.load)?;
    // Enough for the acquires of the measurement, because no instance is added.
    let spare = if bench.programs.runtime == RuntimeKind::None { size.pool / 10 } else { 4 };
    let few = bench.server(size.hosts + spare, app.address)?;
    let many = bench.server(size.many + spare, app.address)?;
    let few_hosts = hosts(&bench.acquire(&few, size.hosts)?);
    let many_hosts = hosts(&bench.acquire(&many, size.many)?);

    let bursts = in_turn(
        size.tight_pairs,
        || bench.burst(&few, &mut Repeated::get("/", &few_hosts)),
        || bench.burst(&many, &mut Repeated::get("/", &many_hosts)),
    )?;
    let rates: Vec<_> = bursts.iter().map(|((few, _), (many, _))| (many.rate, few.rate)).collect();
    let note = format!("{} against {} routes", size.many, size.hosts);
    let proxied = Row::of("proxied throughput, many routes", "/s", &rates, "few", Bound::AtLeast(0.97), note);

    let windows = in_turn(
        size.pairs,
        || bench.window(few.address, RATE, &mut Turnover::new(CONNECTIONS)),
        || bench.window(many.address, RATE, &mut Turnover::new(CONNECTIONS)),
    )?;
    let times: Vec<_> = windows.iter().map(|(few, many)| (micros(many, 0.5), micros(few, 0.5))).collect();
    let tails: Vec<f64> = windows.iter().map(|(_, many)| micros(many, 0.99)).collect();
    let few_tails: Vec<f64> = windows.iter().map(|(few, _)| micros(few, 0.99)).collect();
    let note = format!(
        "{} against {} assigned, {RATE:.0} /s acquired or released; p99 {:.0} us against {:.0} us",
        size.many,
        size.hosts,
        median(&tails).value,
        median(&few_tails).value,
    );
    let acquire = Row::of("acquire p50, many instances", "us", &times, "few", Bound::None, note);
    Ok(vec![proxied, acquire])
}
