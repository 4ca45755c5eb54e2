//! Wall-clock time as the domain sees it: whole milliseconds since the Unix epoch.
//!
//! Rules take `now` as an argument; only composition code holds a [`Clock`]. Durations that never leave the
//! process are measured with `tokio::time::Instant`, which a paused test runtime controls.

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
    /// Time from `earlier` until this moment; zero when `earlier` is later.
    pub fn since(self, earlier: Millis) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// This moment as RFC 3339 in UTC, the form of every time in the API.
    pub fn rfc3339(self) -> String {
        // The cast keeps every moment that the format can show (until the year 9999).
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

/// The latest moment that the system has told this process.
static LATEST: AtomicU64 = AtomicU64::new(0);

/// Where the present comes from: the system, or a hand that a test moves.
#[derive(Debug, Clone, Default)]
pub enum Clock {
    /// The operating system's real-time clock, which never goes back here: where the system sets it back, it stands
    /// until it has caught up, so that what was over stays over.
    #[default]
    System,
    /// Stands still until it is moved; clones share the hand.
    Manual(Arc<AtomicU64>),
}

impl Clock {
    /// A clock that stands at `start` until [`Clock::advance`] moves it.
    pub fn manual(start: Millis) -> Self {
        Clock::Manual(Arc::new(AtomicU64::new(start.0)))
    }

    /// The present.
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
            Clock::Manual(hand) => Millis(hand.load(Ordering::SeqCst)),
        }
    }

    /// Moves a manual clock forward; a system clock cannot be moved and ignores it.
    pub fn advance(&self, by: Duration) {
        if let Clock::Manual(hand) = self {
            hand.fetch_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX), Ordering::SeqCst);
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
    fn a_manual_clock_moves_only_by_hand_and_clones_share_it() {
        let clock = Clock::manual(Millis(5));
        let other = clock.clone();
        clock.advance(Duration::from_secs(1));
        assert_eq!(other.now(), Millis(1005));
    }
}
