//! A pool of which all instances are acquired at once: how fast it is full again, and how that affects other instances.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::clock::now;
use crate::container_host::ContainerHost;
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

/// The milliseconds of an instance's pages.
pub(super) struct RefillImpact {
    /// When nothing else happens.
    alone: Vec<f64>,
    /// While the pool is refilled.
    during: Vec<f64>,
}

impl RefillImpact {
    /// Requests at least this number of pages alone and during refills.
    pub(super) fn measure(host: &ContainerHost, text: &str, pages: usize) -> Result<Self, Failure> {
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
    pub(super) fn row(&self, what: &'static str) -> Row {
        let [alone, during] = [&self.alone, &self.during].map(|times| quantile(times, 0.99));
        let ratio = during / alone;
        Row {
            what,
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
