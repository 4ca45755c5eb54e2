//! How many instances of a template one visitor may have in an hour, in a day, and at a time.
//!
//! There are two fixed windows, an hour and a day. A window opens with the first charge in it. A visitor is charged for
//! each instance that is assigned and for each extension of a lease, in the same step.
//!
//! A visitor counts in several networks, see [`Visitor`](super::Visitor). A limit is reached when it is reached in one
//! of them, and each charge is one in each of them.

use std::cmp::Reverse;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Millis;

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// The most instances per visitor and template. Zero means no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateLimits {
    /// Instances and extensions in one hour.
    pub hourly: u32,
    /// Instances and extensions in one day.
    pub daily: u32,
    /// Instances that are assigned at a time.
    pub concurrent: u32,
}

/// One window of one network: when it opened, and how many charges it counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateWindow {
    opened: Millis,
    used: u32,
}

/// The charges of one network for one template.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateUsage {
    hour: Option<RateWindow>,
    day: Option<RateWindow>,
}

/// What a visitor has reached: the limits of the windows, or the limit of instances at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReachedLimit {
    /// The limit of an hour or of a day.
    Window,
    /// The limit of instances at a time.
    Concurrent,
}

/// The visitor has had, or has, as many instances as the limits allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimited {
    /// The limits that apply, as configured.
    pub limits: RateLimits,
    /// Which limit the visitor has to wait for. If several are reached, the one with the longest wait.
    pub reached: ReachedLimit,
    /// Time until one more instance is allowed. Less for an instance at a time, if one ends early.
    pub retry_after: Duration,
}

impl fmt::Display for RateLimited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RateLimits { hourly, daily, concurrent } = self.limits;
        match self.reached {
            ReachedLimit::Window => write!(f, "Limit: {hourly} per hour, {daily} per day"),
            ReachedLimit::Concurrent => write!(f, "Limit: {concurrent} at a time"),
        }
    }
}

impl std::error::Error for RateLimited {}

impl RateLimited {
    /// Returns whether the refusal holds until its time is over, whatever the visitor does: it may be repeated without
    /// another look at the usage. The windows end by time alone; the end of an instance lets the visitor have another.
    pub fn is_until_time(&self) -> bool {
        self.reached == ReachedLimit::Window
    }

    /// Returns the refusal of a visitor who has to wait that long for a window, and that long for an instance to end;
    /// `None` without a wait.
    pub(crate) fn with_waits(
        limits: RateLimits,
        for_window: Option<Duration>,
        for_end: Option<Duration>,
    ) -> Option<Self> {
        let (reached, retry_after) = match (for_window, for_end) {
            (window, Some(end)) if window.is_none_or(|window| window < end) => {
                (ReachedLimit::Concurrent, end)
            }
            (window, _) => (ReachedLimit::Window, window?),
        };
        Some(Self { limits, reached, retry_after })
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
    /// No limit at all.
    pub const NONE: Self = Self { hourly: 0, daily: 0, concurrent: 0 };

    /// Returns the limits with at most `hourly` instances in one hour, if that is given and not zero.
    pub fn up_to(self, hourly: Option<u32>) -> Self {
        let lowest = [Some(self.hourly), hourly].into_iter().flatten().filter(|limit| *limit > 0).min();
        Self { hourly: lowest.unwrap_or(0), ..self }
    }

    /// Returns whether there is no limit at all. Then nothing is counted.
    pub fn is_unlimited(self) -> bool {
        self == Self::NONE
    }

    /// Returns whether an hour or a day has a limit. Without one, no charges are counted.
    pub fn has_windows(self) -> bool {
        self.hourly > 0 || self.daily > 0
    }

    /// Returns the limits of a network whose clients together may use `factor` times the limits.
    #[must_use]
    pub fn times(self, factor: u32) -> Self {
        let times = |limit: u32| limit.saturating_mul(factor);
        Self { hourly: times(self.hourly), daily: times(self.daily), concurrent: times(self.concurrent) }
    }
}

impl RateUsage {
    /// Rebuilds a usage from a store's record: when each window opened, and how many charges it counts.
    pub(crate) fn recorded(hour: Option<(Millis, u32)>, day: Option<(Millis, u32)>) -> Self {
        let window = |window: Option<(Millis, u32)>| window.map(|(opened, used)| RateWindow { opened, used });
        Self { hour: window(hour), day: window(day) }
    }

    /// Returns the time until one more charge is allowed; `None` if it is allowed now.
    pub fn wait(self, limits: RateLimits, now: Millis) -> Option<Duration> {
        wait(self.hour, limits.hourly, HOUR, now).max(wait(self.day, limits.daily, DAY, now))
    }

    /// Returns the usage after one more charge.
    #[must_use]
    pub fn charged(self, now: Millis) -> Self {
        Self { hour: counted(self.hour, HOUR, now), day: counted(self.day, DAY, now) }
    }

    /// Returns the usage without a charge that was made at `charged_at`. A window that counts no other charge is
    /// closed, as if it had never opened.
    #[must_use]
    pub fn refunded(self, charged_at: Millis) -> Self {
        Self { hour: refunded(self.hour, charged_at), day: refunded(self.day, charged_at) }
    }

