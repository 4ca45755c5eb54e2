//! Processes of an instance that containerd does not know.
//!
//! containerd abandons the creation of a task when its client dies. The shim that it has started by then, runc or our
//! restorer, and the container's first process or `runc init`, may live on, and no program controls them any more. They
//! are found by their command lines and by the instance's cgroup.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ring::digest::{SHA256, digest};
use rustix::process::{Pid, Signal, kill_process};
use tokio::net::UnixStream;

use super::cgroups;
use crate::runtime::RuntimeError;
use crate::runtime::containerd::client::NAMESPACE;
use crate::runtime::containerd_process::ContainerdProcess;

/// Most attempts to kill all processes. Killed processes need a moment to end.
const MAX_ATTEMPTS: usize = 500;
/// Pause between two attempts.
const RETRY_INTERVAL: Duration = Duration::from_millis(10);

/// Kills all processes of an instance that containerd no longer knows, and removes the files that runc and the shim
/// keep about it. Returns whether there were such processes.
///
/// # Errors
/// A process does not end.
pub(crate) async fn remove(socket: &Path, id: &str) -> Result<bool, RuntimeError> {
    let found = kill_processes(id).await?;
    // Also without processes: those that a restore had may have ended before they removed what it created.
    remove_files(socket, id).await;
    Ok(found)
}

/// Kills all processes of an instance and removes its cgroups. Returns whether there were any.
///
/// # Errors
/// A process does not end.
pub(crate) async fn kill_processes(id: &str) -> Result<bool, RuntimeError> {
    let mut found = false;
    for _ in 0..MAX_ATTEMPTS {
        let (pids, groups) = (find_processes(id), cgroups::folders(id));
        if pids.is_empty() && groups.is_empty() {
            return Ok(found);
        }
        found = true;
        for pid in pids {
            // An error means that it has ended meanwhile.
            let _ = kill_process(pid, Signal::KILL);
        }
        // Succeeds once the groups are empty.
        groups.iter().for_each(|group| drop(fs::remove_dir(group)));
        tokio::time::sleep(RETRY_INTERVAL).await;
    }
    let source = io::Error::from(io::ErrorKind::TimedOut);
    Err(RuntimeError::Io { operation: format!("kill the orphaned processes of {id}"), source })
}

/// Returns the ids of all containers of this program of which runc keeps files, whether containerd knows them or not.
/// Empty if containerd does not answer.
pub(crate) async fn list_states(socket: &Path) -> Vec<String> {
    let Some(run) = run_folder(socket).await else { return Vec::new() };
    let entries = fs::read_dir(run.join("runc").join(NAMESPACE)).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// Returns containerd's `/run/containerd`, as this server sees it.
async fn run_folder(socket: &Path) -> Option<PathBuf> {
    let stream = UnixStream::connect(socket).await.ok()?;
    let pid = ContainerdProcess::of_peer(&stream).pid?;
    Some(PathBuf::from(format!("/proc/{pid}/root/run/containerd")))
}

/// Ends a freeze that takes too long: kills runc and CRIU, and lets the instance's processes run, so that they can be
/// ended.
///
/// # Errors
/// runc does not end.
pub(crate) async fn end_freeze(id: &str) -> Result<(), RuntimeError> {
    for _ in 0..MAX_ATTEMPTS {
        let freezing = processes_with(|words| is_command_of_runc(words, &[b"checkpoint"], id));
        if freezing.is_empty() {
            cgroups::thaw(id);
            return Ok(());
        }
        for pid in freezing {
            // CRIU first: no process would end it once runc is gone.
            for pid in children(pid).into_iter().chain([pid]) {
                let _ = Pid::from_raw(pid).map(|pid| kill_process(pid, Signal::KILL));
            }
        }
        cgroups::thaw(id);
        tokio::time::sleep(RETRY_INTERVAL).await;
    }
    let source = io::Error::from(io::ErrorKind::TimedOut);
    Err(RuntimeError::Io { operation: format!("end the freeze of {id}"), source })
}

fn children(pid: i32) -> Vec<i32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}

/// Returns the processes whose command line fulfils a condition.
fn processes_with(condition: impl Fn(&[&[u8]]) -> bool) -> Vec<i32> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let found = processes.filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse::<i32>().ok()?;
        let command_line = fs::read(entry.path().join("cmdline")).ok()?;
        condition(&command_line.split(|byte| *byte == 0).collect::<Vec<_>>()).then_some(pid)
    });
    found.collect()
}

/// Returns the shim of an instance, what creates its container, and all processes in its cgroup.
fn find_processes(id: &str) -> Vec<Pid> {
    let mut pids = cgroups::processes(id);
    pids.extend(processes_with(|words| {
        is_shim(words, id) || is_command_of_runc(words, &[b"create", b"restore"], id)
    }));
    pids.sort_unstable();
    pids.dedup();
    pids.into_iter().filter_map(Pid::from_raw).collect()
}

