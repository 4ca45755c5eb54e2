//! The control groups of instances, where runc is not there to see to them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use crate::runtime::blocking::blocking;
use crate::telemetry::task;

/// Where the kernel shows them.
const ROOT: &str = "/sys/fs/cgroup";

/// The group that has those of all our instances in it.
const OURS: &str = "try-it-now";

/// How often the kernel is reminded; several times in the shortest time after which it forgets.
const REMINDER: Duration = Duration::from_millis(2);

/// Longest time that one is reminded for.
const LONGEST: Duration = Duration::from_secs(2);

/// Processes may change their groups without a wait as long as it is held.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// Closed when it is dropped.
    _held: mpsc::Sender<()>,
}

/// Has the kernel prepare for processes that change their groups. The first such change waits for all processors to pass
/// a quiet point, 10 ms and more; those that come soon after one do not. So this server "moves" to where it is, again and
/// again while an instance is made, and runc need not wait when it puts the instance's first process in its group.
pub(crate) fn prepare_for_changes() -> Prepared {
    let (held, dropped) = mpsc::channel();
    task::spawn("prepare cgroups", async move {
        // Without the right to, it takes as long as ever.
        let _ = blocking(move || remind(&dropped)).await;
    });
    Prepared { _held: held }
}

fn remind(dropped: &mpsc::Receiver<()>) -> io::Result<()> {
    let procs = own_group()?.join("cgroup.procs");
    for _ in 0..LONGEST.as_micros() / REMINDER.as_micros() {
        fs::write(&procs, "0")?;
        if dropped.recv_timeout(REMINDER) == Err(mpsc::RecvTimeoutError::Disconnected) {
            break;
        }
    }
    Ok(())
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
pub(crate) fn path(id: &str) -> String {
    format!("/{OURS}/{id}")
}

/// The folders of an instance's group: one, or one in each hierarchy of the older version.
pub(crate) fn folders(id: &str) -> Vec<PathBuf> {
    let root = Path::new(ROOT);
    let hierarchies = fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
    let all = hierarchies.chain([root.to_owned()]).map(|hierarchy| hierarchy.join(OURS).join(id));
    all.filter(|group| group.is_dir()).collect()
}

/// Bytes that the kernel counts for that group, without files that it would give back. `None` where it does not tell.
pub(crate) fn charged(id: &str) -> Option<u64> {
    const TOTALS: [&str; 2] = ["memory.current", "memory.usage_in_bytes"];
    folders(id).into_iter().find_map(|group| {
        let total = TOTALS.into_iter().find_map(|name| fs::read_to_string(group.join(name)).ok())?;
        let stat = fs::read_to_string(group.join("memory.stat")).ok()?;
        Some(total.trim().parse::<u64>().ok()?.saturating_sub(of_files(&stat)))
    })
}

/// Bytes of files in memory, by a group's `memory.stat`. What lies on a tmpfs is none of it.
fn of_files(stat: &str) -> u64 {
    let lines = stat.lines().filter_map(|line| line.split_once(' '));
    let files = lines.filter(|(name, _)| matches!(*name, "inactive_file" | "active_file"));
    files.filter_map(|(_, bytes)| bytes.parse::<u64>().ok()).sum()
}

/// The numbers of the processes in that group, some more than once.
pub(crate) fn processes(id: &str) -> Vec<i32> {
    let lists =
        folders(id).into_iter().filter_map(|group| fs::read_to_string(group.join("cgroup.procs")).ok());
    lists.flat_map(|list| list.lines().filter_map(|line| line.parse().ok()).collect::<Vec<_>>()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_what_a_group_would_give_back() {
        let stat =
            "cache 900\nrss 5\ninactive_anon 7\ninactive_file 30\nactive_file 12\ntotal_active_file 12\n";
        assert_eq!(of_files(stat), 42);
        assert_eq!(of_files(""), 0);
    }

    #[test]
    fn the_kernel_is_reminded_until_nobody_waits_any_more() {
        let (held, dropped) = mpsc::channel();
        let reminding = std::thread::spawn(move || remind(&dropped));
        drop(Prepared { _held: held });
        match reminding.join().unwrap() {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                println!("skipped: only root may change a group");
            }
            outcome => outcome.unwrap(),
        }
    }
}
