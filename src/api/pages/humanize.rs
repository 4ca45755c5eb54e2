//! Durations and numbers in words.

use std::time::Duration;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// Returns a number with its noun: `1 copy`, `2 copies`, `0 copies`.
pub(super) fn count(n: u64, singular: &str, plural: &str) -> String {
    format!("{n} {}", if n == 1 { singular } else { plural })
}

/// Returns a duration in its two largest units: `1 hour and 30 minutes`. The smaller unit is rounded up.
pub(super) fn duration(time: Duration) -> String {
    let seconds = seconds(time);
    if seconds < MINUTE {
        return count(seconds, "second", "seconds");
    }
    let (larger, smaller) = match seconds {
        ..HOUR => ((MINUTE, "minute", "minutes"), (1, "second", "seconds")),
        // Minutes that round up to 24 hours become one day.
        HOUR..DAY if seconds.div_ceil(MINUTE) * MINUTE < DAY => {
            ((HOUR, "hour", "hours"), (MINUTE, "minute", "minutes"))
        }
        _ => ((DAY, "day", "days"), (HOUR, "hour", "hours")),
    };
    let rounded = seconds.div_ceil(smaller.0).saturating_mul(smaller.0);
    let (first, second) = (rounded / larger.0, rounded % larger.0 / smaller.0);
    let first = count(first, larger.1, larger.2);
    if second == 0 { first } else { format!("{first} and {}", count(second, smaller.1, smaller.2)) }
}

/// Returns the time of a wait, rounded up to whole minutes from one minute on, and never less than a second:
/// `1 second`, `42 minutes`, `3 hours and 5 minutes`.
pub(super) fn wait(time: Duration) -> String {
    let seconds = seconds(time).max(1);
    let rounded = if seconds < MINUTE { seconds } else { seconds.div_ceil(MINUTE).saturating_mul(MINUTE) };
    duration(Duration::from_secs(rounded))
}

/// Returns the remaining time as a clock shows it, `1:02:03` or `02:03`. Seconds are rounded up, so that zero means the
/// end.
pub(super) fn clock(remaining: Duration) -> String {
    let seconds = seconds(remaining);
    let (h, m, s) = (seconds / HOUR, seconds / MINUTE % 60, seconds % MINUTE);
    if h > 0 { format!("{h}:{m:02}:{s:02}") } else { format!("{m:02}:{s:02}") }
}

/// Returns the duration in seconds, rounded up.
fn seconds(time: Duration) -> u64 {
    time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_words(seconds: u64) -> String {
        duration(Duration::from_secs(seconds))
    }

    #[test]
    fn a_duration_has_at_most_two_units() {
        for (seconds, text) in [
            (0, "0 seconds"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "1 minute"),
            (61, "1 minute and 1 second"),
            (90, "1 minute and 30 seconds"),
            (1800, "30 minutes"),
            (3600, "1 hour"),
            (3601, "1 hour and 1 minute"),
            (5400, "1 hour and 30 minutes"),
            (7200, "2 hours"),
            (86_399, "1 day"),
            (86_400, "1 day"),
            (90_000, "1 day and 1 hour"),
            (172_800, "2 days"),
        ] {
            assert_eq!(in_words(seconds), text);
        }
    }

    #[test]
    fn a_wait_is_rounded_up_and_never_zero() {
        let shown = |millis| wait(Duration::from_millis(millis));
        assert_eq!([shown(0), shown(1), shown(1_001)], ["1 second", "1 second", "2 seconds"]);
        assert_eq!([shown(59_001), shown(61_000), shown(3_541_000)], ["1 minute", "2 minutes", "1 hour"]);
        assert_eq!(shown(3_600_001), "1 hour and 1 minute");
    }

    #[test]
    fn the_clock_reaches_zero_only_at_the_end() {
        let shown = |millis| clock(Duration::from_millis(millis));
        assert_eq!(
            [shown(3_723_000), shown(3_600_000), shown(3_599_000), shown(123_000), shown(1), shown(0)],
            ["1:02:03", "1:00:00", "59:59", "02:03", "00:01", "00:00"]
        );
    }

    #[test]
    fn one_is_singular_and_everything_else_plural() {
        let shown = [0, 1, 2].map(|n| count(n, "copy", "copies"));
        assert_eq!(shown, ["0 copies", "1 copy", "2 copies"]);
    }

    #[test]
    fn the_longest_duration_does_not_overflow() {
        assert!(duration(Duration::MAX).contains("days"));
        assert!(!clock(Duration::MAX).is_empty());
    }
}
