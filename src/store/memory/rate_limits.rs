//! How many instances of one template each visitor has claimed.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use crate::clock::Millis;
use crate::instance::{RateLimited, RateLimits, RateUsage};
use crate::store::{Quota, Visitor};

/// How often the usage of a visitor is checked for staleness. No window is longer, so no usage is kept for more than
/// twice this time.
const STALE_CHECK_INTERVAL: Duration = Duration::from_secs(24 * 3600);

/// The usage of each visitor with limits.
#[derive(Default)]
pub(super) struct VisitorUsages {
    by_visitor: HashMap<Visitor, RateUsage>,
    /// When to check which visitor's usage for staleness; one entry a visitor. In the order of the times, because each
    /// is appended with the present plus the same interval.
    checks: VecDeque<(Millis, Visitor)>,
}

impl VisitorUsages {
    /// Returns the visitor's usage after one more instance, and stores nothing yet.
    ///
    /// # Errors
    /// The visitor has reached a limit.
    pub(super) fn charged(
        &self,
        visitor: &Visitor,
        limits: RateLimits,
        now: Millis,
    ) -> Result<RateUsage, RateLimited> {
        self.by_visitor.get(visitor).copied().unwrap_or_default().charged(limits, now)
    }

    /// Stores a usage. Without limits none is stored: there would be one for each visitor of a busy day.
    pub(super) fn store(&mut self, visitor: &Visitor, usage: RateUsage, limits: RateLimits, now: Millis) {
        if limits.is_unlimited() {
            return;
        }
        match self.by_visitor.get_mut(visitor) {
            Some(stored) => *stored = usage,
            None => {
                self.by_visitor.insert(visitor.clone(), usage);
                self.checks.push_back((now + STALE_CHECK_INTERVAL, visitor.clone()));
            }
        }
    }

    /// Undoes a charge that was made at `charged_at`.
    pub(super) fn refund(&mut self, visitor: &Visitor, charged_at: Millis) {
        if let Some(usage) = self.by_visitor.get_mut(visitor) {
            *usage = usage.refunded(charged_at);
        }
    }

    /// Returns what the visitor may still claim; `None` without limits.
    pub(super) fn quota(&self, visitor: &Visitor, limits: RateLimits, now: Millis) -> Option<Quota> {
        let usage = self.by_visitor.get(visitor).copied().unwrap_or_default();
        let (remaining, limit, reset) = usage.remaining(limits, now)?;
        Some(Quota { limit, remaining, reset })
    }

    /// Checks at most `limit` usages and removes those that are stale.
    pub(super) fn remove_stale(&mut self, now: Millis, limit: usize) {
        for _ in 0..limit {
            let Some((_, visitor)) = self.checks.pop_front_if(|(at, _)| *at <= now) else { return };
            if self.by_visitor.get(&visitor).is_some_and(|usage| usage.is_stale(now)) {
                self.by_visitor.remove(&visitor);
            } else {
                self.checks.push_back((now + STALE_CHECK_INTERVAL, visitor));
            }
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.by_visitor.len().max(self.checks.len())
    }
}