/// Returns whether this is the command line with which containerd starts the shim of an instance.
fn is_shim(words: &[&[u8]], id: &str) -> bool {
    is_shim_of_namespace(words) && has_option(words, "-id", id)
}

/// Returns whether this is the command line of any shim of this program's containers.
fn is_shim_of_namespace(words: &[&[u8]]) -> bool {
    let program = words[0].rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    program.starts_with(b"containerd-shim") && has_option(words, "-namespace", NAMESPACE)
}

fn has_option(words: &[&[u8]], name: &str, value: &str) -> bool {
    words.windows(2).any(|pair| pair == [name.as_bytes(), value.as_bytes()])
}

/// Returns whether this is the command line with which a shim has runc, or our restorer in its place, carry out one of
/// these commands for an instance.
fn is_command_of_runc(words: &[&[u8]], commands: &[&[u8]], id: &str) -> bool {
    let root = format!("/runc/{NAMESPACE}");
    let is_ours = words.windows(2).any(|pair| pair[0] == b"--root" && pair[1].ends_with(root.as_bytes()));
    // A command line ends with a zero byte, so the last word is empty.
    is_ours
        && words.iter().any(|word| commands.contains(word))
        && words.iter().rev().nth(1) == Some(&id.as_bytes())
}

/// Removes the files that runc and the shim keep about an instance in containerd's `/run`.
async fn remove_files(socket: &Path, id: &str) {
    let Some(run) = run_folder(socket).await else { return };
    let _ = fs::remove_dir_all(run.join("runc").join(NAMESPACE).join(id));
    // containerd names a shim's socket so.
    let name = digest(&SHA256, socket.join(NAMESPACE).join(id).as_os_str().as_encoded_bytes());
    let _ = fs::remove_file(run.join("s").join(hex::encode(name.as_ref())));
    // containerd gives the folder of an abandoned task this name before it removes it. If the shim writes to the folder at
    // that moment, containerd fails to, and does not try again.
    for tasks in task_folders(&run) {
        let _ = fs::remove_dir_all(tasks.join(format!(".{id}")));
    }
}

/// Returns the folders in which containerd keeps those of tasks: the usual one, and those in which shims run.
fn task_folders(run: &Path) -> Vec<PathBuf> {
    let mut folders = vec![run.join("io.containerd.runtime.v2.task").join(NAMESPACE)];
    for pid in processes_with(is_shim_of_namespace) {
        let bundle = fs::read_link(format!("/proc/{pid}/cwd"));
        folders.extend(bundle.ok().and_then(|bundle| Some(bundle.parent()?.to_owned())));
    }
    folders
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(command_line: &str) -> Vec<&[u8]> {
        command_line.split('\0').map(str::as_bytes).collect()
    }

    #[test]
    fn only_the_shim_of_that_instance_in_this_namespace_matches() {
        let shim = |namespace: &str, id: &str| {
            format!(
                "/usr/bin/containerd-shim-runc-v2\0-namespace\0{namespace}\0-id\0{id}\0-address\0/run/c.sock\0"
            )
        };
        assert!(is_shim(&words(&shim("try-it-now", "shop-1")), "shop-1"));
        assert!(is_shim_of_namespace(&words(&shim("try-it-now", "shop-2"))));
        assert!(!is_shim_of_namespace(&words(&shim("moby", "shop-2"))));
        assert!(!is_shim(&words(&shim("try-it-now", "shop-12")), "shop-1"));
        assert!(!is_shim(&words(&shim("moby", "shop-1")), "shop-1"));
        assert!(!is_shim(&words("vi\0-namespace\0try-it-now\0-id\0shop-1\0"), "shop-1"));
        assert!(!is_shim(&words(""), "shop-1"));
    }

    fn is_creation(words: &[&[u8]], id: &str) -> bool {
        is_command_of_runc(words, &[b"create", b"restore"], id)
    }

    #[test]
    fn only_such_a_command_for_that_instance_in_this_namespace_matches() {
        let runc = |namespace: &str, command: &str, id: &str| {
            format!(
                "/x/try-it-now-runc\0--root\0/run/containerd/runc/{namespace}\0{command}\0--bundle\0/b\0{id}\0"
            )
        };
        assert!(is_creation(&words(&runc("try-it-now", "restore", "shop-1")), "shop-1"));
        assert!(is_creation(&words(&runc("try-it-now", "create", "shop-1")), "shop-1"));
        assert!(!is_creation(&words(&runc("try-it-now", "delete", "shop-1")), "shop-1"));
        assert!(!is_creation(&words(&runc("try-it-now", "restore", "shop-12")), "shop-1"));
        assert!(!is_creation(&words(&runc("moby", "restore", "shop-1")), "shop-1"));
        assert!(!is_creation(&words(""), "shop-1"));
    }
}
