//! The control groups of instances, as far as this server uses them itself; runc makes them.
//!
//! The first process that changes its cgroup waits 10 ms and more, until all processors have passed a quiet point;
//! those within a few milliseconds after it do not. [`keep_cgroup_changes_fast`] uses that while an instance is
//! started.
//!
//! On cgroup v1 the freezer cannot stop a group that its processor limit holds back: a pause of the task (`ctr tasks
//! pause`) fails then. So the limit is lifted before an instance is frozen into a checkpoint.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use crate::runtime::blocking::blocking;
use crate::telemetry::task;

/// Where the kernel mounts the control groups.
pub(super) const CGROUP_ROOT: &str = "/sys/fs/cgroup";

/// Name of the group that contains the groups of all instances. Not to be changed: a newer server finds them by it.
pub(super) const PARENT_GROUP: &str = "try-it-now";

/// What the name of the group of all instances of a node ends with; no id of an instance contains a dot.
pub(super) const NODE_GROUP_SUFFIX: &str = ".instances";

/// Pause between two changes by this server; several fit into the shortest time after which the kernel is slow again.
const CHANGE_INTERVAL: Duration = Duration::from_millis(2);

/// Longest time for which changes are kept fast.
const MAX_DURATION: Duration = Duration::from_secs(2);

/// As long as this is held, processes change their groups without a wait.
#[derive(Debug)]
pub(crate) struct FastCgroupChanges {
    /// Closed when it is dropped.
    _sender: mpsc::Sender<()>,
}

/// Keeps changes of control groups fast until the result is dropped: this server moves itself to the group in which it
/// is, again and again, so that runc need not wait when it moves the instance's first process to its group.
pub(crate) fn keep_cgroup_changes_fast() -> FastCgroupChanges {
    let (sender, dropped) = mpsc::channel();
    task::spawn("prepare cgroups", async move {
        // Without the right to change groups, an instance's start takes as long as otherwise.
        let _ = blocking(move || change_repeatedly(&dropped)).await;
    });
    FastCgroupChanges { _sender: sender }
}

fn change_repeatedly(dropped: &mpsc::Receiver<()>) -> io::Result<()> {
    let procs = own_group()?.join("cgroup.procs");
    for _ in 0..MAX_DURATION.as_micros() / CHANGE_INTERVAL.as_micros() {
        fs::write(&procs, "0")?;
        if dropped.recv_timeout(CHANGE_INTERVAL) == Err(mpsc::RecvTimeoutError::Disconnected) {
            break;
        }
    }
    Ok(())
}

/// Returns the group of this process in one of the hierarchies; they all share the wait.
fn own_group() -> io::Result<PathBuf> {
    let groups = fs::read_to_string("/proc/self/cgroup")?;
    let folders = groups.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (hierarchy, path) = (parts.next()?, parts.next()?.trim_start_matches('/'));
        let hierarchy = hierarchy.trim_start_matches("name=");
        Some(Path::new(CGROUP_ROOT).join(hierarchy).join(path))
    });
    let mut known = folders.filter(|folder| folder.join("cgroup.procs").exists());
    known.next().ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// Returns the path of a group that belongs to no node, from the root of its hierarchy on.
pub(crate) fn path(id: &str) -> String {
    format!("/{PARENT_GROUP}/{id}")
}

/// Returns the folders of an instance's group: one on cgroup v2, one in each hierarchy on v1. It is in the group of its
/// node, or directly in the group of this program if an older server made it.
pub(crate) fn folders(id: &str) -> Vec<PathBuf> {
    let root = Path::new(CGROUP_ROOT);
    let hierarchies = subfolders(root).chain([root.to_owned()]);
    let parents = hierarchies.map(|hierarchy| hierarchy.join(PARENT_GROUP));
    let is_node_group = |path: &PathBuf| path.to_string_lossy().ends_with(NODE_GROUP_SUFFIX);
    let all = parents.flat_map(|parent| subfolders(&parent).filter(is_node_group).chain([parent]));
    all.map(|group| group.join(id)).filter(|group| group.is_dir()).collect()
}

fn subfolders(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path())
}

/// Lets the processes of a frozen group run.
pub(super) fn thaw(id: &str) {
    for group in folders(id) {
        for (file, running) in [("freezer.state", "THAWED"), ("cgroup.freeze", "0")] {
            let file = group.join(file);
            if file.exists() {
                // If it fails, the processes cannot be ended, and that error is reported.
                let _ = fs::write(file, running);
            }
        }
    }
}

/// Lifts the processor limit of an instance, so that it can be frozen.
pub(crate) fn lift_cpu_limit(id: &str) {
    for group in folders(id) {
        for (file, unlimited) in [("cpu.cfs_quota_us", "-1"), ("cpu.max", "max")] {
            let file = group.join(file);
            if file.exists() {
                // If it fails, the freeze may fail, and that error is reported.
                let _ = fs::write(file, unlimited);
            }
        }
    }
}

/// Returns the bytes that the kernel charges to an instance's group, without file pages that it can reclaim. `None` if
/// the kernel does not report them.
pub(crate) fn charged_bytes(id: &str) -> Option<u64> {
    const TOTALS: [&str; 2] = ["memory.current", "memory.usage_in_bytes"];
    folders(id).into_iter().find_map(|group| {
        let total = TOTALS.into_iter().find_map(|name| fs::read_to_string(group.join(name)).ok())?;
        let stat = fs::read_to_string(group.join("memory.stat")).ok()?;
        Some(total.trim().parse::<u64>().ok()?.saturating_sub(reclaimable_bytes(&stat)))
    })
}

/// Returns the bytes of file pages in memory, by a group's `memory.stat`, which the kernel can reclaim. Files on a tmpfs
/// do not count as such.
///
/// Version 2 counts the groups below a group too; version 1 counts them in values of their own (`total_`).
pub(super) fn reclaimable_bytes(stat: &str) -> u64 {
    let value = |wanted: &str| {
        let mut lines = stat.lines().filter_map(|line| line.split_once(' '));
        lines.find(|(name, _)| *name == wanted)?.1.parse::<u64>().ok()
    };
    let bytes = |name: &str| value(&format!("total_{name}")).or_else(|| value(name)).unwrap_or(0);
    bytes("inactive_file").saturating_add(bytes("active_file"))
}

/// Returns the numbers of the processes in an instance's group, some more than once.
pub(crate) fn processes(id: &str) -> Vec<i32> {
    let lists =
        folders(id).into_iter().filter_map(|group| fs::read_to_string(group.join("cgroup.procs")).ok());
    lists.flat_map(|list| list.lines().filter_map(|line| line.parse().ok()).collect::<Vec<_>>()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_pages_are_those_that_the_kernel_can_reclaim() {
        let stat =
            "cache 900\nrss 5\ninactive_anon 7\ninactive_file 30\nactive_file 12\ntotal_active_file 14\n";
        assert_eq!(reclaimable_bytes(stat), 44);
        assert_eq!(reclaimable_bytes("inactive_file 30\nactive_file 12\n"), 42);
        assert_eq!(reclaimable_bytes(""), 0);
    }

    #[test]
    fn changes_are_kept_fast_until_the_guard_is_dropped() {
        let (sender, dropped) = mpsc::channel();
        let changing = std::thread::spawn(move || change_repeatedly(&dropped));
        drop(FastCgroupChanges { _sender: sender });
        match changing.join().unwrap() {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                println!("skipped: only root may change a group");
            }
            outcome => outcome.unwrap(),
        }
    }
}
