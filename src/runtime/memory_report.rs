//! What instances use of the host's memory. All numbers are bytes.

use std::fs;
use std::iter::Sum;

use crate::instance::InstanceId;

/// Memory that one instance uses, or several in sum.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryUse {
    /// Anonymous memory of its processes, which belongs to no file and to no other instance: the dirty pages of an
    /// instance restored from a checkpoint.
    pub private: u64,
    /// Proportional share of its processes: memory that several processes map counts for each in part, so that the sum
    /// over all processes of the host equals the memory that they use together.
    pub proportional: u64,
    /// Memory that would be free without it: its private memory, the files on its disk, which lie in memory, and what
    /// the kernel keeps for it. Caches that the kernel can reclaim, such as pages of files that it read, do not count.
    pub charged: u64,
}

/// Memory that all instances of a runtime used at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryReport {
    /// The instances that have processes.
    pub instances: Vec<(InstanceId, MemoryUse)>,
    /// By template: memory that its instances share, counted once for all of them.
    pub shared: Vec<(String, u64)>,
    /// Memory of the host.
    pub host: HostMemory,
    /// Memory that all instances together may still use before they reach their common limit; `None` if they have none.
    pub room: Option<u64>,
}

/// The memory of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostMemory {
    /// All memory.
    pub total: u64,
    /// Memory that could be used without swapping (`MemAvailable`).
    pub available: u64,
}

/// The least memory that is reserved for the host and everything else that runs there, in bytes.
const MIN_RESERVE: u64 = 512 << 20;

impl HostMemory {
    /// Reads it from the kernel; `None` where the kernel does not report it.
    pub(super) fn read() -> Option<Self> {
        Self::parse(&fs::read_to_string("/proc/meminfo").ok()?)
    }

    fn parse(meminfo: &str) -> Option<Self> {
        let find =
            |wanted: &str| meminfo.lines().filter_map(parse_kilobytes).find(|(name, _)| *name == wanted);
        Some(Self { total: find("MemTotal")?.1, available: find("MemAvailable")?.1 })
    }

    /// Returns what is reserved for everything else than instances.
    pub fn reserve(&self) -> u64 {
        (self.total / 8).max(MIN_RESERVE)
    }
}

impl Sum for MemoryUse {
    fn sum<I: Iterator<Item = Self>>(uses: I) -> Self {
        uses.fold(Self::default(), |sum, one| Self {
            private: sum.private.saturating_add(one.private),
            proportional: sum.proportional.saturating_add(one.proportional),
            charged: sum.charged.saturating_add(one.charged),
        })
    }
}

/// Parses `Name:  12 kB`; returns the name and the bytes.
pub(super) fn parse_kilobytes(line: &str) -> Option<(&str, u64)> {
    let (name, value) = line.split_once(':')?;
    let count: u64 = value.trim().strip_suffix(" kB")?.parse().ok()?;
    Some((name, count.checked_mul(1024)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_of_the_host_is_parsed() {
        let meminfo = "MemTotal:  1000 kB\nMemFree:  5 kB\nMemAvailable:  400 kB\nHugePages_Total:  0\n";
        assert_eq!(HostMemory::parse(meminfo), Some(HostMemory { total: 1_024_000, available: 409_600 }));
        assert_eq!(HostMemory::parse("MemTotal: 1 kB\n"), None);
        assert_eq!(parse_kilobytes("MemTotal:  99999999999999999999 kB"), None);
    }
}
