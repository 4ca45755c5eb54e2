//! A pool of which all instances are acquired at once: how fast it is full again, and how that affects other instances.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::bench::Bench;
use crate::clock::now;
use crate::container_host::{ContainerHost, Stack, StartMode, millis};
use crate::failure::Failure;
use crate::report::{Bound, Row};
use crate::stats::{Median, median, quantile};

/// Instances of a pool, which are acquired at once.
pub(super) const POOL_SIZE: usize = 8;

/// Acquires all instances of a full pool, and returns the instances per second at which it becomes full again. With
/// `with_releases`, the acquired instances are released and removed meanwhile.
pub(super) fn refill(host: &ContainerHost, with_releases: bool) -> Result<f64, Failure> {
    host.wait_until_ready(POOL_SIZE as u64)?;
    let begin = now();
    let ids = (0..POOL_SIZE).map(|_| host.acquire()).collect::<Result<Vec<_>, _>>()?;
    if with_releases {
        ids.iter().try_for_each(|id| host.release(id))?;
    }
    host.wait_until_ready(POOL_SIZE as u64)?;
    let rate = POOL_SIZE as f64 / begin.elapsed().as_secs_f64();
    if !with_releases {
        ids.iter().try_for_each(|id| host.release(id))?;
    }
    ids.iter().try_for_each(|id| host.wait_until_gone(id))?;
    Ok(rate)
}

/// Instances of a pool whose visitors come in a burst, one after another.
const BURST: usize = 100;
/// Time between two visitors of a burst.
const BURST_INTERVAL: Duration = Duration::from_millis(10);
/// Visitors who come alone, each to a full pool.
const ALONE: usize = 20;

/// The images: the name, a text in the front page, the names of the figures for pages during a refill and for a burst.
/// A page of WordPress takes so long that the processors cannot serve a burst.
const IMAGES: [(&str, &str, &str, Option<&str>); 3] = [
    ("sample", "<h1", "sample: page p99 in a refill", Some("sample: first page of 100 in a second")),
    ("php", "A PHP app of your own", "PHP: page p99 in a refill", Some("PHP: first page of 100 in a second")),
    ("wordpress", "Hello world!", "WordPress: page p99 in a refill", None),
];

/// Measures every image that was built, of a quick run only the first, and prints which were not.
pub(super) fn measure(bench: &Bench) -> Result<Vec<Row>, Failure> {
    let Some(stack) = Stack::find_for("refill") else { return Ok(Vec::new()) };
    let (pages, is_quick) = if bench.size.pairs > 1 { (300, false) } else { (20, true) };
    let mut rows = Vec::new();
    let images = if is_quick { &IMAGES[..1] } else { &IMAGES[..] };
    for &(name, text, impact_row, burst_row) in images {
        if !stack.has_image("refill", name) {
            continue;
        }
        let serve = |target| {
            let (server, core) = (&bench.programs.server, bench.cores.server);
            stack.serve(server, &stack.template(name), target, StartMode::Shared, core)
        };
        rows.push(RefillImpact::measure(&serve(POOL_SIZE)?, text, pages)?.row(impact_row));
        if let Some(row) = burst_row {
            let burst = if is_quick { BURST / 10 } else { BURST };
            rows.push(burst_of_visitors(&serve(burst)?, text, burst, row)?);
        }
    }
    Ok(rows)
}

/// Lets visitors come to a full pool, one after another in even intervals. Returns how long each waited for its first
/// page, from when it was to come, against visitors who come alone.
fn burst_of_visitors(
    host: &ContainerHost,
    text: &str,
    visitors: usize,
    what: &'static str,
) -> Result<Row, Failure> {
    let mut alone = Vec::new();
    for _ in 0..ALONE {
        host.wait_until_ready(visitors as u64)?;
        let begin = now();
        let id = host.acquire()?;
        host.first_page(&id, text)?;
        alone.push(millis(begin.elapsed()));
        host.release(&id)?;
        host.wait_until_gone(&id)?;
    }
    host.wait_until_ready(visitors as u64)?;
    let begin = now();
    let visits: Vec<(String, f64)> = std::thread::scope(|scope| {
        let visit = |number: u32| {
            let at = begin + BURST_INTERVAL * number;
            std::thread::sleep(at.saturating_duration_since(now()));
            let id = host.acquire().map_err(|error| error.to_string())?;
            host.first_page(&id, text).map_err(|error| error.to_string())?;
            Ok::<_, String>((id, millis(at.elapsed())))
        };
        let visits: Vec<_> = (0..visitors as u32).map(|number| scope.spawn(move || visit(number))).collect();
        let panicked = |_| "the thread of a visitor panicked".to_owned();
        visits.into_iter().map(|visit| visit.join().map_err(panicked)?).collect::<Result<_, String>>()
    })?;
    let times: Vec<f64> = visits.iter().map(|(_, took)| *took).collect();
    for (id, _) in &visits {
        host.release(id)?;
    }
    for (id, _) in &visits {
        host.wait_until_gone(id)?;
    }
    let (during, alone) = (median(&times), median(&alone));
    let ratio = |value: f64| value / alone.value;
    Ok(Row {
        what: what.into(),
        measured: during.value,
        unit: "ms",
        ratio: Median { value: ratio(during.value), low: ratio(during.low), high: ratio(during.high) },
        to: "one alone",
        bound: Bound::AtMost(2.0),
        pairs: visitors,
        note: format!("p99 {:.1} ms, alone {:.1}", quantile(&times, 0.99), alone.value),
    })
}

/// The milliseconds of an instance's pages.
struct RefillImpact {
    /// When nothing else happens.
    alone: Vec<f64>,
    /// While the pool is refilled.
    during: Vec<f64>,
}

impl RefillImpact {
    /// Requests at least this number of pages alone and during refills.
    fn measure(host: &ContainerHost, text: &str, pages: usize) -> Result<Self, Failure> {
        let id = host.acquire()?;
        host.wait_until_ready(POOL_SIZE as u64)?;
        let mut impact = Self { alone: Vec::new(), during: Vec::new() };
        // The first page of an instance takes longer than later ones.
        host.first_page(&id, text)?;
        while impact.alone.len() < pages {
            impact.alone.push(host.page_millis(&id, text)?);
        }
        while impact.during.len() < pages {
            let is_over = AtomicBool::new(false);
            let times = std::thread::scope(|scope| {
                let pages = scope.spawn(|| {
                    let mut times = Vec::new();
                    while !is_over.load(Ordering::Acquire) {
                        times.push(host.page_millis(&id, text).map_err(|error| error.to_string())?);
                    }
                    Ok::<_, String>(times)
                });
                let refilled = refill(host, false);
                is_over.store(true, Ordering::Release);
                let times = pages.join().map_err(|_| "the thread of the pages panicked".to_owned());
                refilled.and_then(|_| Ok(times??))
            })?;
            impact.during.extend(times);
        }
        host.release(&id)?;
        host.wait_until_gone(&id)?;
        Ok(impact)
    }

    /// Returns the 99th percentile during refills against that without.
    fn row(&self, what: &'static str) -> Row {
        let [alone, during] = [&self.alone, &self.during].map(|times| quantile(times, 0.99));
        let ratio = during / alone;
        Row {
            what: what.into(),
            measured: during,
            unit: "ms",
            ratio: Median { value: ratio, low: ratio, high: ratio },
            to: "without",
            bound: Bound::AtMost(3.0),
            pairs: self.during.len(),
            note: format!(
                "p50 {:.1} ms, without {:.1}",
                median(&self.during).value,
                median(&self.alone).value
            ),
        }
    }
}
