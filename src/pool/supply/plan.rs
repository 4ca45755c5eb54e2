//! What a pool should do next, as a pure function of what was seen.

use crate::instance::Counts;
use crate::template::PoolSizes;

/// What was seen of one template's pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct View {
    /// Living instances by state.
    pub counts: Counts,
    /// Attempts under way on this server.
    pub making: usize,
    /// Visitors who wait for an instance.
    pub waiting: usize,
    /// Whether a refill was begun and has not reached the target yet.
    pub refilling: bool,
    /// Whether the interval has come round.
    pub interval: bool,
    /// Whether the last attempt failed and its pause is not over.
    pub pausing: bool,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Attempts to begin now.
    pub start: usize,
    /// Whether more must follow when these are done.
    pub refilling: bool,
    /// Whether fewer are ready than the operator's minimum.
    pub low: bool,
}

/// Refill begins below `target * replenish_threshold` at once, else at the interval, or when a visitor waits; once
/// begun it goes on to the target, a bounded number at a time, within the capacity. A pause stops it.
pub(crate) fn plan(view: View, sizes: &PoolSizes) -> Plan {
    let Counts { warming, ready, assigned } = view.counts;
    let coming = ready + warming;
    let wanted = sizes.target + view.waiting;
    let short = (ready as f64) < sizes.target as f64 * sizes.replenish_threshold;
    let begin = view.refilling || short || view.interval || view.waiting > warming;
    let missing = if begin { wanted.saturating_sub(coming) } else { 0 };
    let room = sizes.max.saturating_sub(coming + assigned);
    let at_once = sizes.concurrency.saturating_sub(view.making);
    let start = if view.pausing { 0 } else { missing.min(room).min(at_once) };
    Plan {
        start,
        // While some are coming their number is a guess: one may have become ready since it was counted as coming.
        refilling: begin && (missing.min(room) > start || (ready < wanted && warming > 0)),
        low: ready < sizes.min,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    fn sizes() -> PoolSizes {
        PoolSizes {
            target: 10,
            min: 3,
            max: 20,
            by_memory: false,
            replenish_threshold: 0.5,
            replenish_interval: Duration::from_secs(10),
            concurrency: 4,
        }
    }
    fn view(warming: usize, ready: usize, assigned: usize) -> View {
        View {
            counts: Counts { warming, ready, assigned },
            making: warming,
            waiting: 0,
            refilling: false,
            interval: false,
            pausing: false,
        }
    }

    #[test]
    fn an_empty_pool_is_filled_a_bounded_number_at_a_time() {
        assert_eq!(plan(view(0, 0, 0), &sizes()), Plan { start: 4, refilling: true, low: true });
        assert_eq!(plan(view(4, 0, 0), &sizes()).start, 0);
        assert_eq!(plan(View { refilling: true, ..view(3, 6, 0) }, &sizes()).start, 1);
        assert!(plan(View { refilling: true, ..view(1, 9, 0) }, &sizes()).refilling);
        assert!(!plan(View { refilling: true, ..view(0, 10, 0) }, &sizes()).refilling);
    }

    #[test]
    fn above_the_threshold_a_refill_waits_for_the_interval() {
        assert_eq!(plan(view(0, 6, 0), &sizes()).start, 0);
        assert_eq!(plan(View { interval: true, ..view(0, 6, 0) }, &sizes()).start, 4);
        assert_eq!(plan(view(0, 4, 0), &sizes()).start, 4);
    }

    #[test]
    fn the_capacity_counts_all_states() {
        assert_eq!(plan(view(0, 0, 18), &sizes()).start, 2);
        assert_eq!(plan(view(0, 0, 20), &sizes()), Plan { start: 0, refilling: false, low: true });
    }

    #[test]
    fn a_waiting_visitor_is_served_beyond_the_target() {
        let busy = View { waiting: 2, ..view(0, 10, 5) };
        assert_eq!(plan(busy, &sizes()).start, 2);
    }

    #[test]
    fn a_pause_stops_attempts_but_remembers_the_refill() {
        let plan = plan(View { pausing: true, ..view(0, 0, 0) }, &sizes());
        assert_eq!((plan.start, plan.refilling), (0, true));
    }

    proptest! {
        #[test]
        fn no_plan_breaks_the_capacity_or_the_bound(
            warming in 0_usize..30, ready in 0_usize..30, assigned in 0_usize..30, waiting in 0_usize..30,
            making in 0_usize..10, flags in 0_u8..8,
        ) {
            let v = View {
                counts: Counts { warming, ready, assigned }, making, waiting,
                refilling: flags & 1 > 0, interval: flags & 2 > 0, pausing: flags & 4 > 0,
            };
            let p = plan(v, &sizes());
            prop_assert!(p.start == 0 || warming + ready + assigned + p.start <= sizes().max);
            prop_assert!(p.start == 0 || making + p.start <= sizes().concurrency);
        }
    }
}
