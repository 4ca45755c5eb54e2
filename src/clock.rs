//! The current wall-clock time, in whole milliseconds since the Unix epoch.
//!
//! Pure rules take `now` as an argument; only the code that calls them holds a [`Clock`]. Durations that never leave
//! the process are measured with `tokio::time::Instant`, which a paused test runtime controls.

use std::fmt;
use std::ops::{Add, Sub};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A moment: milliseconds since 1970-01-01T00:00:00Z.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Millis(pub u64);

impl Millis {
    /// Returns the time from `earlier` until this moment; zero if `earlier` is later.
    pub fn since(self, earlier: Millis) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// Returns this moment as RFC 3339 in UTC, the format of every time in the API.
    pub fn rfc3339(self) -> String {
        // The format can show every moment until the year 9999. A later one is shown as the last second of that year.
        OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0) * 1_000_000)
            .ok()
            .and_then(|t| t.format(&Rfc3339).ok())
            .unwrap_or_else(|| "9999-12-31T23:59:59Z".to_owned())
    }
}

impl Add<Duration> for Millis {
    type Output = Millis;
    fn add(self, d: Duration) -> Millis {
        Millis(self.0.saturating_add(u64::try_from(d.as_millis()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Duration> for Millis {
    type Output = Millis;
    fn sub(self, d: Duration) -> Millis {
        Millis(self.0.saturating_sub(u64::try_from(d.as_millis()).unwrap_or(u64::MAX)))
    }
}

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.rfc3339())
    }
}

/// The latest time that the system clock has returned, in milliseconds since the Unix epoch.
static LATEST: AtomicU64 = AtomicU64::new(0);

/// A source of the current time: the system, or a value that a test advances.
#[derive(Debug, Clone, Default)]
pub enum Clock {
    /// The operating system's real-time clock, made monotonic: if the system sets it back, the time stands still until
    /// the system has caught up, so that a deadline that has passed stays passed.
    #[default]
    System,
    /// A time that stands still until [`Clock::advance`] moves it. Clones share the time.
    Manual(Arc<AtomicU64>),
}

impl Clock {
    /// Creates a clock that stands at `start` until [`Clock::advance`] moves it.
    pub fn manual(start: Millis) -> Self {
        Clock::Manual(Arc::new(AtomicU64::new(start.0)))
    }

    /// Returns the current time.
    #[expect(clippy::disallowed_methods, reason = "the one place that asks the system")]
    pub fn now(&self) -> Millis {
        match self {
            Clock::System => {
                let since = std::time::SystemTime::now()
                    .duration_since(std::time::UNIX_EPOCH)
                    .unwrap_or(Duration::ZERO);
                let now = (Millis(0) + since).0;
                Millis(LATEST.fetch_max(now, Ordering::Relaxed).max(now))
            }
            Clock::Manual(time) => Millis(time.load(Ordering::SeqCst)),
        }
    }

    /// Advances a manual clock by `by`. A system clock ignores the call.
    pub fn advance(&self, by: Duration) {
        if let Clock::Manual(time) = self {
            time.fetch_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX), Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_written_as_rfc_3339_in_utc() {
        assert_eq!(Millis(1_700_000_000_000).rfc3339(), "2023-11-14T22:13:20Z");
        assert_eq!(Millis(1_700_000_000_250).rfc3339(), "2023-11-14T22:13:20.25Z");
    }

    #[test]
    fn a_manual_clock_moves_only_when_advanced_and_clones_share_its_time() {
        let clock = Clock::manual(Millis(5));
        let other = clock.clone();
        clock.advance(Duration::from_secs(1));
        assert_eq!(other.now(), Millis(1005));
    }
}
