//! What a template gets where its table in the file sets no value: the built-in defaults, changed by the environment.

use std::time::Duration;

use super::env::{SettingKind, Variables};
use super::units::format_duration;
use crate::instance::RateLimits;
use crate::template::PoolSizes;

/// The largest size of a pool. More is probably a typing error; records without processes are cheap.
pub(super) const MAX_INSTANCES: u64 = if cfg!(feature = "runtime-none") { 10_000_000 } else { 100_000 };
/// The shortest lease, because deadlines have a resolution of a second.
pub(super) const MIN_TTL: Duration = Duration::from_secs(1);
/// The shortest time between two refills of a pool.
pub(super) const MIN_REPLENISH_INTERVAL: Duration = Duration::from_millis(100);
/// How long an app may send nothing in the middle of an exchange.
pub(super) const DEFAULT_SILENCE: Duration = Duration::from_secs(60);
/// Time between two requests of the ready check to an instance that waits for a visitor.
pub(super) const DEFAULT_RECHECK_INTERVAL: Duration = Duration::from_secs(10);
/// The shortest such time.
pub(super) const MIN_RECHECK_INTERVAL: Duration = Duration::from_secs(1);
/// The shortest longest age of a ready instance.
pub(super) const MIN_MAX_IDLE_AGE: Duration = Duration::from_secs(1);

/// The part of a template that the environment may set.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Defaults {
    pub(super) pool: PoolSizes,
    pub(super) lease_times: LeaseTimes,
    pub(super) rate_limit: RateDefaults,
}

/// How many instances one visitor may have of a template.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct RateDefaults {
    pub(super) hourly: u32,
    pub(super) daily: u32,
    /// At a time; as many as in an hour where it is not set.
    pub(super) concurrent: Option<u32>,
}

/// How long leases last.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct LeaseTimes {
    pub(super) ttl: Duration,
    pub(super) max_ttl: Duration,
}

/// The defaults without any setting.
pub(super) const BUILT_IN: Defaults = Defaults {
    pool: PoolSizes {
        target: 10,
        min: 3,
        max: 20,
        limited_by_memory: false,
        replenish_threshold: 0.5,
        replenish_interval: Duration::from_secs(10),
        concurrency: 4,
        max_idle_age: None,
    },
    lease_times: LeaseTimes { ttl: Duration::from_secs(3600), max_ttl: Duration::from_secs(24 * 3600) },
    rate_limit: RateDefaults { hourly: 2, daily: 5, concurrent: None },
};

/// The pool settings of one level (environment or template), which override those of a weaker level. A size that is not
/// set gives way to a smaller one above it, never the other way round: an operator who sets a small pool need not set
/// all three sizes, and no pool exceeds a limit that was not raised.
#[derive(Debug, Default)]
pub(super) struct PoolOverrides {
    pub(super) target: Option<usize>,
    pub(super) min: Option<usize>,
    pub(super) max: Option<PoolMax>,
    pub(super) replenish_threshold: Option<f64>,
    pub(super) replenish_interval: Option<Duration>,
    pub(super) concurrency: Option<usize>,
    pub(super) max_idle_age: Option<Duration>,
}

/// The maximum size of a pool as an operator sets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PoolMax {
    /// This number of instances.
    Number(usize),
    /// As many instances as the host's memory has room for.
    Auto,
}

/// The text of [`PoolMax::Auto`].
const AUTO: &str = "auto";
/// The problem with [`PoolMax::Auto`] in other modes, where the memory of an instance is not known.
pub(super) const AUTO_NEEDS_CONTAINERS: &str =
    "auto needs containers, because only their use of memory is known";

impl PoolMax {
    /// Reads a number, or `auto`.
    pub(super) fn read(text: &str) -> Option<Self> {
        if text == AUTO {
            return Some(Self::Auto);
        }
        let digits = text.bytes().all(|b| b.is_ascii_digit());
        let number = text.parse().ok().filter(|n| digits && (1..=MAX_INSTANCES).contains(n));
        number.map(|n| Self::Number(n as usize))
    }

    /// Returns the remedy for an invalid value. `auto` is that word in the notation of the place.
    pub(super) fn rule(auto: &str) -> String {
        format!("write a whole number from 1 to {MAX_INSTANCES}, or {auto}")
    }
}

