//! How many instances of a template one visitor may have in an hour and in a day.
//!
//! There are two fixed windows, an hour and a day. A window opens with the first instance that is assigned in it. A
//! visitor is charged only for an assigned instance, in the same step as the claim.

use std::cmp::Reverse;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Millis;

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// The most instances per visitor and template. Zero means no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateLimits {
    /// Instances in one hour.
    pub hourly: u32,
    /// Instances in one day.
    pub daily: u32,
}

/// One window of one visitor: when it opened, and how many instances it counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateWindow {
    opened: Millis,
    used: u32,
}

/// How many instances of one template one visitor has had.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateUsage {
    hour: Option<RateWindow>,
    day: Option<RateWindow>,
}

/// The visitor has had as many instances as the limits allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("Limit: {} per hour, {} per day", limits.hourly, limits.daily)]
pub struct RateLimited {
    /// The limits that apply.
    pub limits: RateLimits,
    /// Time until one more instance is allowed.
    pub retry_after: Duration,
}

impl RateLimited {
    /// Returns whether the refusal holds until its time is over, whatever the visitor does: it may be repeated without
    /// another look at the usage. Both windows end by time alone.
    pub fn is_until_time(&self) -> bool {
        true
    }
}

fn current(window: Option<RateWindow>, length: Duration, now: Millis) -> Option<RateWindow> {
    window.filter(|w| now < w.opened + length)
}

fn wait(window: Option<RateWindow>, limit: u32, length: Duration, now: Millis) -> Option<Duration> {
    let window = current(window, length, now)?;
    (limit > 0 && window.used >= limit).then(|| (window.opened + length).since(now))
}

fn counted(window: Option<RateWindow>, length: Duration, now: Millis) -> Option<RateWindow> {
    let window = current(window, length, now).unwrap_or(RateWindow { opened: now, used: 0 });
    Some(RateWindow { used: window.used.saturating_add(1), ..window })
}

fn refunded(window: Option<RateWindow>, charged_at: Millis) -> Option<RateWindow> {
    match window {
        Some(window) if window.opened <= charged_at => {
            Some(RateWindow { used: window.used.saturating_sub(1), ..window })
                .filter(|window| window.used > 0)
        }
        // This window opened after that charge, which the previous window counted.
        later => later,
    }
}

impl RateLimits {
    /// Returns the limits with at most `hourly` instances in one hour, if that is given and not zero.
    pub fn up_to(self, hourly: Option<u32>) -> Self {
        let lowest = [Some(self.hourly), hourly].into_iter().flatten().filter(|limit| *limit > 0).min();
        Self { hourly: lowest.unwrap_or(0), ..self }
    }

    /// Returns whether there is no limit at all.
    pub fn is_unlimited(self) -> bool {
        self.hourly == 0 && self.daily == 0
    }
}

impl RateUsage {
    /// Rebuilds a usage from a store's record: when each window opened, and how many instances it counts.
    pub(crate) fn recorded(hour: Option<(Millis, u32)>, day: Option<(Millis, u32)>) -> Self {
        let window = |window: Option<(Millis, u32)>| window.map(|(opened, used)| RateWindow { opened, used });
        Self { hour: window(hour), day: window(day) }
    }

    /// Returns the usage after one more instance.
    ///
    /// # Errors
    /// A limit is reached; the error says how long to wait.
    pub fn charged(self, limits: RateLimits, now: Millis) -> Result<Self, RateLimited> {
        let waits = [wait(self.hour, limits.hourly, HOUR, now), wait(self.day, limits.daily, DAY, now)];
        match waits.into_iter().flatten().max() {
            Some(retry_after) => Err(RateLimited { limits, retry_after }),
            None => Ok(Self { hour: counted(self.hour, HOUR, now), day: counted(self.day, DAY, now) }),
        }
    }

    /// Returns the usage without one instance that was charged at `charged_at`. A window that counts no other instance
    /// is closed, as if it had never opened.
    pub fn refunded(self, charged_at: Millis) -> Self {
        Self { hour: refunded(self.hour, charged_at), day: refunded(self.day, charged_at) }
    }

    /// Returns the instances that are still allowed in the tighter window, that window's limit, and the time until it
    /// ends. Of two equally tight windows, the one that ends later counts. `None` without limits.
    pub fn remaining(self, limits: RateLimits, now: Millis) -> Option<(u32, u32, Duration)> {
        let left = |window, limit: u32, length| {
            (limit > 0).then(|| match current(window, length, now) {
                Some(w) => (limit.saturating_sub(w.used), limit, (w.opened + length).since(now)),
                None => (limit, limit, length),
            })
        };
        let (hour, day) = (left(self.hour, limits.hourly, HOUR), left(self.day, limits.daily, DAY));
        hour.into_iter().chain(day).min_by_key(|(left, _, ends)| (*left, Reverse(*ends)))
    }

