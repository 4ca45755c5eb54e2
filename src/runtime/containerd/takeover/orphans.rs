//! What runs of an instance although containerd does not know it.
//!
//! containerd gives up making a task when its client is gone. The shim that it has started by then may live on, with the
//! container's first process, and nobody asks for either any more.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ring::digest::{SHA256, digest};
use rustix::process::{Pid, Signal, kill_process};
use tokio::net::UnixStream;

use crate::runtime::RuntimeError;
use crate::runtime::containerd::client::NAMESPACE;
use crate::runtime::containerd::host::cgroups;
use crate::runtime::containerd_process::Daemon;

/// Processes that were killed need a moment.
const LOOKS: usize = 500;
const PAUSE: Duration = Duration::from_millis(10);

/// Ends everything of an instance that containerd no longer knows, and removes what is noted of it. Whether there was
/// anything.
///
/// # Errors
/// It resists.
pub(crate) async fn end(socket: &Path, id: &str) -> Result<bool, RuntimeError> {
    let found = end_processes(id).await?;
    if found {
        forget(socket, id).await;
    }
    Ok(found)
}

/// The same, but for what is noted.
pub(crate) async fn end_processes(id: &str) -> Result<bool, RuntimeError> {
    let mut found = false;
    for _ in 0..LOOKS {
        let (running, groups) = (running(id), cgroups::folders(id));
        if running.is_empty() && groups.is_empty() {
            return Ok(found);
        }
        found = true;
        for pid in running {
            // One that has ended meanwhile is as well.
            let _ = kill_process(pid, Signal::KILL);
        }
        // Works once they are empty.
        groups.iter().for_each(|group| drop(fs::remove_dir(group)));
        tokio::time::sleep(PAUSE).await;
    }
    let source = io::Error::from(io::ErrorKind::TimedOut);
    Err(RuntimeError::Io { doing: format!("end what containerd has forgotten of {id}"), source })
}

/// The shim of an instance, and all processes in its cgroup.
fn running(id: &str) -> Vec<Pid> {
    let mut pids = cgroups::processes(id);
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    pids.extend(processes.filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse::<i32>().ok()?;
        is_shim(&fs::read(entry.path().join("cmdline")).ok()?, id).then_some(pid)
    }));
    pids.sort_unstable();
    pids.dedup();
    pids.into_iter().filter_map(Pid::from_raw).collect()
}

/// Whether these are the words by which containerd starts the shim of that instance.
fn is_shim(words: &[u8], id: &str) -> bool {
    let words: Vec<&[u8]> = words.split(|byte| *byte == 0).collect();
    let has =
        |name: &str, value: &str| words.windows(2).any(|pair| pair == [name.as_bytes(), value.as_bytes()]);
    let program = words[0].rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    program.starts_with(b"containerd-shim") && has("-namespace", NAMESPACE) && has("-id", id)
}

/// Removes what runc and the shim note in containerd's `/run`.
async fn forget(socket: &Path, id: &str) {
    let Ok(stream) = UnixStream::connect(socket).await else { return };
    let Some(pid) = Daemon::behind(&stream).pid else { return };
    let run = PathBuf::from(format!("/proc/{pid}/root/run/containerd"));
    let _ = fs::remove_dir_all(run.join("runc").join(NAMESPACE).join(id));
    // As containerd names the socket of a shim.
    let name = digest(&SHA256, socket.join(NAMESPACE).join(id).as_os_str().as_encoded_bytes());
    let _ = fs::remove_file(run.join("s").join(hex::encode(name.as_ref())));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_shim_of_that_instance_in_our_namespace_is_one() {
        let shim = |namespace: &str, id: &str| {
            format!(
                "/usr/bin/containerd-shim-runc-v2\0-namespace\0{namespace}\0-id\0{id}\0-address\0/run/c.sock\0"
            )
        };
        assert!(is_shim(shim("try-it-now", "shop-1").as_bytes(), "shop-1"));
        assert!(!is_shim(shim("try-it-now", "shop-12").as_bytes(), "shop-1"));
        assert!(!is_shim(shim("moby", "shop-1").as_bytes(), "shop-1"));
        assert!(!is_shim(b"vi\0-namespace\0try-it-now\0-id\0shop-1\0", "shop-1"));
        assert!(!is_shim(b"", "shop-1"));
    }
}
