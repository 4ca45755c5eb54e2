//! The same with 100,000 instances in visitors' hands as with 10: their routes, and their records.

use super::{Bench, hosts, in_turn, micros};
use crate::Failure;
use crate::child::Running;
use crate::load::LINKS;
use crate::report::{Bound, Row};
use crate::roles::Role;
use crate::server::RuntimeKind;
use crate::stats::median;
use crate::traffic::{Same, Turnover};

/// Acquires and releases a second, far from what a server can do.
const RATE: f64 = 10_000.0;

pub(super) fn measure(bench: &Bench) -> Result<Vec<Row>, Failure> {
    let scale = bench.scale;
    let app = Running::role(Role::Plain, bench.cores.load)?;
    // Enough that the acquires of the measurement find one although none is made anew.
    let spare = if bench.programs.runtime == RuntimeKind::None { scale.pool / 10 } else { 4 };
    let few = bench.server(scale.hosts + spare, app.address)?;
    let many = bench.server(scale.many + spare, app.address)?;
    let few_hosts = hosts(&bench.acquire(&few, scale.hosts)?);
    let many_hosts = hosts(&bench.acquire(&many, scale.many)?);

    let bursts = in_turn(
        scale.tight_pairs,
        || bench.burst(&few, &mut Same::get("/", &few_hosts)),
        || bench.burst(&many, &mut Same::get("/", &many_hosts)),
    )?;
    let rates: Vec<_> = bursts.iter().map(|((few, _), (many, _))| (many.rate, few.rate)).collect();
    let note = format!("{} against {} routes", scale.many, scale.hosts);
    let proxied = Row::of("proxied throughput, many routes", "/s", &rates, "few", Bound::AtLeast(0.97), note);

    let windows = in_turn(
        scale.pairs,
        || bench.window(few.address, RATE, &mut Turnover::new(LINKS)),
        || bench.window(many.address, RATE, &mut Turnover::new(LINKS)),
    )?;
    let times: Vec<_> = windows.iter().map(|(few, many)| (micros(many, 0.5), micros(few, 0.5))).collect();
    let tails: Vec<f64> = windows.iter().map(|(_, many)| micros(many, 0.99)).collect();
    let few_tails: Vec<f64> = windows.iter().map(|(few, _)| micros(few, 0.99)).collect();
    let note = format!(
        "{} against {} in visitors' hands, {RATE:.0} /s acquired or released; p99 {:.0} us against {:.0} us",
        scale.many,
        scale.hosts,
        median(&tails).value,
        median(&few_tails).value,
    );
    let acquire = Row::of("acquire p50, many instances", "us", &times, "few", Bound::None, note);
    Ok(vec![proxied, acquire])
}
