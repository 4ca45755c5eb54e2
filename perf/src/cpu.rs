//! The processors of this machine: which process runs on which core, and how busy all of them are.

use std::fs;
use std::io;
use std::time::Duration;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::failure::Failure;

/// The unit in which the kernel counts processor time for programs, on every machine that this program runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// The two cores in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cores {
    /// The core of what is measured.
    pub(crate) server: usize,
    /// The core of the load.
    pub(crate) load: usize,
}

impl Cores {
    /// Returns the first and the last core that this process may use; the same core twice if there is only one.
    pub(crate) fn choose() -> io::Result<Self> {
        let allowed = sched_getaffinity(None)?;
        let mut usable = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core));
        let server = usable.next().ok_or_else(|| io::Error::other("this process may not use any core"))?;
        Ok(Self { server, load: usable.next_back().unwrap_or(server) })
    }

    /// Whether the server has a core of its own.
    pub(crate) fn are_two(self) -> bool {
        self.server != self.load
    }
}

/// Binds the calling thread, and the processes that it starts, to one core.
pub(crate) fn bind_to(core: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(core);
    Ok(sched_setaffinity(None, &set)?)
}

/// Calls a function on another core. Processes that it starts stay there.
pub(crate) fn on<T, E: From<io::Error>>(core: usize, act: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    let before = sched_getaffinity(None).map_err(io::Error::from)?;
    bind_to(core)?;
    let done = act();
    sched_setaffinity(None, &before).map_err(io::Error::from)?;
    done
}

/// Returns the processor time that a process has used so far, in steps of 10 ms; `None` if the process has ended.
pub(crate) fn time_of(pid: u32) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may contain anything. Numbers follow it.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let ticks: u64 = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    Some(Duration::from_millis(ticks * 10))
}

/// Returns the milliseconds in which all processors together were not idle since the machine started.
pub(crate) fn busy_millis() -> Result<f64, Failure> {
    Ok(busy_ticks(&fs::read_to_string("/proc/stat")?)? as f64 * 1000.0 / TICKS_PER_SECOND)
}

/// Returns the number of processors, whether or not this process may use them.
pub(crate) fn count() -> Result<usize, Failure> {
    let text = fs::read_to_string("/proc/stat")?;
    let is_processor = |line: &&str| {
        line.strip_prefix("cpu").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    Ok(text.lines().filter(is_processor).count())
}

fn busy_ticks(text: &str) -> Result<u64, Failure> {
    let all = text.lines().find_map(|line| line.strip_prefix("cpu ")).ok_or("/proc/stat has no sum")?;
    let ticks = all.split_whitespace().map(str::parse).collect::<Result<Vec<u64>, _>>()?;
    // user, nice, system, idle, iowait, irq, softirq, steal; guest times are contained in the first two.
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
        assert!(count().unwrap() > 0 && busy_millis().unwrap() > 0.0);
    }
}
