//! The control groups of instances, as far as this server uses them itself; runc makes them.
//!
//! On cgroup v1 the freezer cannot stop a group that its processor limit holds back: a pause of the task (`ctr tasks
//! pause`) fails then. So the limit is lifted before an instance is frozen into a checkpoint.

use std::fs;
use std::path::{Path, PathBuf};

use crate::runtime::cgroup_memory::GroupMemory;

/// Where the kernel mounts the control groups.
pub(super) const CGROUP_ROOT: &str = "/sys/fs/cgroup";

/// Name of the group that contains the groups of all instances. Not to be changed: a newer server finds them by it.
pub(super) const PARENT_GROUP: &str = "try-it-now";

/// What the name of the group of all instances of a node ends with; no id of an instance contains a dot.
pub(super) const NODE_GROUP_SUFFIX: &str = ".instances";

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
    folders(id).into_iter().find_map(|group| Some(GroupMemory::read(&group)?.charged()))
}

/// Returns the numbers of the processes in an instance's group, some more than once.
pub(crate) fn processes(id: &str) -> Vec<i32> {
    let lists =
        folders(id).into_iter().filter_map(|group| fs::read_to_string(group.join("cgroup.procs")).ok());
    lists.flat_map(|list| list.lines().filter_map(|line| line.parse().ok()).collect::<Vec<_>>()).collect()
}
