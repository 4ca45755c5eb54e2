//! What a server uses that has many routes and some ready instances, and no requests.

use std::time::Duration;

use crate::bench::Bench;
use crate::clock::now;
use crate::failure::Failure;
use crate::load::{self, Until};
use crate::memory;
use crate::progress;
use crate::report::{Bound, Row};
use crate::server::ServerOptions;
use crate::stats::{Median, median};
use crate::traffic::Acquires;

/// Ready instances.
const READY: usize = 20;
/// Most of one processor, in percent, and most memory, in MiB.
const CPU_BOUND: Bound = Bound::AtMost(1.0);
const MEMORY_BOUND: Bound = Bound::AtMost(60.0);

/// Assigns all but a few instances, and measures while nothing happens.
pub(super) fn measure(bench: &Bench) -> Result<Vec<Row>, Failure> {
    let routes = bench.size.idle_routes;
    let ready = READY.min(bench.size.pool / 2);
    let options =
        ServerOptions { returns_memory: true, ..ServerOptions::new(routes + ready, bench.plain.address) };
    let server = bench.programs.server(options, bench.cores.server)?;
    let mut acquires = Acquires::new(1);
    load::closed(server.address, Until::Responses(routes as u64), &mut acquires)?;
    // What the acquires leave to be done.
    std::thread::sleep(bench.size.idle_window);
    let mut shares = Vec::new();
    for window in 0..bench.size.pairs {
        progress::step("window", window + 1, bench.size.pairs);
        let (begin, before) = (now(), server.cpu_time());
        std::thread::sleep(bench.size.idle_window);
        let used = server.cpu_time().saturating_sub(before);
        // The clock of processor time counts in steps.
        let used = used.max(Duration::from_nanos(1));
        shares.push(100.0 * used.as_secs_f64() / begin.elapsed().as_secs_f64());
    }
    let memory = memory::of_process(server.id())? as f64 / f64::from(1 << 20);
    let memory = Median { value: memory, low: memory, high: memory };
    let note = format!("{} routes, {ready} ready, no request", acquires.ids.len());
    Ok(vec![
        Row::absolute("idle: processor", "%", median(&shares), CPU_BOUND, shares.len(), note.clone()),
        Row::absolute("idle: memory", "MiB", memory, MEMORY_BOUND, 1, note),
    ])
}
