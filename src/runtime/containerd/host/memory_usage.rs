//! What instances take of the host's memory, as the kernel counts it.

use std::collections::BTreeSet;
use std::fs;
use std::io;

use super::cgroups;
use crate::instance::InstanceId;
use crate::runtime::blocking::blocking;
use crate::runtime::containerd::Inner;
use crate::runtime::memory_report::{HostMemory, MemoryReport, MemoryUse};

impl Inner {
    /// Reads it all, a third of a millisecond for each process. `None` where the kernel does not tell.
    pub(crate) async fn memory(&self) -> Option<MemoryReport> {
        let shares = |id: &InstanceId| {
            let of = self.instances.origin(id);
            of.is_some_and(|key| self.checkpoints.devices(&key).is_some())
        };
        let ids: Vec<_> = self.instances.ids().into_iter().map(|id| (shares(&id), id)).collect();
        let shared = self.checkpoints.shared();
        blocking(move || {
            let host = host(&fs::read_to_string("/proc/meminfo").ok()?)?;
            let uses =
                ids.into_iter().filter_map(|(shares, id)| Some((of_instance(id.as_str(), shares)?, id)));
            Some(MemoryReport { instances: uses.map(|(used, id)| (id, used)).collect(), shared, host })
        })
        .await
    }
}

/// `None` for one that has no processes, or none any more. One that shares has memory in files that are not its own.
fn of_instance(id: &str, shares: bool) -> Option<MemoryUse> {
    let processes: BTreeSet<i32> = cgroups::processes(id).into_iter().collect();
    let read = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/smaps_rollup"));
    // One that has ended meanwhile has none.
    let uses: Vec<_> =
        processes.iter().map(read).filter_map(io::Result::ok).map(|text| of_process(&text, shares)).collect();
    if uses.is_empty() {
        return None;
    }
    let sum: MemoryUse = uses.into_iter().sum();
    Some(MemoryUse { charged: cgroups::charged(id).unwrap_or(sum.private), ..sum })
}

/// The sums that a process's `smaps_rollup` has. What processes of an instance have in common counts for each in part; no
/// other instance has any of it. What the kernel calls private is something else: it counts what nobody else has mapped just
/// now, and so all that copies share for the only one of them.
fn of_process(rollup: &str, shares: bool) -> MemoryUse {
    let mut used = MemoryUse::default();
    for (name, bytes) in rollup.lines().filter_map(kilobytes) {
        match name {
            "Pss_Anon" | "Private_Hugetlb" => used.private += bytes,
            "Pss_Shmem" if !shares => used.private += bytes,
            "Pss" => used.proportional += bytes,
            _ => {}
        }
    }
    used
}

fn host(meminfo: &str) -> Option<HostMemory> {
    let find = |wanted: &str| meminfo.lines().filter_map(kilobytes).find(|(name, _)| *name == wanted);
    Some(HostMemory { total: find("MemTotal")?.1, available: find("MemAvailable")?.1 })
}

/// `Name:  12 kB`, in bytes.
fn kilobytes(line: &str) -> Option<(&str, u64)> {
    let (name, value) = line.split_once(':')?;
    let count: u64 = value.trim().strip_suffix(" kB")?.parse().ok()?;
    Some((name, count.checked_mul(1024)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_counts_is_read() {
        let rollup = "55a0-7ffe ---p 00000000 00:00 0    [rollup]\nRss:   9000 kB\nPss:   120 kB\nPss_Dirty: 7 kB\n\
                      Pss_Anon: 20 kB\nPss_File: 93 kB\nPss_Shmem: 7 kB\nPrivate_Dirty:  16 kB\nPrivate_Hugetlb:  0 kB\n";
        let expected = MemoryUse { private: 20 << 10, proportional: 120 << 10, charged: 0 };
        assert_eq!(of_process(rollup, true), expected);
        assert_eq!(of_process(rollup, false), MemoryUse { private: 27 << 10, ..expected });
        // Of one that ends.
        assert_eq!(of_process("", true), MemoryUse::default());
        let meminfo = "MemTotal:  1000 kB\nMemFree:  5 kB\nMemAvailable:  400 kB\nHugePages_Total:  0\n";
        assert_eq!(host(meminfo), Some(HostMemory { total: 1_024_000, available: 409_600 }));
        assert_eq!(host("MemTotal: 1 kB\n"), None);
        assert_eq!(kilobytes("MemTotal:  99999999999999999999 kB"), None);
    }

    #[test]
    fn this_very_process_has_memory_of_its_own() {
        let own = of_process(&fs::read_to_string("/proc/self/smaps_rollup").unwrap(), false);
        assert!(own.private > 100 << 10 && own.proportional >= own.private, "{own:?}");
        let host = host(&fs::read_to_string("/proc/meminfo").unwrap()).unwrap();
        assert!(host.total > host.available && host.available > own.private, "{host:?}");
        assert_eq!(of_instance("no-such-instance", false), None);
    }
}
