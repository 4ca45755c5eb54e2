//! The same with 100,000 instances in visitors' hands as with 10: their routes, and their records.

use super::{Bench, in_turn, micros};
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
    let few_hosts = bench.acquire(&few, scale.hosts)?;
    let many_hosts = bench.acquire(&many, scale.many)?;

    let bursts = in_turn(
        scale.tight_pairs,
        || bench.burst(&few, &mut Same::get("/", &few_hosts)),
        || bench.burst(&many, &mut Same::get("/", &many_hosts)),
    )?;
    let ratios: Vec<f64> = bursts.iter().map(|((few, _), (many, _))| many.rate / few.rate).collect();
    let rates: Vec<f64> = bursts.iter().map(|(_, (many, _))| many.rate).collect();
    let proxied = Row {
        what: "proxied throughput, many routes",
        measured: median(&rates).value,
        unit: "/s",
        ratio: median(&ratios),
        to: "few",
        bound: Bound::AtLeast(0.97),
        pairs: ratios.len(),
        note: format!("{} against {} routes", scale.many, scale.hosts),
    };

    let windows = in_turn(
        scale.pairs,
        || bench.window(few.address, RATE, &mut Turnover::new(LINKS)),
        || bench.window(many.address, RATE, &mut Turnover::new(LINKS)),
    )?;
    let ratios: Vec<f64> = windows.iter().map(|(few, many)| micros(many, 0.5) / micros(few, 0.5)).collect();
    let times: Vec<f64> = windows.iter().map(|(_, many)| micros(many, 0.5)).collect();
    let tails: Vec<f64> = windows.iter().map(|(_, many)| micros(many, 0.99)).collect();
    let few_tails: Vec<f64> = windows.iter().map(|(few, _)| micros(few, 0.99)).collect();
    let acquire = Row {
        what: "acquire p50, many instances",
        measured: median(&times).value,
        unit: "us",
        ratio: median(&ratios),
        to: "few",
        bound: Bound::None,
        pairs: ratios.len(),
        note: format!(
            "{} against {} in visitors' hands, {RATE:.0} /s acquired or released; p99 {:.0} us against {:.0} us",
            scale.many,
            scale.hosts,
            median(&tails).value,
            median(&few_tails).value,
        ),
    };
    Ok(vec![proxied, acquire])
}
