//! A pool that is emptied at once: how fast it is full again, and what its neighbours feel of that.

use std::sync::atomic::{AtomicBool, Ordering};

use super::restore::{page, quantile};
use crate::Failure;
use crate::clock::now;
use crate::report::{Bound, Row};
use crate::site::Site;
use crate::stats::{Median, median};

/// Instances that a pool holds, and that are taken from it at once.
pub(super) const POOL: usize = 8;

/// Takes all of a full pool, and gives the rate at which it gets full again; with `beside`, while what was taken is
/// given back and taken down.
pub(super) fn refill(site: &Site, beside: bool) -> Result<f64, Failure> {
    site.wait_until_ready(POOL as u64)?;
    let begin = now();
    let ids = (0..POOL).map(|_| site.acquire()).collect::<Result<Vec<_>, _>>()?;
    if beside {
        ids.iter().try_for_each(|id| site.release(id))?;
    }
    site.wait_until_ready(POOL as u64)?;
    let rate = POOL as f64 / begin.elapsed().as_secs_f64();
    if !beside {
        ids.iter().try_for_each(|id| site.release(id))?;
    }
    ids.iter().try_for_each(|id| site.wait_until_gone(id))?;
    Ok(rate)
}

/// How long an instance's pages take, in milliseconds, when nothing else happens and while the pool refills.
pub(super) struct Impact {
    alone: Vec<f64>,
    beside: Vec<f64>,
}

impl Impact {
    /// Takes at least that many pages each way.
    pub(super) fn measure(site: &Site, text: &str, pages: usize) -> Result<Self, Failure> {
        let id = site.acquire()?;
        site.wait_until_ready(POOL as u64)?;
        let mut impact = Self { alone: Vec::new(), beside: Vec::new() };
        // The first shows what a copy does only once.
        site.first_page(&id, text)?;
        while impact.alone.len() < pages {
            impact.alone.push(page(site, &id, text)?);
        }
        while impact.beside.len() < pages {
            let over = AtomicBool::new(false);
            let times = std::thread::scope(|scope| {
                let visitor = scope.spawn(|| {
                    let mut times = Vec::new();
                    while !over.load(Ordering::Acquire) {
                        times.push(page(site, &id, text).map_err(|error| error.to_string())?);
                    }
                    Ok::<_, String>(times)
                });
                let refilled = refill(site, false);
                over.store(true, Ordering::Release);
                let times = visitor.join().map_err(|_| "the visitor's thread panicked".to_owned());
                refilled.and_then(|_| Ok(times??))
            })?;
            impact.beside.extend(times);
        }
        site.release(&id)?;
        site.wait_until_gone(&id)?;
        Ok(impact)
    }

    pub(super) fn row(&self, what: &'static str) -> Row {
        let [alone, beside] = [&self.alone, &self.beside].map(|times| quantile(times, 0.99));
        let ratio = beside / alone;
        Row {
            what,
            measured: beside,
            unit: "ms",
            ratio: Median { value: ratio, low: ratio, high: ratio },
            to: "without",
            bound: Bound::AtMost(3.0),
            pairs: self.beside.len(),
            note: format!(
                "p50 {:.1} ms, without {:.1}",
                median(&self.beside).value,
                median(&self.alone).value
            ),
        }
    }
}
