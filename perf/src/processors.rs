//! What this machine's processors do, whoever has them do it.

use std::fs;

use crate::Failure;

/// The kernel counts in these, for every program on every machine that we run on.
const TICKS_A_SECOND: f64 = 100.0;

/// Milliseconds that all processors together were not idle since the machine began.
pub(crate) fn busy() -> Result<f64, Failure> {
    Ok(busy_ticks(&fs::read_to_string("/proc/stat")?)? as f64 * 1000.0 / TICKS_A_SECOND)
}

/// How many there are, whichever of them this process may use.
pub(crate) fn count() -> Result<usize, Failure> {
    let text = fs::read_to_string("/proc/stat")?;
    let one = |line: &&str| {
        line.strip_prefix("cpu").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    Ok(text.lines().filter(one).count())
}

fn busy_ticks(text: &str) -> Result<u64, Failure> {
    let all = text.lines().find_map(|line| line.strip_prefix("cpu ")).ok_or("/proc/stat has no sum")?;
    let ticks = all.split_whitespace().map(str::parse).collect::<Result<Vec<u64>, _>>()?;
    // user, nice, system, idle, waiting for disks, interrupts of two kinds, stolen; of guests, what is in the first two.
    let counts = [true, true, true, false, false, true, true, true];
    Ok(ticks.iter().zip(counts).filter(|(_, counts)| *counts).map(|(ticks, _)| ticks).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_and_waiting_processors_are_not_busy() {
        assert_eq!(busy_ticks("cpu  1 2 4 1000 2000 8 16 32 1 2\ncpu0 5 5 5 5 5 5 5 5 5 5\n").unwrap(), 63);
        busy_ticks("intr 1\n").unwrap_err();
        assert!(count().unwrap() > 0 && busy().unwrap() > 0.0);
    }
}
