//! What a template gets where it says nothing itself: built in, then from the environment.

use std::time::Duration;

use super::env::Variables;
use super::runtime::containers;
use crate::instance::Limits;
use crate::template::PoolSizes;

/// Most instances of one template on one server; more is a slip of the pen. Records alone are cheap.
pub(super) const MOST_INSTANCES: u64 = if cfg!(feature = "runtime-none") { 10_000_000 } else { 100_000 };
/// The least lease: expiry is to the second.
pub(super) const LEAST_TTL: Duration = Duration::from_secs(1);
/// The least time between two looks at the pool.
pub(super) const LEAST_REPLENISH_INTERVAL: Duration = Duration::from_millis(100);

/// The part of a template that the environment may set.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Defaults {
    pub(super) pool: PoolSizes,
    pub(super) lifetime: Lifetime,
    pub(super) rate_limit: Limits,
}

/// How long leases last.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Lifetime {
    pub(super) ttl: Duration,
    pub(super) max_ttl: Duration,
}

pub(super) const BUILT_IN: Defaults = Defaults {
    pool: PoolSizes {
        target: 10,
        min: 3,
        max: 20,
        by_memory: false,
        replenish_threshold: 0.5,
        replenish_interval: Duration::from_secs(10),
        concurrency: 4,
    },
    lifetime: Lifetime { ttl: Duration::from_secs(3600), max_ttl: Duration::from_secs(24 * 3600) },
    rate_limit: Limits { hourly: 2, daily: 5 },
};

/// What was set at one level, over a weaker one. A value that was not set gives way downwards, never upwards: who
/// sets a small pool need not set all three sizes, and nobody gets more than a limit that they did not raise.
#[derive(Debug, Default)]
pub(super) struct OwnPool {
    pub(super) target: Option<usize>,
    pub(super) min: Option<usize>,
    pub(super) max: Option<Most>,
    pub(super) replenish_threshold: Option<f64>,
    pub(super) replenish_interval: Option<Duration>,
    pub(super) concurrency: Option<usize>,
}

/// Most instances, as somebody wants it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Most {
    /// So many.
    Number(usize),
    /// As many as the host's memory has room for.
    Auto,
}

/// What stands for [`Most::Auto`].
const AUTO: &str = "auto";
/// What is wrong with it where no instance's memory is known, and what would be right.
pub(super) const AUTO_NEEDS: [&str; 2] =
    ["auto needs containers, for only of those it is known what they take", "write a number"];

impl Most {
    /// Reads a number, or the word.
    pub(super) fn read(text: &str) -> Option<Self> {
        if text == AUTO {
            return Some(Self::Auto);
        }
        let digits = text.bytes().all(|b| b.is_ascii_digit());
        let number = text.parse().ok().filter(|n| digits && (1..=MOST_INSTANCES).contains(n));
        number.map(|n| Self::Number(n as usize))
    }

    /// What is right, for mistakes; with the word as it is written there.
    pub(super) fn rule(auto: &str) -> String {
        format!("write a whole number from 1 to {MOST_INSTANCES}, or {auto}")
    }
}

/// Two values that do not go together: `key`'s value, which was set, is greater than `limit_key`'s.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Conflict<T> {
    pub(super) key: &'static str,
    pub(super) value: T,
    pub(super) limit_key: &'static str,
    pub(super) limit: T,
}

impl OwnPool {
    pub(super) fn over(&self, base: PoolSizes) -> (PoolSizes, Vec<Conflict<usize>>) {
        let (max, by_memory) = match self.max {
            Some(Most::Number(max)) => (max, false),
            Some(Most::Auto) => (MOST_INSTANCES as usize, true),
            None => (base.max, base.by_memory),
        };
        let target = self.target.unwrap_or(base.target.min(max));
        let min = self.min.unwrap_or(base.min.min(target));
        let pool = PoolSizes {
            target,
            min,
            max,
            by_memory,
            replenish_threshold: self.replenish_threshold.unwrap_or(base.replenish_threshold),
            replenish_interval: self.replenish_interval.unwrap_or(base.replenish_interval),
            concurrency: self.concurrency.unwrap_or(base.concurrency),
        };
        let mut conflicts = Vec::new();
        if target > max {
            conflicts.push(Conflict { key: "target", value: target, limit_key: "max", limit: max });
        }
        if min > target {
            conflicts.push(Conflict { key: "min", value: min, limit_key: "target", limit: target });
        }
        (pool, conflicts)
    }
}

impl Lifetime {
    pub(super) fn with(
        self,
        ttl: Option<Duration>,
        max_ttl: Option<Duration>,
    ) -> (Self, Option<Conflict<Duration>>) {
        let max_ttl = max_ttl.unwrap_or(self.max_ttl);
        let ttl = ttl.unwrap_or(self.ttl.min(max_ttl));
        let conflict = Conflict { key: "ttl", value: ttl, limit_key: "max_ttl", limit: max_ttl };
        (Self { ttl, max_ttl }, (ttl > max_ttl).then_some(conflict))
    }
}