    /// Returns the charges that are still allowed in the tighter window of a network that may use `factor` times the
    /// limits, that window's limit without the factor, and the time until it ends. Of two equally tight windows, the
    /// one that ends later counts. `None` without limits.
    pub fn remaining(self, limits: RateLimits, factor: u32, now: Millis) -> Option<(u32, u32, Duration)> {
        let left = |window, limit: u32, length| {
            let allowed = limit.saturating_mul(factor);
            (allowed > 0).then(|| match current(window, length, now) {
                Some(w) => (allowed.saturating_sub(w.used), limit, (w.opened + length).since(now)),
                None => (allowed, limit, length),
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
    const LIMITS: RateLimits = RateLimits { hourly: 2, daily: 3, concurrent: 0 };

    /// Charges as a store does: not beyond the limits.
    fn charged(usage: RateUsage, limits: RateLimits, now: Millis) -> Result<RateUsage, Duration> {
        usage.wait(limits, now).map_or(Ok(usage.charged(now)), Err)
    }

    #[test]
    fn a_window_opens_with_the_first_instance_and_ends_an_hour_later() {
        let start = Millis(1_000);
        let two = RateUsage::default().charged(start).charged(start + HOUR / 2);
        assert_eq!(two.wait(LIMITS, start + HOUR / 2), Some(HOUR / 2));
        assert_eq!(two.wait(LIMITS.times(2), start + HOUR / 2), None, "a network that may use twice as much");
        assert_eq!(two.wait(LIMITS, start + HOUR), None);
    }

    #[test]
    fn the_day_counts_across_hours() {
        let mut usage = RateUsage::default();
        for hour in 0..3 {
            usage = charged(usage, LIMITS, Millis(0) + HOUR * hour).unwrap();
        }
        assert_eq!(usage.wait(LIMITS, Millis(0) + HOUR * 3), Some(HOUR * 21));
        assert!(usage.is_stale(Millis(0) + DAY));
    }

    #[test]
    fn a_refund_undoes_a_charge_and_no_charge_of_another_window() {
        let one = RateUsage::default().charged(Millis(10));
        let two = one.charged(Millis(20));
        assert_eq!(two.refunded(Millis(20)), one);
        assert_eq!(one.refunded(Millis(10)), RateUsage::default());
        let later = Millis(10) + HOUR;
        let next_hour = one.charged(later);
        let refunded = next_hour.refunded(Millis(10));
        assert_eq!(
            refunded.remaining(RateLimits { hourly: 2, ..RateLimits::NONE }, 1, later),
            Some((1, 2, HOUR)),
            "the charge of this hour"
        );
        assert_eq!(
            refunded.remaining(RateLimits { daily: 3, ..RateLimits::NONE }, 1, later),
            Some((2, 3, DAY - HOUR))
        );
    }

    #[test]
    fn the_lower_of_two_hourly_limits_applies_and_zero_is_none() {
        let limits = |hourly| RateLimits { hourly, daily: 3, concurrent: 4 };
        for (own, other, expected) in
            [(2, None, 2), (2, Some(1), 1), (2, Some(5), 2), (0, Some(5), 5), (0, None, 0), (2, Some(0), 2)]
        {
            assert_eq!(limits(own).up_to(other), limits(expected));
        }
    }

    #[test]
    fn a_limit_of_zero_is_no_limit() {
        let usage = (0..100).fold(RateUsage::default(), |usage, _| usage.charged(Millis(0)));
        assert_eq!(usage.wait(RateLimits::NONE, Millis(0)), None);
        assert_eq!(usage.remaining(RateLimits::NONE, 1, Millis(0)), None);
    }

    #[test]
    fn the_remaining_instances_are_those_of_the_tighter_window() {
        let used = RateUsage::default().charged(Millis(0));
        assert_eq!(used.remaining(LIMITS, 1, Millis(0)), Some((1, 2, HOUR)));
        assert_eq!(used.remaining(LIMITS, 4, Millis(0)), Some((7, 2, HOUR)));
    }

    #[test]
    fn of_two_exhausted_windows_the_longer_wait_is_reported() {
        let both = RateLimits { hourly: 1, daily: 1, concurrent: 0 };
        let used = RateUsage::default().charged(Millis(0));
        assert_eq!(used.remaining(both, 1, Millis(0)), Some((0, 1, DAY)));
        assert_eq!(used.wait(both, Millis(0)), Some(DAY));
    }

    #[test]
    fn of_two_reached_limits_the_one_with_the_longer_wait_is_reported() {
        let limits = RateLimits { concurrent: 1, ..LIMITS };
        let reported = |window: Option<u64>, end: Option<u64>| {
            let [window, end] = [window, end].map(|wait| wait.map(Duration::from_secs));
            let limited = RateLimited::with_waits(limits, window, end)?;
            Some((limited.to_string(), limited.retry_after.as_secs()))
        };
        let (windows, at_a_time) =
            ("Limit: 2 per hour, 3 per day".to_owned(), "Limit: 1 at a time".to_owned());
        assert_eq!(reported(None, None), None);
        assert_eq!(reported(Some(5), None), Some((windows.clone(), 5)));
        assert_eq!(reported(Some(5), Some(5)), Some((windows, 5)));
        assert_eq!(reported(Some(5), Some(6)), Some((at_a_time.clone(), 6)));
        assert_eq!(reported(None, Some(1)), Some((at_a_time, 1)));
    }

    proptest! {
        #![proptest_config(crate::proptest_config())]

        #[test]
        fn the_reported_wait_is_exact_and_no_window_counts_more_than_its_limit(
            hourly in 0_u32..4,
            daily in 0_u32..6,
            gaps in vec(0_u64..40_000_000, 1..60),
        ) {
            let limits = RateLimits { hourly, daily, concurrent: 0 };
            let (mut now, mut usage) = (Millis(1), RateUsage::default());
            for gap in gaps {
                now = now + Duration::from_millis(gap);
                match charged(usage, limits, now) {
                    Ok(more) => usage = more,
                    Err(wait) => {
                        let then = now + wait;
                        prop_assert_eq!(usage.wait(limits, then), None);
                        prop_assert!(usage.wait(limits, Millis(then.0 - 1)).is_some());
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
