//! The control groups of instances, where runc is not there to see to them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::Instant;

use super::super::RuntimeError;
use super::super::host::{Doing, blocking};
use crate::task;

/// Where the kernel shows them.
const ROOT: &str = "/sys/fs/cgroup";

/// Longest time that killed processes may take to go.
const LAST_BREATH: Duration = Duration::from_secs(10);

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

/// Ends the processes of an instance whose shim is gone, and removes their cgroups.
pub(super) async fn end_processes(id: &str) -> Result<(), RuntimeError> {
    let deadline = Instant::now() + LAST_BREATH;
    let id = id.to_owned();
    let doing = format!("end the processes of {id}");
    loop {
        let id = id.clone();
        let left = blocking(move || kill_all(&id)).await.doing(|| doing.clone())?;
        if left == 0 {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(io::Error::other(format!("{left} of them do not go"))).doing(|| doing);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Returns how many there were.
fn kill_all(id: &str) -> io::Result<usize> {
    let mut killed = 0;
    for folder in cgroups(id)? {
        let processes = match fs::read_to_string(folder.join("cgroup.procs")) {
            Ok(processes) => processes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for pid in processes.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)) {
            killed += 1;
            // One that ended meanwhile is what was wanted.
            let _ = kill_process(pid, Signal::KILL);
        }
        if processes.is_empty() {
            // It has gone meanwhile, or the kernel is not done with it; it costs little and is not worth a failure.
            let _ = fs::remove_dir(folder);
        }
    }
    Ok(killed)
}

/// An instance's folders in the one hierarchy of cgroups (v2) or in each of them (v1).
fn cgroups(id: &str) -> io::Result<Vec<PathBuf>> {
    let root = Path::new(ROOT);
    let mut roots = vec![root.to_owned()];
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            roots.push(entry.path());
        }
    }
    Ok(roots.into_iter().map(|root| root.join("try-it-now").join(id)).filter(|path| path.exists()).collect())
}
