//! How many instances the memory of a host has room for, as a pure function of what was seen. All sizes are bytes.
//!
//! An instance that is there may come to take as much as others of its template did, so what it has not taken yet is
//! spoken for. What is left beyond that and a reserve is divided among the templates.

use std::collections::{HashMap, VecDeque};

use crate::instance::InstanceId;

/// Copies that visitors had, of which so many tell what one takes.
const ENOUGH: usize = 5;
/// Copies that have ended and are remembered.
const REMEMBERED: usize = 100;
/// The least that an instance counts for.
const LEAST: u64 = 1 << 20;
/// The least that is left to the host and whatever else runs there.
const LEAST_RESERVE: u64 = 512 << 20;

/// What was seen of one template's instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Taken {
    /// Those that there are, in all states.
    pub(crate) living: usize,
    /// What they take by now, in all, none counted for more than `cost`.
    pub(crate) bytes: u64,
    /// What one may come to take.
    pub(crate) cost: u64,
}

/// What is left to everything else on a host with that much memory.
pub(crate) fn reserve(total: u64) -> u64 {
    (total / 8).max(LEAST_RESERVE)
}

/// The most instances of each template, in the same order.
pub(crate) fn capacities(available: u64, reserve: u64, pools: &[Taken]) -> Vec<usize> {
    let spoken_for: i128 = pools.iter().map(Taken::spoken_for).sum();
    let free = i128::from(available) - i128::from(reserve) - spoken_for;
    let share = free.div_euclid((pools.len() as i128).max(1));
    let capacity = |pool: &Taken| {
        // Rounded down, also below zero: where there is too little, one less is one less.
        let more = share.div_euclid(i128::from(pool.cost.max(1)));
        usize::try_from((pool.living as i128 + more).max(0)).unwrap_or(usize::MAX)
    };
    pools.iter().map(capacity).collect()
}

impl Taken {
    /// What its instances may still come to take.
    fn spoken_for(&self) -> i128 {
        (self.living as i128 * i128::from(self.cost) - i128::from(self.bytes)).max(0)
    }
}

/// What instances of one template have taken since its last change.
#[derive(Debug, Default)]
pub(crate) struct Observed {
    living: HashMap<InstanceId, Peak>,
    /// What those took at most that visitors had, and that have ended.
    ended: VecDeque<u64>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Peak {
    bytes: u64,
    /// Whether a visitor has it, or had.
    visited: bool,
}

impl Observed {
    /// What all that live take now, and whether a visitor has it. Those that are not named have ended.
    pub(crate) fn observe(&mut self, now: &[(InstanceId, u64, bool)]) {
        let mut before = std::mem::take(&mut self.living);
        for (id, bytes, visited) in now {
            let peak = before.remove(id).unwrap_or_default();
            let peak = Peak { bytes: peak.bytes.max(*bytes), visited: peak.visited || *visited };
            self.living.insert(id.clone(), peak);
        }
        self.ended.extend(before.into_values().filter(|peak| peak.visited).map(|peak| peak.bytes));
        self.ended.drain(..self.ended.len().saturating_sub(REMEMBERED));
    }

    /// Whether nothing is known of any.
    pub(crate) fn is_empty(&self) -> bool {
        self.living.is_empty() && self.ended.is_empty()
    }

