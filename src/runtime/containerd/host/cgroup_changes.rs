//! How long a process waits when it changes its cgroup, as the first one of an instance does at its start.
//!
//! The kernel locks out all changes, forks and exits of the host, and waits until all processors have passed a quiet
//! point: 10 ms and more. There are two ways round that:
//!
//! - Since Linux 6.18 the kernel locks only the process that changes, once a hierarchy of cgroups was mounted with the
//!   option `favordynmods`, until the host is booted again (Linux, commit 0568f89d4fb8). See [`make_fast`].
//! - Changes within a few milliseconds after another one do not wait. See [`keep_fast`].

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use rustix::mount::{FsOpenFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsopen};
use tokio::time::Instant;

use super::cgroups::CGROUP_ROOT;
use super::kernel;
use crate::runtime::blocking::blocking;
use crate::runtime::version;
use crate::telemetry::task;

/// The oldest kernel on which a server makes changes fast.
pub const MIN_KERNEL: (u32, u32) = (6, 18);

/// Pause between two changes by this server; several fit into the shortest time after which the kernel is slow again.
const CHANGE_INTERVAL: Duration = Duration::from_millis(2);

/// Longest time for which changes are kept fast.
const MAX_DURATION: Duration = Duration::from_secs(2);

/// Without a change for this long, the next one waits.
const QUIET_TIME: Duration = Duration::from_millis(100);

/// Holds the id of the boot during which a server has made changes fast. It stays when all else is removed, since the
/// host stays fast.
const MARK: &str = "/run/try-it-now/fast-cgroup-changes";

/// Makes all changes of cgroups on this host fast until it is booted again, and returns whether they are. Older kernels
/// than [`MIN_KERNEL`] stay as they are: there the hierarchy would have to stay mounted, where all processes see it.
///
/// It mounts once after a boot: for a moment each process has the hierarchy among its own, and CRIU fails to freeze a
/// process whose hierarchy it cannot mount.
///
/// # Errors
/// The kernel refuses the mount, for example because this process is not root of the host.
pub(crate) fn make_fast() -> io::Result<bool> {
    if version(&kernel::release()) < Some(MIN_KERNEL) {
        return Ok(false);
    }
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    if fs::read_to_string(MARK).is_ok_and(|marked| marked == boot) {
        return Ok(true);
    }
    mount_once()?;
    if let Some(folder) = Path::new(MARK).parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(MARK, boot)?;
    Ok(true)
}

fn mount_once() -> io::Result<()> {
    let hierarchy = fsopen("cgroup", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_flag(&hierarchy, "none")?;
    // Hierarchies of one name are one, and another server may make its own at the same time.
    fsconfig_set_string(&hierarchy, "name", format!("try-it-now-{}", std::process::id()))?;
    fsconfig_set_flag(&hierarchy, "favordynmods")?;
    fsconfig_create(&hierarchy)?;
    // It is mounted nowhere, and ends with its descriptor.
    Ok(())
}

/// Returns how long this process waits to change its cgroup on a host where nothing else changes. It stays in its own.
///
/// # Errors
/// This process may not change groups.
pub fn first_change() -> io::Result<Duration> {
    let procs = own_group()?.join("cgroup.procs");
    std::thread::sleep(QUIET_TIME);
    let start = Instant::now();
    fs::write(&procs, "0")?;
    Ok(start.elapsed())
}

/// As long as this is held, processes change their groups without a wait.
#[derive(Debug)]
pub(crate) struct FastCgroupChanges {
    /// Closed when it is dropped.
    _sender: mpsc::Sender<()>,
}

/// Keeps changes of control groups fast until the result is dropped: this server moves itself to the group in which it
/// is, again and again, so that runc need not wait when it moves the instance's first process to its group.
pub(crate) fn keep_fast() -> FastCgroupChanges {
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

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn a_host_that_is_made_fast_has_no_further_hierarchy() {
        match make_fast() {
            Ok(true) => {}
            Ok(false) => return println!("skipped: the kernel is older than {MIN_KERNEL:?}"),
            Err(error) => return println!("skipped: only root of the host may mount cgroups: {error}"),
        }
        assert_eq!(
            fs::read_to_string(MARK).unwrap(),
            fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap()
        );
        let own = format!("name=try-it-now-{}:", std::process::id());
        let has_own = || fs::read_to_string("/proc/self/cgroup").unwrap().contains(&own);
        // The kernel ends a hierarchy without a mount a moment later.
        let deadline = Instant::now() + Duration::from_secs(20);
        while has_own() && Instant::now() < deadline {
            std::thread::yield_now();
        }
        assert!(!has_own());
        // Of several, since a busy host may stop this process in the middle of one.
        let fastest = (0..10).map(|_| first_change().unwrap()).min().unwrap();
        assert!(fastest < Duration::from_millis(5), "{fastest:?}");
    }
}