/// Two values that contradict each other: the value of `key`, which was set, is greater than that of `limit_key`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Conflict<T> {
    pub(super) key: &'static str,
    pub(super) value: T,
    pub(super) limit_key: &'static str,
    pub(super) limit: T,
}

impl PoolOverrides {
    /// Returns `base` with the values that are set here, and the contradictions in the result.
    pub(super) fn over(&self, base: PoolSizes) -> (PoolSizes, Vec<Conflict<usize>>) {
        let (max, limited_by_memory) = match self.max {
            Some(PoolMax::Number(max)) => (max, false),
            Some(PoolMax::Auto) => (MAX_INSTANCES as usize, true),
            None => (base.max, base.limited_by_memory),
        };
        let target = self.target.unwrap_or(base.target.min(max));
        let min = self.min.unwrap_or(base.min.min(target));
        let pool = PoolSizes {
            target,
            min,
            max,
            limited_by_memory,
            replenish_threshold: self.replenish_threshold.unwrap_or(base.replenish_threshold),
            replenish_interval: self.replenish_interval.unwrap_or(base.replenish_interval),
            concurrency: self.concurrency.unwrap_or(base.concurrency),
            max_idle_age: self.max_idle_age.or(base.max_idle_age),
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

impl LeaseTimes {
    /// Returns these times with the values that are set, and the contradiction in the result, if any.
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

impl RateDefaults {
    /// Returns the limits that apply.
    pub(super) fn limits(self) -> RateLimits {
        let Self { hourly, daily, concurrent } = self;
        RateLimits { hourly, daily, concurrent: concurrent.unwrap_or(hourly) }
    }
}

impl Defaults {
    /// Returns the built-in defaults with the values of the environment. `has_containers` is `None` when
    /// `CONTAINER_MODE` is invalid.
    pub(super) fn read(env: &mut Variables<'_>, has_containers: Option<bool>) -> Self {
        let lease_times = BUILT_IN.lease_times;
        let pool = read_pool(env, has_containers);
        let ttl = env.duration_if_set("POOL_DEFAULT_TTL", lease_times.ttl, MIN_TTL);
        let max_ttl = env.duration_if_set("POOL_MAX_TTL", lease_times.max_ttl, MIN_TTL);
        let (lease_times, conflict) = lease_times.with(ttl, max_ttl);
        if let Some(Conflict { key, value, limit_key, limit }) = conflict {
            let (value, limit, limit_name) =
                (format_duration(value), format_duration(limit), variable(limit_key));
            let problem = format!("{value} is longer than {limit_name}, which is {limit}");
            env.report(variable(key), problem, format!("shorten it or raise {limit_name}"));
        }
        let mut limit = |name, default: Option<u32>| {
            let number = env.number_if_set(name, default.map(u64::from), 0..=u64::from(u32::MAX));
            number.map(|n| n as u32)
        };
        let RateDefaults { hourly, daily, concurrent } = BUILT_IN.rate_limit;
        let rate_limit = RateDefaults {
            hourly: limit("RATE_LIMIT_HOURLY", Some(hourly)).unwrap_or(hourly),
            daily: limit("RATE_LIMIT_DAILY", Some(daily)).unwrap_or(daily),
            concurrent: limit("RATE_LIMIT_CONCURRENT", concurrent),
        };
        Self { pool, lease_times, rate_limit }
    }
}

fn read_pool(env: &mut Variables<'_>, has_containers: Option<bool>) -> PoolSizes {
    let base = BUILT_IN.pool;
    let mut size = |name, default: usize| {
        env.number_if_set(name, Some(default as u64), 0..=MAX_INSTANCES).map(|n| n as usize)
    };
    let target = size("POOL_TARGET_SIZE", base.target);
    let min = size("POOL_MIN_SIZE", base.min);
    let max_kind = SettingKind::NumberOrWord(AUTO);
    let max = env.value_if_set("POOL_MAX_SIZE", max_kind, Some(base.max.to_string()), |text| {
        PoolMax::read(text).ok_or_else(|| PoolMax::rule(AUTO))
    });
    let threshold = Some(base.replenish_threshold.to_string());
    let replenish_threshold =
        env.value_if_set("POOL_REPLENISH_THRESHOLD", SettingKind::Number, threshold, |text| {
            let number = text.parse().ok().filter(|n| (0.0..=1.0).contains(n));
            number.ok_or("write a number from 0 to 1, such as 0.5")
        });
    let replenish_interval =
        env.duration_if_set("POOL_REPLENISH_INTERVAL", base.replenish_interval, MIN_REPLENISH_INTERVAL);
    if max == Some(PoolMax::Auto) && has_containers == Some(false) {
        env.report(
            "POOL_MAX_SIZE",
            AUTO_NEEDS_CONTAINERS,
            "set CONTAINER_MODE=containerd, or write a number",
        );
    }
    let overrides = PoolOverrides {
        target,
        min,
        max,
        replenish_threshold,
        replenish_interval,
        ..PoolOverrides::default()
    };
    let (pool, conflicts) = overrides.over(base);
    for Conflict { key, value, limit_key, limit } in conflicts {
        let limit_name = variable(limit_key);
        let problem = format!("{value} is more than {limit_name}, which is {limit}");
        env.report(variable(key), problem, format!("lower it or raise {limit_name}"));
    }
    pool
}

/// Returns the variable that sets a key of a template.
fn variable(key: &str) -> &'static str {
    match key {
        "target" => "POOL_TARGET_SIZE",
        "min" => "POOL_MIN_SIZE",
        "max" => "POOL_MAX_SIZE",
        "ttl" => "POOL_DEFAULT_TTL",
        _ => "POOL_MAX_TTL",
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
        let overrides =
            PoolOverrides { target, min, max: max.map(PoolMax::Number), ..PoolOverrides::default() };
        let (pool, conflicts) = overrides.over(BUILT_IN.pool);
        if conflicts.is_empty() {
            Ok([pool.min, pool.target, pool.max])
        } else {
            Err(conflicts.iter().map(|c| c.key).collect())
        }
    }

    #[test]
    fn a_size_that_is_not_set_gives_way_to_smaller_ones_and_never_to_larger_ones() {
        assert_eq!(sizes(None, None, None), Ok([3, 10, 20]));
        assert_eq!(sizes(Some(2), None, None), Ok([2, 2, 20]));
        assert_eq!(sizes(None, None, Some(5)), Ok([3, 5, 5]));
        assert_eq!(sizes(Some(0), None, None), Ok([0, 0, 20]));
        assert_eq!(sizes(Some(30), None, None), Err(vec!["target"]));
        assert_eq!(sizes(None, Some(15), None), Err(vec!["min"]));
        assert_eq!(sizes(Some(30), Some(40), Some(20)), Err(vec!["target", "min"]));
    }

    #[test]
    fn the_maximum_may_be_left_to_the_memory() {
        assert_eq!(PoolMax::read("auto"), Some(PoolMax::Auto));
        assert_eq!(PoolMax::read("20"), Some(PoolMax::Number(20)));
        for text in ["0", "", "Auto", "automatic", "-1", "+3", "1.5", "100000000000"] {
            assert_eq!(PoolMax::read(text), None, "{text}");
        }
        let auto = PoolOverrides { max: Some(PoolMax::Auto), target: Some(300), ..PoolOverrides::default() };
        let (pool, conflicts) = auto.over(BUILT_IN.pool);
        assert!(pool.limited_by_memory && pool.max >= 100_000 && pool.target == 300 && conflicts.is_empty());
        // A template's own number wins; a template without one gets the environment's setting.
        assert!(
            !PoolOverrides { max: Some(PoolMax::Number(400)), ..PoolOverrides::default() }
                .over(pool)
                .0
                .limited_by_memory
        );
        assert_eq!(PoolOverrides::default().over(pool).0, pool);
    }

    #[test]
    fn a_ttl_gives_way_to_a_shorter_limit_and_never_raises_one() {
        let hour = Duration::from_secs(3600);
        let base = BUILT_IN.lease_times;
        assert_eq!(base.with(None, Some(hour / 2)), (LeaseTimes { ttl: hour / 2, max_ttl: hour / 2 }, None));
        assert_eq!(base.with(Some(hour * 25), None).1.unwrap().limit, hour * 24);
    }
}
