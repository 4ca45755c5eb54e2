//! Reads from the kernel what instances use of the host's memory.
//!
//! The kernel counts memory as private if no other process maps it at the moment, so the only instance of a
//! checkpoint would seem to own all shared memory. Therefore this file counts anonymous memory.

use std::collections::BTreeSet;
use std::fs;
use std::io;

use super::cgroups;
use crate::instance::InstanceId;
use crate::runtime::blocking::blocking;
use crate::runtime::containerd::inner::Inner;
use crate::runtime::memory_report::{HostMemory, MemoryReport, MemoryUse, parse_kilobytes};

impl Inner {
    /// Returns what all instances use. It takes a third of a millisecond for each process. `None` if the kernel does
    /// not report it.
    pub(crate) async fn memory(&self) -> Option<MemoryReport> {
        let shares = |id: &InstanceId| {
            let checkpoint = self.instances.checkpoint_of(id);
            checkpoint.is_some_and(|key| self.checkpoints.devices_dir(&key).is_some())
        };
        let ids: Vec<_> = self.instances.ids().into_iter().map(|id| (shares(&id), id)).collect();
        let shared = self.checkpoints.shared_bytes();
        let limit = self.node_limits().memory;
        let group = self.node_group.clone();
        blocking(move || {
            let room = group.used_bytes().map(|used| limit.saturating_sub(used));
            let host = HostMemory::read()?;
            let uses =
                ids.into_iter().filter_map(|(shares, id)| Some((instance_memory(id.as_str(), shares)?, id)));
            Some(MemoryReport { instances: uses.map(|(used, id)| (id, used)).collect(), shared, host, room })
        })
        .await
    }
}

/// Returns what one instance uses; `None` if it has no processes, or none any more. If it shares memory, its files in
/// memory are the checkpoint's and not its own.
fn instance_memory(id: &str, shares: bool) -> Option<MemoryUse> {
    let processes: BTreeSet<i32> = cgroups::processes(id).into_iter().collect();
    let read = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/smaps_rollup"));
    // A process that has ended meanwhile uses none.
    let uses: Vec<_> = processes
        .iter()
        .map(read)
        .filter_map(io::Result::ok)
        .map(|text| process_memory(&text, shares))
        .collect();
    if uses.is_empty() {
        return None;
    }
    let sum: MemoryUse = uses.into_iter().sum();
    Some(MemoryUse { charged: cgroups::charged_bytes(id).unwrap_or(sum.private), ..sum })
}

/// Sums up a process's `smaps_rollup`. Memory that several processes of an instance map counts for each in part; no
/// other instance maps any of it.
fn process_memory(rollup: &str, shares: bool) -> MemoryUse {
    let mut used = MemoryUse::default();
    for (name, bytes) in rollup.lines().filter_map(parse_kilobytes) {
        match name {
            "Pss_Anon" | "Private_Hugetlb" => used.private += bytes,
            "Pss_Shmem" if !shares => used.private += bytes,
            "Pss" => used.proportional += bytes,
            _ => {}
        }
    }
    used
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_of_a_process_is_summed_up() {
        let rollup = "55a0-7ffe ---p 00000000 00:00 0    [rollup]\nRss:   9000 kB\nPss:   120 kB\nPss_Dirty: 7 kB\n\
                      Pss_Anon: 20 kB\nPss_File: 93 kB\nPss_Shmem: 7 kB\nPrivate_Dirty:  16 kB\nPrivate_Hugetlb:  0 kB\n";
        let expected = MemoryUse { private: 20 << 10, proportional: 120 << 10, charged: 0 };
        assert_eq!(process_memory(rollup, true), expected);
        assert_eq!(process_memory(rollup, false), MemoryUse { private: 27 << 10, ..expected });
        // A process that is ending has an empty file.
        assert_eq!(process_memory("", true), MemoryUse::default());
    }

    #[test]
    fn this_process_has_private_memory() {
        let own = process_memory(&fs::read_to_string("/proc/self/smaps_rollup").unwrap(), false);
        assert!(own.private > 100 << 10 && own.proportional >= own.private, "{own:?}");
        let host = HostMemory::read().unwrap();
        assert!(host.total > host.available && host.available > own.private, "{host:?}");
        assert_eq!(instance_memory("no-such-instance", false), None);
    }
}
