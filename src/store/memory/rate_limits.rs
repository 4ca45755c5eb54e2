//! How many instances of one template each visitor has claimed, and how often visitors extended leases.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Millis;
use crate::instance::{RateLimits, RateUsage, Visitor};
use crate::store::Quota;

/// How often the usage of a network is checked for staleness. No window is longer, so no usage is kept for more than
/// twice this time.
const STALE_CHECK_INTERVAL: Duration = Duration::from_secs(24 * 3600);

/// The usage of each network of visitors with limits.
#[derive(Default)]
pub(super) struct VisitorUsages {
    by_network: HashMap<Arc<str>, RateUsage>,
    /// When to check which network's usage for staleness; one entry a network. In the order of the times, because each
    /// is appended with the present plus the same interval.
    checks: VecDeque<(Millis, Arc<str>)>,
}

impl VisitorUsages {
    /// Returns the usage of each of the visitor's networks, with the network's factor.
    fn of(&self, visitor: &Visitor) -> impl Iterator<Item = (u32, RateUsage)> {
        let usage = |name| self.by_network.get(name).copied().unwrap_or_default();
        visitor.networks().map(move |network| (network.factor, usage(network.name)))
    }

    /// Returns the time until the visitor may be charged once more; `None` if that is now.
    pub(super) fn wait(&self, visitor: &Visitor, limits: RateLimits, now: Millis) -> Option<Duration> {
        let waits = self.of(visitor).filter_map(|(factor, usage)| usage.wait(limits.times(factor), now));
        waits.max()
    }

    /// Charges the visitor. Without hourly and daily limits nothing is stored: there would be a usage for each visitor
    /// of a busy day.
    pub(super) fn charge(&mut self, visitor: &Visitor, limits: RateLimits, now: Millis) {
        if !limits.has_windows() {
            return;
        }
        for network in visitor.networks() {
            match self.by_network.get_mut(network.name) {
                Some(usage) => *usage = usage.charged(now),
                None => {
                    let name: Arc<str> = network.name.into();
                    self.by_network.insert(name.clone(), RateUsage::default().charged(now));
                    self.checks.push_back((now + STALE_CHECK_INTERVAL, name));
                }
            }
        }
    }

    /// Undoes a charge that was made at `charged_at`.
    pub(super) fn refund(&mut self, visitor: &Visitor, charged_at: Millis) {
        for network in visitor.networks() {
            if let Some(usage) = self.by_network.get_mut(network.name) {
                *usage = usage.refunded(charged_at);
            }
        }
    }

    /// Returns what the visitor may still claim; `None` without limits.
    pub(super) fn quota(&self, visitor: &Visitor, limits: RateLimits, now: Millis) -> Option<Quota> {
        Quota::tightest(self.of(visitor), limits, now)
    }

    /// Checks at most `limit` usages and removes those that are stale.
    pub(super) fn remove_stale(&mut self, now: Millis, limit: usize) {
        for _ in 0..limit {
            let Some((_, name)) = self.checks.pop_front_if(|(at, _)| *at <= now) else { return };
            if self.by_network.get(&name).is_some_and(|usage| usage.is_stale(now)) {
                self.by_network.remove(&name);
            } else {
                self.checks.push_back((now + STALE_CHECK_INTERVAL, name));
            }
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.by_network.len().max(self.checks.len())
    }
}
