//! Reads from the kernel what instances use of the host's memory.
//!
//! The files of control groups are read, and the engine is not asked: a reading of each instance takes three small
//! files, and any user of the host may read them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use super::inner::Inner;
use crate::runtime::blocking::blocking;
use crate::runtime::cgroup_memory::GroupMemory;
use crate::runtime::{HostMemory, MemoryReport, MemoryUse};

/// Where the kernel mounts the control groups.
const CGROUP_ROOT: &str = "/sys/fs/cgroup";

impl Inner {
    /// Returns what all instances use. `None` if the kernel does not report it: where the engine's containers do not run
    /// on this host, or this server is in a container of its own and does not see their groups.
    pub(super) async fn memory(&self) -> Option<MemoryReport> {
        let instances: Vec<_> = self
            .instances
            .all()
            .into_iter()
            .filter_map(|(id, one)| Some((id, one.pid.load(Ordering::Acquire), one.container()?)))
            .collect();
        blocking(move || {
            let host = HostMemory::read()?;
            let number = instances.len();
            let uses = instances.into_iter().filter_map(|(id, pid, container)| {
                let group =
                    memory_group(&fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?, &container)?;
                Some((id, memory_use(&GroupMemory::read(&group)?)))
            });
            let uses: Vec<_> = uses.collect();
            let is_hidden = uses.is_empty() && number > 0;
            (!is_hidden).then_some(MemoryReport { instances: uses, shared: Vec::new(), host, room: None })
        })
        .await
    }
}

/// Returns what an instance uses, by the memory of its group. Pages of files are charged to the group that read them
/// first, so what several instances map of one image counts for one of them.
fn memory_use(group: &GroupMemory) -> MemoryUse {
    let private = group.anonymous();
    MemoryUse {
        private,
        proportional: private.saturating_add(group.mapped_files()),
        charged: group.charged(),
    }
}

/// Returns the folder of the control group that counts a container's memory, by the `/proc/PID/cgroup` of its first
/// process. `None` if the process is not in a group of this container: its number is that of another process by now, or
/// one of another host.
fn memory_group(text: &str, container: &str) -> Option<PathBuf> {
    let lines = text.lines().filter_map(|line| {
        let (_, rest) = line.split_once(':')?;
        rest.split_once(':')
    });
    let find =
        |counts: fn(&str) -> bool| lines.clone().find(|(names, _)| counts(names)).map(|(_, path)| path);
    let of_version_1 = find(|names| names.split(',').any(|name| name == "memory"));
    let (hierarchy, path) = match of_version_1 {
        Some(path) => ("memory", path),
        None => ("", find(str::is_empty)?),
    };
    let has_container = path.split('/').any(|part| part.contains(container));
    has_container.then(|| Path::new(CGROUP_ROOT).join(hierarchy).join(path.trim_start_matches('/')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_of_a_container_is_found_with_both_versions_and_both_engines() {
        for (text, expected) in [
            ("4:memory:/docker/c1\n3:cpuset:/docker/c1\n0::/docker/c1\n", Some("memory/docker/c1")),
            ("4:cpu,memory:/libpod_parent/libpod-c1\n", Some("memory/libpod_parent/libpod-c1")),
            ("0::/system.slice/docker-c1.scope\n", Some("system.slice/docker-c1.scope")),
            (
                "0::/machine.slice/libpod-c1.scope/container\n",
                Some("machine.slice/libpod-c1.scope/container"),
            ),
            ("4:memory:/docker/c2\n0::/docker/c1\n", None),
            ("0::/user.slice\n", None),
            ("4:pids:/docker/c1\n", None),
            ("", None),
        ] {
            let expected = expected.map(|path| Path::new(CGROUP_ROOT).join(path));
            assert_eq!(memory_group(text, "c1"), expected, "{text}");
        }
    }
}
