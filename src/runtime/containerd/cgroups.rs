//! The control groups of instances, where runc is not there to see to them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::super::host::blocking;
use crate::task;

/// Where the kernel shows them.
const ROOT: &str = "/sys/fs/cgroup";

/// The group that has those of all our instances in it.
const OURS: &str = "try-it-now";

/// Has the kernel prepare for a process that changes its group. The first such change waits for all processors to pass
/// a quiet point, 10 ms and more; those that come soon after do not. So this server "moves" to where it is, while other
/// things are done for an instance, and runc need not wait when it puts the instance's first process in its group.
pub(super) fn prepare_for_a_change() {
    task::spawn("prepare cgroups", async {
        // Without the right to, it takes as long as ever.
        let _ = blocking(|| fs::write(own_group()?.join("cgroup.procs"), "0")).await;
    });
}

/// The group of this process in one of the hierarchies; they share what is waited for.
fn own_group() -> io::Result<PathBuf> {
    let groups = fs::read_to_string("/proc/self/cgroup")?;
    let folders = groups.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (hierarchy, path) = (parts.next()?, parts.next()?.trim_start_matches('/'));
        let hierarchy = hierarchy.trim_start_matches("name=");
        Some(Path::new(ROOT).join(hierarchy).join(path))
    });
    let mut known = folders.filter(|folder| folder.join("cgroup.procs").exists());
    known.next().ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// The group of an instance, from the root of its hierarchy on.
pub(super) fn path(id: &str) -> String {
    format!("/{OURS}/{id}")
}

/// The folders of an instance's group: one, or one in each hierarchy of the older version.
pub(super) fn folders(id: &str) -> Vec<PathBuf> {
    let root = Path::new(ROOT);
    let hierarchies = fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
    let all = hierarchies.chain([root.to_owned()]).map(|hierarchy| hierarchy.join(OURS).join(id));
    all.filter(|group| group.is_dir()).collect()
}

/// The numbers of the processes in that group, some more than once.
pub(super) fn processes(id: &str) -> Vec<i32> {
    let lists =
        folders(id).into_iter().filter_map(|group| fs::read_to_string(group.join("cgroup.procs")).ok());
    lists.flat_map(|list| list.lines().filter_map(|line| line.parse().ok()).collect::<Vec<_>>()).collect()
}
