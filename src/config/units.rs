//! The notation of times and sizes in settings.

use std::time::Duration;

/// The remedy for an invalid time.
pub(super) const TIME_RULE: &str = "write a time such as 250ms, 30s, 10m, 1h or 1h30m";
/// The remedy for an invalid size.
pub(super) const SIZE_RULE: &str = "write a size such as 512M or 1G (K, M, G and T count in 1024s)";

/// The longest time that a setting may have. No setting needs more, and sums of such times cannot overflow.
const MAX_DURATION: Duration = Duration::from_secs(366 * 24 * 3600);

/// Reads a time: `250ms`, `30s`, `10m`, `1h`, `7d` and sums such as `1h30m`, the larger unit first. `0` needs no unit.
/// A time is at most 366 days.
pub fn parse_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut total = Duration::ZERO;
    let mut smaller_than = u64::MAX;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let count: u64 = rest[..digits].parse().ok()?;
        let unit_len = rest[digits..].bytes().take_while(u8::is_ascii_alphabetic).count();
        let unit = match &rest[digits..digits + unit_len] {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        if unit >= smaller_than {
            return None;
        }
        smaller_than = unit;
        total = total.checked_add(Duration::from_millis(count.checked_mul(unit)?))?;
        rest = &rest[digits + unit_len..];
    }
    (!text.is_empty() && total <= MAX_DURATION).then_some(total)
}

/// Writes a time so that [`parse_duration`] reads it back. Fractions of a millisecond are dropped.
pub fn format_duration(time: Duration) -> String {
    let mut ms = time.as_millis();
    if ms == 0 {
        return "0s".to_owned();
    }
    let mut text = String::new();
    for (unit, name) in [(3_600_000, "h"), (60_000, "m"), (1_000, "s"), (1, "ms")] {
        if ms >= unit {
            text.push_str(&format!("{}{name}", ms / unit));
            ms %= unit;
        }
    }
    text
}

/// Reads a number of bytes: `1048576`, `64K`, `512M`, `1G`, `2T`. The units are powers of 1024.
pub fn parse_size(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let count: u64 = text[..digits].parse().ok()?;
    let shift = match &text[digits..] {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return None,
    };
    count.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn times_are_read() {
        for (text, ms) in [
            ("0", 0),
            ("0s", 0),
            ("250ms", 250),
            ("30s", 30_000),
            ("10m", 600_000),
            ("1h", 3_600_000),
            ("1h30m", 5_400_000),
            ("2m0s250ms", 120_250),
            ("366d", 366 * 86_400_000),
        ] {
            assert_eq!(parse_duration(text), Some(Duration::from_millis(ms)), "{text}");
        }
    }

    #[test]
    fn an_invalid_time_is_refused() {
        for text in [
            "",
            "30",
            "s",
            "-1s",
            "1.5h",
            "1 h",
            "30m1h",
            "1s1s",
            "1S",
            "367d",
            "99999999999999999999s",
            "1é",
        ] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
        assert_eq!(parse_duration(&format!("{}h", u64::MAX)), None);
    }

    #[test]
    fn units_of_sizes_are_powers_of_1024() {
        for (text, bytes) in [("0", 0), ("17", 17), ("64K", 65_536), ("512M", 512 << 20), ("1G", 1 << 30)] {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
        }
        for text in ["", "M", "1MB", "1m", "-1", "1.5G", "1 G", "99999999999T"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }

    proptest! {
        #![proptest_config(crate::proptest_config())]

        #[test]
        fn a_time_that_is_written_reads_back(ms in 0_u64..366 * 86_400_000) {
            let time = Duration::from_millis(ms);
            prop_assert_eq!(parse_duration(&format_duration(time)), Some(time));
        }

        #[test]
        fn no_text_makes_reading_panic(text in "\\PC{0,20}|[0-9]{1,25}[hms]{0,3}") {
            let _ = parse_duration(&text);
            let _ = parse_size(&text);
        }
    }
}