impl Defaults {
    /// The built-in ones with what the environment says.
    pub(super) fn read(env: &mut Variables<'_>) -> Self {
        let mut size = |name, least| env.number(name, least, MOST_INSTANCES).map(|n| n as usize);
        let own = OwnPool {
            target: size("POOL_TARGET_SIZE", 0),
            min: size("POOL_MIN_SIZE", 0),
            max: env.get("POOL_MAX_SIZE", |text| Most::read(text).ok_or_else(|| Most::rule(AUTO))),
            replenish_threshold: env.get("POOL_REPLENISH_THRESHOLD", |text| {
                let number = text.parse().ok().filter(|n| (0.0..=1.0).contains(n));
                number.ok_or("write a number from 0 to 1, such as 0.5")
            }),
            replenish_interval: env.duration("POOL_REPLENISH_INTERVAL", LEAST_REPLENISH_INTERVAL),
            concurrency: None,
        };
        if own.max == Some(Most::Auto) && containers(env) == Some(false) {
            let [wrong, right] = AUTO_NEEDS;
            env.wrong("POOL_MAX_SIZE", wrong, format!("set CONTAINER_MODE=containerd, or {right}"));
        }
        let (pool, conflicts) = own.over(BUILT_IN.pool);
        let variable = |key| match key {
            "target" => "POOL_TARGET_SIZE",
            "min" => "POOL_MIN_SIZE",
            "max" => "POOL_MAX_SIZE",
            "ttl" => "POOL_DEFAULT_TTL",
            _ => "POOL_MAX_TTL",
        };
        for conflict in conflicts {
            let (name, limit) = (variable(conflict.key), variable(conflict.limit_key));
            let wrong = format!("{} is more than {limit}, which is {}", conflict.value, conflict.limit);
            env.wrong(name, wrong, format!("lower it or raise {limit}"));
        }
        let (ttl, max_ttl) =
            (env.duration("POOL_DEFAULT_TTL", LEAST_TTL), env.duration("POOL_MAX_TTL", LEAST_TTL));
        let (lifetime, conflict) = BUILT_IN.lifetime.with(ttl, max_ttl);
        if let Some(conflict) = conflict {
            let show = super::units::show_duration;
            let (name, limit) = (variable(conflict.key), variable(conflict.limit_key));
            let wrong =
                format!("{} is longer than {limit}, which is {}", show(conflict.value), show(conflict.limit));
            env.wrong(name, wrong, format!("shorten it or raise {limit}"));
        }
        let mut limit =
            |name, built_in| env.number(name, 0, u64::from(u32::MAX)).map_or(built_in, |n| n as u32);
        let rate_limit = Limits {
            hourly: limit("RATE_LIMIT_HOURLY", BUILT_IN.rate_limit.hourly),
            daily: limit("RATE_LIMIT_DAILY", BUILT_IN.rate_limit.daily),
        };
        Self { pool, lifetime, rate_limit }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(
        target: Option<usize>,
        min: Option<usize>,
        max: Option<usize>,
    ) -> Result<[usize; 3], Vec<&'static str>> {
        let own = OwnPool { target, min, max: max.map(Most::Number), ..OwnPool::default() };
        let (pool, conflicts) = own.over(BUILT_IN.pool);
        if conflicts.is_empty() {
            Ok([pool.min, pool.target, pool.max])
        } else {
            Err(conflicts.iter().map(|c| c.key).collect())
        }
    }

    #[test]
    fn a_size_that_was_not_set_gives_way_downwards_and_never_upwards() {
        assert_eq!(sizes(None, None, None), Ok([3, 10, 20]));
        assert_eq!(sizes(Some(2), None, None), Ok([2, 2, 20]));
        assert_eq!(sizes(None, None, Some(5)), Ok([3, 5, 5]));
        assert_eq!(sizes(Some(0), None, None), Ok([0, 0, 20]));
        assert_eq!(sizes(Some(30), None, None), Err(vec!["target"]));
        assert_eq!(sizes(None, Some(15), None), Err(vec!["min"]));
        assert_eq!(sizes(Some(30), Some(40), Some(20)), Err(vec!["target", "min"]));
    }

    #[test]
    fn the_most_may_be_left_to_the_memory() {
        assert_eq!(Most::read("auto"), Some(Most::Auto));
        assert_eq!(Most::read("20"), Some(Most::Number(20)));
        for text in ["0", "", "Auto", "automatic", "-1", "+3", "1.5", "100000000000"] {
            assert_eq!(Most::read(text), None, "{text}");
        }
        let auto = OwnPool { max: Some(Most::Auto), target: Some(300), ..OwnPool::default() };
        let (pool, conflicts) = auto.over(BUILT_IN.pool);
        assert!(pool.by_memory && pool.max >= 100_000 && pool.target == 300 && conflicts.is_empty());
        // A template that names a number means it, and one that names none has what the environment says.
        assert!(!OwnPool { max: Some(Most::Number(400)), ..OwnPool::default() }.over(pool).0.by_memory);
        assert_eq!(OwnPool::default().over(pool).0, pool);
    }

    #[test]
    fn a_lease_gives_way_to_a_shorter_limit_and_never_stretches_one() {
        let hour = Duration::from_secs(3600);
        let base = BUILT_IN.lifetime;
        assert_eq!(base.with(None, Some(hour / 2)), (Lifetime { ttl: hour / 2, max_ttl: hour / 2 }, None));
        assert_eq!(base.with(Some(hour * 25), None).1.unwrap().limit, hour * 24);
    }
}
