//! The current time, in whole milliseconds since the Unix epoch.
//!
//! Leases, limits, heartbeats and all that is stored go by *steady* time: the wall clock as it was when the process
//! started, moved on by `CLOCK_BOOTTIME`. An operator or a time service that sets the wall clock changes no deadline.
//!
//! `CLOCK_BOOTTIME` counts the time in which the host is suspended, and `CLOCK_MONOTONIC` does not. A lease counts it,
//! because the visitor, the other nodes and the store were awake: after a resume, what is over then ends at once.
//! Waits of the process itself use `tokio::time::Instant`, which a paused test runtime controls and which stands still
//! in a suspension; no wait for a lease is longer than ten seconds before the deadline is looked at again.
//!
//! What people see is wall time: [`Clock::shown`] converts a moment.
//!
//! Pure rules take `now` as an argument; only the code that calls them holds a [`Clock`].

use std::ops::{Add, Sub};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use std::{fmt, io};

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

/// A source of the current time: the system, or a value that a test advances.
#[derive(Debug, Clone, Default)]
pub enum Clock {
    /// The steady time of this process.
    #[default]
    System,
    /// The steady time that all nodes of a cluster share. Clones share it.
    Shared(Arc<SharedTime>),
    /// A time that stands still until [`Clock::advance`] moves it. Clones share the time.
    Manual(Arc<AtomicU64>),
}

/// The steady time of a cluster, as this node knows it: that of this process, until it is aligned.
#[derive(Debug, Default)]
pub struct SharedTime {
    /// The difference from the steady time of this process, in milliseconds.
    offset: AtomicI64,
    is_aligned: AtomicBool,
}

impl SharedTime {
    /// Returns whether the time was aligned with that of the cluster.
    pub fn is_aligned(&self) -> bool {
        self.is_aligned.load(Ordering::Acquire)
    }

    /// Makes `now` the present.
    pub fn align(&self, now: Millis) {
        let offset = i64::try_from(i128::from(now.0) - i128::from(steady_now().0)).unwrap_or_default();
        self.offset.store(offset, Ordering::Release);
        self.is_aligned.store(true, Ordering::Release);
    }

    fn now(&self) -> Millis {
        Millis(steady_now().0.saturating_add_signed(self.offset.load(Ordering::Acquire)))
    }
}

/// The difference of the wall clock from `CLOCK_BOOTTIME` when it was first needed, in nanoseconds.
static WALL_AT_BOOT: OnceLock<i128> = OnceLock::new();

/// Names the present run of the kernel.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Continues the steady time of an earlier process of this boot, which `file` holds, so that deadlines on disk keep their
/// meaning when the wall clock was set in between. Otherwise writes the file. Has no effect after the first use of a clock.
///
/// # Errors
/// The file cannot be read or written.
pub fn continue_steady_time(file: &Path) -> io::Result<()> {
    let Ok(boot) = std::fs::read_to_string(BOOT_ID) else { return Ok(()) };
    match std::fs::read_to_string(file) {
        Ok(text) => {
            if let Some(earlier) = wall_at_boot_of(&text, boot.trim()) {
                let _ = WALL_AT_BOOT.set(earlier);
                return Ok(());
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let _ = steady_now();
    let wall_at_boot = WALL_AT_BOOT.get().copied().unwrap_or_default();
    // A crash in the middle leaves a file of another boot or none, never half of a number: it ends with a mark.
    std::fs::write(file, format!("{} {wall_at_boot} end\n", boot.trim()))
}

/// Returns the number in the text of a file that a process of that boot wrote.
fn wall_at_boot_of(text: &str, boot: &str) -> Option<i128> {
    match text.split_whitespace().collect::<Vec<_>>()[..] {
        [of_boot, number, "end"] if of_boot == boot => number.parse().ok(),
        _ => None,
    }
}

fn steady_now() -> Millis {
    let boottime = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let boottime = i128::from(boottime.tv_sec) * 1_000_000_000 + i128::from(boottime.tv_nsec);
    let wall_at_boot = WALL_AT_BOOT.get_or_init(|| wall_nanos() - boottime);
    Millis(u64::try_from((boottime + wall_at_boot) / 1_000_000).unwrap_or_default())
}

#[expect(clippy::disallowed_methods, reason = "the one place that asks the system")]
fn wall_nanos() -> i128 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    i128::try_from(since.unwrap_or(Duration::ZERO).as_nanos()).unwrap_or_default()
}

impl Clock {
    /// Creates a clock that stands at `start` until [`Clock::advance`] moves it.
    pub fn manual(start: Millis) -> Self {
        Clock::Manual(Arc::new(AtomicU64::new(start.0)))
    }

    /// Returns the current time.
    pub fn now(&self) -> Millis {
        match self {
            Clock::System => steady_now(),
            Clock::Shared(time) => time.now(),
            Clock::Manual(time) => Millis(time.load(Ordering::SeqCst)),
        }
    }

    /// Returns a moment of this clock as the wall clock shows it, or will show it unless it is set once more.
    ///
    /// The difference is a whole number of seconds, so that a moment is shown alike each time; a wall clock that is less
    /// than half a second off counts as equal.
    pub fn shown(&self, at: Millis) -> Millis {
        if let Clock::Manual(_) = self {
            return at;
        }
        let wall = i64::try_from(wall_nanos() / 1_000_000).unwrap_or_default();
        let difference = wall.saturating_sub_unsigned(self.now().0);
        Millis(at.0.saturating_add_signed((difference + difference.signum() * 500) / 1000 * 1000))
    }

    /// Returns the wall clock's time.
    pub fn wall_now(&self) -> Millis {
        self.shown(self.now())
    }

    /// Advances a manual clock by `by`. Another clock ignores the call.
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

    #[test]
    fn the_steady_time_of_this_boot_alone_is_continued() {
        assert_eq!(
            wall_at_boot_of("a-b 123456789012345678901 end\n", "a-b"),
            Some(123_456_789_012_345_678_901)
        );
        for text in ["", "a-b 12", "a-b 12 e", "other 12 end", "a-b x end", "a-b 12 end more"] {
            assert_eq!(wall_at_boot_of(text, "a-b"), None, "{text}");
        }
    }

    #[test]
    fn an_aligned_clock_goes_on_from_there_and_its_moments_are_shown_as_wall_time() {
        let (own, shared) = (Clock::System, Arc::new(SharedTime::default()));
        let hours = Duration::from_secs(8 * 3600);
        for now in [own.now() + hours, own.now() - hours] {
            let clock = Clock::Shared(shared.clone());
            shared.align(now);
            assert!(shared.is_aligned());
            assert!(clock.now().since(now) < Duration::from_secs(60) && clock.now() >= now);
            let (shown, wall) = (clock.wall_now(), own.now());
            assert!(shown.0.abs_diff(wall.0) < 2_000, "{shown} {wall}");
            assert_eq!(clock.shown(now), clock.shown(now));
        }
        assert_eq!(own.shown(Millis(77_000)), Millis(77_000));
    }
}
