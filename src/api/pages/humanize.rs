//! Times and numbers as people say them.

use std::time::Duration;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// `1 copy`, `2 copies`, `0 copies`.
pub(super) fn count(n: u64, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

/// A length of time in its two largest units: `1 hour and 30 minutes`. What is begun of the smaller unit counts.
pub(super) fn lasting(time: Duration) -> String {
    let seconds = seconds(time);
    if seconds < MINUTE {
        return count(seconds, "second", "seconds");
    }
    let (big, small) = match seconds {
        ..HOUR => ((MINUTE, "minute", "minutes"), (1, "second", "seconds")),
        // Minutes that round up to a whole day are said as one.
        HOUR..DAY if seconds.div_ceil(MINUTE) * MINUTE < DAY => {
            ((HOUR, "hour", "hours"), (MINUTE, "minute", "minutes"))
        }
        _ => ((DAY, "day", "days"), (HOUR, "hour", "hours")),
    };
    let whole = seconds.div_ceil(small.0).saturating_mul(small.0);
    let (first, second) = (whole / big.0, whole % big.0 / small.0);
    let first = count(first, big.1, big.2);
    if second == 0 { first } else { format!("{first} and {}", count(second, small.1, small.2)) }
}

/// A wait, never said to be shorter than it is: `1 second`, `42 minutes`, `3 hours and 5 minutes`.
pub(super) fn wait(time: Duration) -> String {
    let seconds = seconds(time).max(1);
    let whole = if seconds < MINUTE { seconds } else { seconds.div_ceil(MINUTE).saturating_mul(MINUTE) };
    lasting(Duration::from_secs(whole))
}

/// `1:02:03` or `02:03`; what is begun of a second counts, so that zero means the end.
pub(super) fn clock(left: Duration) -> String {
    let seconds = seconds(left);
    let (h, m, s) = (seconds / HOUR, seconds / MINUTE % 60, seconds % MINUTE);
    if h > 0 { format!("{h}:{m:02}:{s:02}") } else { format!("{m:02}:{s:02}") }
}

/// Whole seconds, what is begun of one counted.
fn seconds(time: Duration) -> u64 {
    time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(seconds: u64) -> String {
        lasting(Duration::from_secs(seconds))
    }

    #[test]
    fn a_length_of_time_is_said_in_two_units_at_most() {
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
            assert_eq!(said(seconds), text);
        }
    }

    #[test]
    fn a_wait_is_rounded_up_and_never_nothing() {
        let said = |millis| wait(Duration::from_millis(millis));
        assert_eq!([said(0), said(1), said(1_001)], ["1 second", "1 second", "2 seconds"]);
        assert_eq!([said(59_001), said(61_000), said(3_541_000)], ["1 minute", "2 minutes", "1 hour"]);
        assert_eq!(said(3_600_001), "1 hour and 1 minute");
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
        let said = [0, 1, 2].map(|n| count(n, "copy", "copies"));
        assert_eq!(said, ["0 copies", "1 copy", "2 copies"]);
    }

    #[test]
    fn the_longest_time_of_all_is_no_problem() {
        assert!(lasting(Duration::MAX).contains("days"));
        assert!(!clock(Duration::MAX).is_empty());
    }
}