    /// What an instance may come to take, which is never more than its `limit`. That is the guess before anything was
    /// seen. What copies take that nobody has had yet says little: an eighth of what they may still take is added, until
    /// enough visitors have had some. From then on it is what nine in ten of those took at most, and a quarter more.
    pub(crate) fn cost(&self, limit: u64) -> u64 {
        let living = || self.living.values();
        let visited: Vec<u64> = living()
            .filter(|peak| peak.visited)
            .map(|peak| peak.bytes)
            .chain(self.ended.iter().copied())
            .collect();
        let enough = visited.len() >= ENOUGH;
        let Some(used) = nine_in_ten(visited).max(nine_in_ten(living().map(|peak| peak.bytes).collect()))
        else {
            return limit.max(LEAST);
        };
        let margin = if enough { used / 4 } else { limit.saturating_sub(used) / 8 };
        used.saturating_add(margin).min(limit).max(LEAST)
    }
}

/// What nine in ten are at most; `None` of nothing.
fn nine_in_ten(mut all: Vec<u64>) -> Option<u64> {
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

    fn seen(ids: &[InstanceId], bytes: u64, visited: bool) -> Vec<(InstanceId, u64, bool)> {
        ids.iter().map(|id| (id.clone(), bytes, visited)).collect()
    }

    #[test]
    fn before_anything_ran_an_instance_counts_for_its_limit() {
        assert_eq!(Observed::default().cost(G), G);
        assert_eq!(Observed::default().cost(0), LEAST);
        let none = Taken { living: 0, bytes: 0, cost: G };
        assert_eq!(capacities(22 * G, 3 * G, &[none]), [19]);
    }

    #[test]
    fn what_ran_tells_more_when_visitors_had_it() {
        let (mut observed, ids) = (Observed::default(), ids(6));
        observed.observe(&seen(&ids, 32 * M, false));
        assert_eq!(observed.cost(G), 32 * M + (1024 - 32) * M / 8);
        observed.observe(&seen(&ids[..4], 40 * M, true));
        assert_eq!(observed.cost(G), 40 * M + (1024 - 40) * M / 8);
        observed.observe(&seen(&ids[..5], 40 * M, true));
        assert_eq!(observed.cost(G), 50 * M);
        // What they took at most counts, also when they are gone, and never more than may be.
        observed.observe(&seen(&ids[..1], 8 * M, false));
        assert_eq!((observed.cost(G), observed.cost(45 * M)), (50 * M, 45 * M));
        observed.observe(&[]);
        assert_eq!(observed.cost(G), 50 * M);
    }

    #[test]
    fn one_that_took_far_more_than_others_does_not_count_for_all() {
        let (mut observed, ids) = (Observed::default(), ids(40));
        let mut now = seen(&ids, 40 * M, true);
        now[7].1 = 900 * M;
        observed.observe(&now);
        assert_eq!(observed.cost(G), 50 * M);
    }

    #[test]
    fn what_ended_long_ago_is_forgotten() {
        let mut observed = Observed::default();
        for (number, id) in ids(2 * REMEMBERED + 5).into_iter().enumerate() {
            observed.observe(&[(id, if number < REMEMBERED { 400 * M } else { 40 * M }, true)]);
        }
        assert_eq!((observed.ended.len(), observed.cost(G)), (REMEMBERED, 50 * M));
    }

    #[test]
    fn where_there_is_too_little_there_are_to_be_fewer() {
        let ten = Taken { living: 10, bytes: 400 * M, cost: 50 * M };
        assert_eq!(capacities(G + 100 * M, G, &[ten]), [10]);
        assert_eq!(capacities(G + 200 * M, G, &[ten]), [12]);
        assert_eq!(capacities(G, G, &[ten]), [8]);
        assert_eq!(capacities(0, G, &[ten]), [0]);
        // Two share what is left.
        assert_eq!(capacities(G + 400 * M, G, &[ten, ten]), [12, 12]);
        assert_eq!(capacities(u64::MAX, 0, &[Taken { living: 0, bytes: 0, cost: 0 }])[0], usize::MAX);
        assert!(capacities(G, G, &[]).is_empty());
    }

    fn pools() -> impl Strategy<Value = Vec<Taken>> {
        let pool = (0_usize..200, 1_u64..2 * G, 0.0_f64..=1.0).prop_map(|(living, cost, grown)| {
            let bytes = (living as f64 * cost as f64 * grown) as u64;
            Taken { living, bytes, cost }
        });
        prop::collection::vec(pool, 1..5)
    }

    proptest! {
        /// All that may run, grown as far as they may, leave the reserve alone.
        #[test]
        fn no_more_are_planned_than_the_memory_has_room_for(
            available in 0..64 * G, reserve in 0..8 * G, pools in pools(),
        ) {
            let planned = capacities(available, reserve, &pools);
            if pools.iter().zip(&planned).any(|(pool, planned)| *planned > pool.living) {
                let more = |(pool, planned): (&Taken, &usize)| {
                    *planned as i128 * i128::from(pool.cost) - i128::from(pool.bytes)
                };
                let all: i128 = pools.iter().zip(&planned).map(more).sum();
                prop_assert!(all <= i128::from(available) - i128::from(reserve), "{planned:?}");
            }
        }

        /// More memory never means fewer, and neither does a smaller reserve.
        #[test]
        fn more_memory_never_means_fewer(
            available in 0..64 * G, more in 0..8 * G, reserve in 0..8 * G, pools in pools(),
        ) {
            let one = capacities(available, reserve, &pools);
            let richer = capacities(available + more, reserve, &pools);
            let poorer = capacities(available, reserve + more, &pools);
            for ((one, richer), poorer) in one.iter().zip(&richer).zip(&poorer) {
                prop_assert!(poorer <= one && one <= richer);
            }
        }

        /// Instances that cost more are never more, where there is anything to divide.
        #[test]
        fn dearer_instances_are_never_more(
            available in 8 * G..64 * G, reserve in 0..8 * G, more in 0..G, living in 0_usize..200, bytes in 0..G, cost in 1..G,
        ) {
            let bytes = |cost: u64| bytes.min(living as u64 * cost);
            let one = Taken { living, bytes: bytes(cost), cost };
            let dearer = Taken { cost: cost + more, bytes: bytes(cost), ..one };
            prop_assert!(capacities(available, reserve, &[dearer]) <= capacities(available, reserve, &[one]));
        }

        /// An instance never counts for more than it may take, nor for less than nine in ten did.
        #[test]
        fn the_cost_of_an_instance_lies_between_what_was_seen_and_the_limit(
            all in prop::collection::vec((0..2 * G, any::<bool>()), 0..60), limit in LEAST..2 * G,
        ) {
            let now: Vec<_> = ids(all.len()).into_iter().zip(&all).map(|(id, (bytes, visited))| (id, *bytes, *visited)).collect();
            let mut observed = Observed::default();
            observed.observe(&now);
            let cost = observed.cost(limit);
            prop_assert!((LEAST..=limit).contains(&cost));
            let dearer = all.iter().filter(|(bytes, _)| *bytes > cost).count();
            prop_assert!(cost == limit || dearer * 10 <= all.len(), "{dearer} of {}", all.len());
        }
    }
}
