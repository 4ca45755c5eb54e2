//! How many instances a pool makes now: a pure function of what was observed.

use crate::instance::StateCounts;
use crate::template::PoolSizes;

/// What was observed of one pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PoolObservation {
    /// Living instances by state.
    pub(super) counts: StateCounts,
    /// Provisioning attempts in progress on this node.
    pub(super) attempts: usize,
    /// Visitors who wait for an instance.
    pub(super) waiting: usize,
    /// Ready instances more than the target that are wanted.
    pub(super) surplus: usize,
    /// Whether a refill was begun and has not reached the target yet.
    pub(super) is_refilling: bool,
    /// Whether the template's replenish interval has passed.
    pub(super) is_interval_over: bool,
    /// Whether the last attempt failed and the pause after it is not over.
    pub(super) is_pausing: bool,
}

/// What a pool does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SupplyPlan {
    /// Attempts to begin now.
    pub(super) start: usize,
    /// Whether more attempts must follow when these have ended.
    pub(super) is_refilling: bool,
    /// Whether fewer instances are ready than the template's minimum.
    pub(super) is_low: bool,
}

/// Returns what a pool does next.
///
/// A refill begins at once below `target * replenish_threshold` ready instances, else at the interval, or when a
/// visitor waits. Once begun it continues up to the target, a bounded number of attempts at a time, within the
/// capacity. No attempt begins during a pause.
pub(super) fn plan(seen: PoolObservation, sizes: &PoolSizes) -> SupplyPlan {
    let StateCounts { warming, ready, assigned } = seen.counts;
    let coming = ready + warming;
    let wanted = sizes.target + seen.surplus + seen.waiting;
    let is_below_threshold = (ready as f64) < sizes.target as f64 * sizes.replenish_threshold;
    let begin = seen.is_refilling
        || seen.surplus > 0
        || is_below_threshold
        || seen.is_interval_over
        || seen.waiting > warming;
    let missing = if begin { wanted.saturating_sub(coming) } else { 0 };
    let room = sizes.max.saturating_sub(coming + assigned);
    let concurrent = sizes.concurrency.saturating_sub(seen.attempts);
    let start = if seen.is_pausing { 0 } else { missing.min(room).min(concurrent) };
    SupplyPlan {
        start,
        // While instances are warming, `coming` may be too high: one may have become ready between the two counts.
        is_refilling: begin && (missing.min(room) > start || (ready < wanted && warming > 0)),
        is_low: ready < sizes.min,
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
            limited_by_memory: false,
            replenish_threshold: 0.5,
            replenish_interval: Duration::from_secs(10),
            concurrency: 4,
            max_idle_age: None,
        }
    }
    fn seen(warming: usize, ready: usize, assigned: usize) -> PoolObservation {
        PoolObservation {
            counts: StateCounts { warming, ready, assigned },
            attempts: warming,
            waiting: 0,
            surplus: 0,
            is_refilling: false,
            is_interval_over: false,
            is_pausing: false,
        }
    }

    #[test]
    fn an_empty_pool_is_filled_by_a_bounded_number_of_attempts_at_a_time() {
        assert_eq!(plan(seen(0, 0, 0), &sizes()), SupplyPlan { start: 4, is_refilling: true, is_low: true });
        assert_eq!(plan(seen(4, 0, 0), &sizes()).start, 0);
        assert_eq!(plan(PoolObservation { is_refilling: true, ..seen(3, 6, 0) }, &sizes()).start, 1);
        assert!(plan(PoolObservation { is_refilling: true, ..seen(1, 9, 0) }, &sizes()).is_refilling);
        assert!(!plan(PoolObservation { is_refilling: true, ..seen(0, 10, 0) }, &sizes()).is_refilling);
    }

    #[test]
    fn above_the_threshold_a_refill_waits_for_the_interval() {
        assert_eq!(plan(seen(0, 6, 0), &sizes()).start, 0);
        assert_eq!(plan(PoolObservation { is_interval_over: true, ..seen(0, 6, 0) }, &sizes()).start, 4);
        assert_eq!(plan(seen(0, 4, 0), &sizes()).start, 4);
    }

    #[test]
    fn the_capacity_counts_all_states() {
        assert_eq!(plan(seen(0, 0, 18), &sizes()).start, 2);
        assert_eq!(
            plan(seen(0, 0, 20), &sizes()),
            SupplyPlan { start: 0, is_refilling: false, is_low: true }
        );
    }

    #[test]
    fn a_waiting_visitor_is_served_beyond_the_target() {
        let busy = PoolObservation { waiting: 2, ..seen(0, 10, 5) };
        assert_eq!(plan(busy, &sizes()).start, 2);
    }

    #[test]
    fn a_surplus_is_made_beyond_the_target_and_within_the_capacity() {
        assert_eq!(plan(PoolObservation { surplus: 1, ..seen(0, 10, 5) }, &sizes()).start, 1);
        assert_eq!(plan(PoolObservation { surplus: 1, ..seen(0, 11, 5) }, &sizes()).start, 0);
        assert_eq!(plan(PoolObservation { surplus: 1, ..seen(0, 10, 10) }, &sizes()).start, 0);
    }

    #[test]
    fn during_a_pause_no_attempt_begins_but_the_refill_is_remembered() {
        let plan = plan(PoolObservation { is_pausing: true, ..seen(0, 0, 0) }, &sizes());
        assert_eq!((plan.start, plan.is_refilling), (0, true));
    }

    proptest! {
        #![proptest_config(crate::proptest_config())]

        #[test]
        fn no_plan_exceeds_the_capacity_or_the_concurrency(
            warming in 0_usize..30, ready in 0_usize..30, assigned in 0_usize..30, waiting in 0_usize..30,
            attempts in 0_usize..10, flags in 0_u8..8,
        ) {
            let v = PoolObservation {
                counts: StateCounts { warming, ready, assigned }, attempts, waiting,
                surplus: attempts % 2,
                is_refilling: flags & 1 > 0, is_interval_over: flags & 2 > 0, is_pausing: flags & 4 > 0,
            };
            let p = plan(v, &sizes());
            prop_assert!(p.start == 0 || warming + ready + assigned + p.start <= sizes().max);
            prop_assert!(p.start == 0 || attempts + p.start <= sizes().concurrency);
        }
    }
}
