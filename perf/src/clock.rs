//! Time, of the wall and of a process.

use std::time::{Duration, Instant};

/// The present.
#[expect(
    clippy::disallowed_methods,
    reason = "it measures, and nothing here is to be tested with another time"
)]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Processor time that a process has used so far, to 10 ms, the tick that Linux shows to programs on all machines
/// that we know of; `None` when the process is gone.
pub(crate) fn processor_time(pid: u32) -> Option<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything; what follows it is numbers.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let ticks: u64 = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    Some(Duration::from_millis(ticks * 10))
}
