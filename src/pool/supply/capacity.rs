//! For how many instances the memory of a host has room: a pure function of what was measured. All sizes are bytes.
//!
//! A living instance may grow to what others of its template took, so the difference is reserved for it. What remains
//! beyond that and the host's reserve is divided equally among the templates.

use std::collections::{HashMap, VecDeque};

use crate::instance::InstanceId;

/// Instances that visitors had, of which so many show what one takes.
const ENOUGH_VISITED: usize = 5;
/// Ended instances that are remembered.
const MAX_ENDED: usize = 100;
/// The least memory that an instance counts for.
const MIN_INSTANCE_COST: u64 = 1 << 20;

/// The memory that the instances of one template need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MemoryDemand {
    /// Instances in all states.
    pub(super) living: usize,
    /// What they take by now in all, none counted for more than `cost`.
    pub(super) bytes: u64,
    /// What one may come to take.
    pub(super) cost: u64,
}

/// Returns the capacity of each pool, in the order of `pools`.
pub(super) fn capacities(available: u64, reserve: u64, pools: &[MemoryDemand]) -> Vec<usize> {
    let growth: i128 = pools.iter().map(MemoryDemand::growth).sum();
    let free = i128::from(available) - i128::from(reserve) - growth;
    let share = free.div_euclid((pools.len() as i128).max(1));
    let capacity = |pool: &MemoryDemand| {
        // Rounded down also below zero: where the memory does not suffice, a pool loses whole instances.
        let more = share.div_euclid(i128::from(pool.cost.max(1)));
        usize::try_from((pool.living as i128 + more).max(0)).unwrap_or(usize::MAX)
    };
    pools.iter().map(capacity).collect()
}

impl MemoryDemand {
    /// Returns what the living instances may still come to take.
    fn growth(&self) -> i128 {
        (self.living as i128 * i128::from(self.cost) - i128::from(self.bytes)).max(0)
    }
}

/// The memory that instances of one template took since the template's last change.
#[derive(Debug, Default)]
pub(in crate::pool) struct ObservedMemory {
    living: HashMap<InstanceId, InstancePeak>,
    /// The peaks of ended instances that visitors had.
    ended: VecDeque<u64>,
}

#[derive(Debug, Clone, Copy, Default)]
struct InstancePeak {
    bytes: u64,
    /// Whether a visitor has the instance, or had it.
    is_visited: bool,
}

impl ObservedMemory {
    /// Takes over what each living instance takes now, and whether a visitor has it. Instances that are not listed have
    /// ended.
    pub(super) fn observe(&mut self, now: &[(InstanceId, u64, bool)]) {
        let mut before = std::mem::take(&mut self.living);
        for (id, bytes, is_visited) in now {
            let peak = before.remove(id).unwrap_or_default();
            let is_visited = peak.is_visited || *is_visited;
            self.living.insert(id.clone(), InstancePeak { bytes: peak.bytes.max(*bytes), is_visited });
        }
        self.ended.extend(before.into_values().filter(|peak| peak.is_visited).map(|peak| peak.bytes));
        self.ended.drain(..self.ended.len().saturating_sub(MAX_ENDED));
    }

    /// Returns whether no instance was observed.
    pub(super) fn is_empty(&self) -> bool {
        self.living.is_empty() && self.ended.is_empty()
    }

    /// Returns what an instance may come to take, which is never more than its `limit`.
    ///
    /// Before any observation that is the limit itself. The memory of instances that no visitor has had yet says
    /// little, so an eighth of the distance to the limit is added until [`ENOUGH_VISITED`] visitors have had one. From
    /// then on the cost is the 90th percentile of what instances took at most, and a quarter more.
    pub(super) fn cost(&self, limit: u64) -> u64 {
        let living = || self.living.values();
        let visited: Vec<u64> = living()
            .filter(|peak| peak.is_visited)
            .map(|peak| peak.bytes)
            .chain(self.ended.iter().copied())
            .collect();
        let is_enough = visited.len() >= ENOUGH_VISITED;
        let all = living().map(|peak| peak.bytes).collect();
        let Some(used) = percentile_90(visited).max(percentile_90(all)) else {
            return limit.max(MIN_INSTANCE_COST);
        };
        let margin = if is_enough { used / 4 } else { limit.saturating_sub(used) / 8 };
        used.saturating_add(margin).min(limit).max(MIN_INSTANCE_COST)
    }
}