    /// Returns whether every window has ended, so that the record can be deleted.
    pub fn is_stale(self, now: Millis) -> bool {
        current(self.hour, HOUR, now).is_none() && current(self.day, DAY, now).is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;
    const LIMITS: RateLimits = RateLimits { hourly: 2, daily: 3 };

    #[test]
    fn a_window_opens_with_the_first_instance_and_ends_an_hour_later() {
        let start = Millis(1_000);
        let two =
            RateUsage::default().charged(LIMITS, start).unwrap().charged(LIMITS, start + HOUR / 2).unwrap();
        let refused = two.charged(LIMITS, start + HOUR / 2).unwrap_err();
        assert_eq!(refused.retry_after, HOUR / 2);
        assert_eq!(refused.to_string(), "Limit: 2 per hour, 3 per day");
        assert!(two.charged(LIMITS, start + HOUR).is_ok());
    }

    #[test]
    fn the_day_counts_across_hours() {
        let mut usage = RateUsage::default();
        for hour in 0..3 {
            usage = usage.charged(LIMITS, Millis(0) + HOUR * hour).unwrap();
        }
        assert_eq!(usage.charged(LIMITS, Millis(0) + HOUR * 3).unwrap_err().retry_after, HOUR * 21);
        assert!(usage.is_stale(Millis(0) + DAY));
    }

    #[test]
    fn a_refund_undoes_a_charge_and_no_charge_of_another_window() {
        let one = RateUsage::default().charged(LIMITS, Millis(10)).unwrap();
        let two = one.charged(LIMITS, Millis(20)).unwrap();
        assert_eq!(two.refunded(Millis(20)), one);
        assert_eq!(one.refunded(Millis(10)), RateUsage::default());
        let later = Millis(10) + HOUR;
        let next_hour = one.charged(LIMITS, later).unwrap();
        let refunded = next_hour.refunded(Millis(10));
        assert_eq!(
            refunded.remaining(RateLimits { hourly: 2, daily: 0 }, later),
            Some((1, 2, HOUR)),
            "the charge of this hour"
        );
        assert_eq!(refunded.remaining(RateLimits { hourly: 0, daily: 3 }, later), Some((2, 3, DAY - HOUR)));
    }

    #[test]
    fn the_lower_of_two_hourly_limits_applies_and_zero_is_none() {
        let hourly = |own, other| RateLimits { hourly: own, daily: 3 }.up_to(other);
        for (own, other, expected) in
            [(2, None, 2), (2, Some(1), 1), (2, Some(5), 2), (0, Some(5), 5), (0, None, 0), (2, Some(0), 2)]
        {
            assert_eq!(hourly(own, other), RateLimits { hourly: expected, daily: 3 });
        }
    }

    #[test]
    fn a_limit_of_zero_is_no_limit() {
        let none = RateLimits { hourly: 0, daily: 0 };
        let usage = (0..100).fold(RateUsage::default(), |u, _| u.charged(none, Millis(0)).unwrap());
        assert_eq!(usage.remaining(none, Millis(0)), None);
    }

    #[test]
    fn the_remaining_instances_are_those_of_the_tighter_window() {
        let used = RateUsage::default().charged(LIMITS, Millis(0)).unwrap();
        assert_eq!(used.remaining(LIMITS, Millis(0)), Some((1, 2, HOUR)));
    }

    #[test]
    fn of_two_exhausted_windows_the_longer_wait_is_reported() {
        let both = RateLimits { hourly: 1, daily: 1 };
        let used = RateUsage::default().charged(both, Millis(0)).unwrap();
        assert_eq!(used.remaining(both, Millis(0)), Some((0, 1, DAY)));
        assert_eq!(used.charged(both, Millis(0)).unwrap_err().retry_after, DAY);
    }

    proptest! {
        #![proptest_config(crate::proptest_config())]

        #[test]
        fn the_reported_wait_is_exact_and_no_window_counts_more_than_its_limit(
            hourly in 0_u32..4,
            daily in 0_u32..6,
            gaps in vec(0_u64..40_000_000, 1..60),
        ) {
            let limits = RateLimits { hourly, daily };
            let (mut now, mut usage) = (Millis(1), RateUsage::default());
            for gap in gaps {
                now = now + Duration::from_millis(gap);
                match usage.charged(limits, now) {
                    Ok(more) => usage = more,
                    Err(refused) => {
                        let then = now + refused.retry_after;
                        prop_assert!(usage.charged(limits, then).is_ok());
                        prop_assert!(usage.charged(limits, Millis(then.0 - 1)).is_err());
                    }
                }
                for (window, limit) in [(usage.hour, hourly), (usage.day, daily)] {
                    prop_assert!(limit == 0 || window.is_none_or(|w| w.used <= limit));
                }
                prop_assert!(!usage.is_stale(now) && usage.is_stale(now + DAY));
            }
        }
    }
}
