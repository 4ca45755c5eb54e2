//! What the visitors have had of one template.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use crate::clock::Millis;
use crate::instance::{Limits, RateLimited, Usage};
use crate::store::{Quota, Visitor};

/// How long after the last look a usage is looked at again. No window is longer, so nothing outlives two of these.
const LOOK_AGAIN: Duration = Duration::from_secs(24 * 3600);

#[derive(Default)]
pub(super) struct RateLimits {
    of: HashMap<Visitor, Usage>,
    /// One entry a visitor: when to see whether its usage is stale. In order, since each is appended at its
    /// present plus the same time.
    looks: VecDeque<(Millis, Visitor)>,
}

impl RateLimits {
    /// The visitor's usage after one more instance; nothing is kept yet.
    pub(super) fn charged(
        &self,
        visitor: &Visitor,
        limits: Limits,
        now: Millis,
    ) -> Result<Usage, RateLimited> {
        self.of.get(visitor).copied().unwrap_or_default().charged(limits, now)
    }

    /// Keeps a usage. Without limits none is kept: there would be one for each visitor of a busy day.
    pub(super) fn keep(&mut self, visitor: &Visitor, usage: Usage, limits: Limits, now: Millis) {
        if limits.are_none() {
            return;
        }
        match self.of.get_mut(visitor) {
            Some(kept) => *kept = usage,
            None => {
                self.of.insert(visitor.clone(), usage);
                self.looks.push_back((now + LOOK_AGAIN, visitor.clone()));
            }
        }
    }

    /// Undoes a charge that was made at that time.
    pub(super) fn refund(&mut self, visitor: &Visitor, charged_at: Millis) {
        if let Some(usage) = self.of.get_mut(visitor) {
            *usage = usage.refunded(charged_at);
        }
    }

    /// What is left to the visitor.
    pub(super) fn quota(&self, visitor: &Visitor, limits: Limits, now: Millis) -> Option<Quota> {
        let usage = self.of.get(visitor).copied().unwrap_or_default();
        let (remaining, limit, reset) = usage.remaining(limits, now)?;
        Some(Quota { limit, remaining, reset })
    }

    /// Looks at no more than `limit` usages and drops the stale ones.
    pub(super) fn tidy(&mut self, now: Millis, limit: usize) {
        for _ in 0..limit {
            let Some((_, visitor)) = self.looks.pop_front_if(|(at, _)| *at <= now) else { return };
            if self.of.get(&visitor).is_some_and(|usage| usage.is_stale(now)) {
                self.of.remove(&visitor);
            } else {
                self.looks.push_back((now + LOOK_AGAIN, visitor));
            }
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.of.len().max(self.looks.len())
    }
}