/// Returns the 90th percentile; `None` of an empty list.
fn percentile_90(mut all: Vec<u64>) -> Option<u64> {
    all.sort_unstable();
    let last = all.len().checked_sub(1)?;
    Some(all[(all.len() * 9 / 10).min(last)])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::instance::TemplateName;

    const M: u64 = 1 << 20;
    const G: u64 = 1 << 30;

    fn ids(count: usize) -> Vec<InstanceId> {
        let name = TemplateName::new("shop").unwrap();
        (0..count).map(|_| InstanceId::random(&name)).collect()
    }

    fn seen(ids: &[InstanceId], bytes: u64, is_visited: bool) -> Vec<(InstanceId, u64, bool)> {
        ids.iter().map(|id| (id.clone(), bytes, is_visited)).collect()
    }

    #[test]
    fn before_anything_ran_an_instance_counts_for_its_limit() {
        assert_eq!(ObservedMemory::default().cost(G), G);
        assert_eq!(ObservedMemory::default().cost(0), MIN_INSTANCE_COST);
        let none = MemoryDemand { living: 0, bytes: 0, cost: G };
        assert_eq!(capacities(22 * G, 3 * G, &[none]), [19]);
    }

    #[test]
    fn observed_memory_counts_more_when_visitors_had_the_instances() {
        let (mut observed, ids) = (ObservedMemory::default(), ids(6));
        observed.observe(&seen(&ids, 32 * M, false));
        assert_eq!(observed.cost(G), 32 * M + (1024 - 32) * M / 8);
        observed.observe(&seen(&ids[..4], 40 * M, true));
        assert_eq!(observed.cost(G), 40 * M + (1024 - 40) * M / 8);
        observed.observe(&seen(&ids[..5], 40 * M, true));
        assert_eq!(observed.cost(G), 50 * M);
        // Their peaks count, also after they have ended, but never more than the limit.
        observed.observe(&seen(&ids[..1], 8 * M, false));
        assert_eq!((observed.cost(G), observed.cost(45 * M)), (50 * M, 45 * M));
        observed.observe(&[]);
        assert_eq!(observed.cost(G), 50 * M);
    }

    #[test]
    fn one_instance_that_took_far_more_than_the_others_does_not_raise_the_cost_of_all() {
        let (mut observed, ids) = (ObservedMemory::default(), ids(40));
        let mut now = seen(&ids, 40 * M, true);
        now[7].1 = 900 * M;
        observed.observe(&now);
        assert_eq!(observed.cost(G), 50 * M);
    }

    #[test]
    fn instances_that_ended_long_ago_are_forgotten() {
        let mut observed = ObservedMemory::default();
        for (number, id) in ids(2 * MAX_ENDED + 5).into_iter().enumerate() {
            observed.observe(&[(id, if number < MAX_ENDED { 400 * M } else { 40 * M }, true)]);
        }
        assert_eq!((observed.ended.len(), observed.cost(G)), (MAX_ENDED, 50 * M));
    }

    #[test]
    fn a_capacity_falls_below_the_living_instances_where_the_memory_does_not_suffice() {
        let ten = MemoryDemand { living: 10, bytes: 400 * M, cost: 50 * M };
        assert_eq!(capacities(G + 100 * M, G, &[ten]), [10]);
        assert_eq!(capacities(G + 200 * M, G, &[ten]), [12]);
        assert_eq!(capacities(G, G, &[ten]), [8]);
        assert_eq!(capacities(0, G, &[ten]), [0]);
        // Two pools share what remains.
        assert_eq!(capacities(G + 400 * M, G, &[ten, ten]), [12, 12]);
        assert_eq!(capacities(u64::MAX, 0, &[MemoryDemand { living: 0, bytes: 0, cost: 0 }])[0], usize::MAX);
        assert!(capacities(G, G, &[]).is_empty());
    }

    fn pools() -> impl Strategy<Value = Vec<MemoryDemand>> {
        let pool = (0_usize..200, 1_u64..2 * G, 0.0_f64..=1.0).prop_map(|(living, cost, grown)| {
            let bytes = (living as f64 * cost as f64 * grown) as u64;
            MemoryDemand { living, bytes, cost }
        });
        prop::collection::vec(pool, 1..5)
    }

    proptest! {
        #![proptest_config(crate::proptest_config())]

        /// All instances within the capacities, each grown to its cost, leave the reserve free.
        #[test]
        fn no_capacity_exceeds_the_room_in_memory(
            available in 0..64 * G, reserve in 0..8 * G, pools in pools(),
        ) {
            let planned = capacities(available, reserve, &pools);
            if pools.iter().zip(&planned).any(|(pool, planned)| *planned > pool.living) {
                let more = |(pool, planned): (&MemoryDemand, &usize)| {
                    *planned as i128 * i128::from(pool.cost) - i128::from(pool.bytes)
                };
                let all: i128 = pools.iter().zip(&planned).map(more).sum();
                prop_assert!(all <= i128::from(available) - i128::from(reserve), "{planned:?}");
            }
        }

        /// Neither more memory nor a smaller reserve lowers a capacity.
        #[test]
        fn more_memory_never_lowers_a_capacity(
            available in 0..64 * G, more in 0..8 * G, reserve in 0..8 * G, pools in pools(),
        ) {
            let one = capacities(available, reserve, &pools);
            let richer = capacities(available + more, reserve, &pools);
            let poorer = capacities(available, reserve + more, &pools);
            for ((one, richer), poorer) in one.iter().zip(&richer).zip(&poorer) {
                prop_assert!(poorer <= one && one <= richer);
            }
        }

        /// A higher cost never raises a capacity, where there is memory to divide.
        #[test]
        fn a_higher_cost_never_raises_a_capacity(
            available in 8 * G..64 * G, reserve in 0..8 * G, more in 0..G, living in 0_usize..200, bytes in 0..G, cost in 1..G,
        ) {
            let bytes = |cost: u64| bytes.min(living as u64 * cost);
            let one = MemoryDemand { living, bytes: bytes(cost), cost };
            let costlier = MemoryDemand { cost: cost + more, bytes: bytes(cost), ..one };
            prop_assert!(capacities(available, reserve, &[costlier]) <= capacities(available, reserve, &[one]));
        }

        /// The cost never exceeds the limit, and at most one in ten instances took more than the cost.
        #[test]
        fn the_cost_of_an_instance_lies_between_the_observed_memory_and_the_limit(
            all in prop::collection::vec((0..2 * G, any::<bool>()), 0..60), limit in MIN_INSTANCE_COST..2 * G,
        ) {
            let now: Vec<_> = ids(all.len()).into_iter().zip(&all).map(|(id, (bytes, is_visited))| (id, *bytes, *is_visited)).collect();
            let mut observed = ObservedMemory::default();
            observed.observe(&now);
            let cost = observed.cost(limit);
            prop_assert!((MIN_INSTANCE_COST..=limit).contains(&cost));
            let costlier = all.iter().filter(|(bytes, _)| *bytes > cost).count();
            prop_assert!(cost == limit || costlier * 10 <= all.len(), "{costlier} of {}", all.len());
        }
    }
}
