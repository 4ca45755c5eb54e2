//! Traces how an app discards memory while it starts and warms up, with an instance of the kernel's tracing. The app is
//! not changed. Only instances that are to be baked are traced.
//!
//! # Traps
//! While a trace exists, each system call of the host takes a little longer. Its removal takes 0.1 s. A process that a
//! command of `exec` starts is no child of the app, so it is not traced.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::num::NonZero;
use std::path::{Path, PathBuf};

use rustix::fs::rmdir;
use rustix::io::Errno;

use super::madvise_events::{DiscardedRanges, EVENTS};
use crate::runtime::blocking::blocking;
use crate::runtime::tracefs::Tracefs;

/// What the names of this program's trace instances begin with. The node's name and the instance's id follow.
const NAME_PREFIX: &str = "try-it-now-";

/// KiB of trace buffers of all processors together. An event takes less than a tenth of a KiB.
const BUFFERS_KIB: usize = 16 << 10;

/// Minimum and maximum KiB of the trace buffer of one processor.
const CPU_BUFFER_KIB: (usize, usize) = (512, 2048);

/// The trace of one app. It is removed when dropped.
#[derive(Debug)]
pub(crate) struct MadviseTrace {
    folder: PathBuf,
    /// Keeps the folder reachable.
    _tracefs: Tracefs,
}

impl MadviseTrace {
    /// Starts to trace a process and all its descendants that start from now on.
    ///
    /// # Errors
    /// The kernel cannot trace system calls, or refuses it.
    pub(crate) async fn start(node: &str, id: &str, pid: u32) -> io::Result<Self> {
        let name = format!("{NAME_PREFIX}{node}-{id}");
        blocking(move || Self::start_now(&name, pid)).await
    }

    fn start_now(name: &str, pid: u32) -> io::Result<Self> {
        let tracefs = Tracefs::mount()?;
        let folder = instances_dir(&tracefs).join(name);
        fs::create_dir(&folder)?;
        let trace = Self { folder, _tracefs: tracefs };
        let cpus = std::thread::available_parallelism().map_or(1, NonZero::get);
        let buffer = (BUFFERS_KIB / cpus).clamp(CPU_BUFFER_KIB.0, CPU_BUFFER_KIB.1);
        trace.set("buffer_size_kb", &buffer.to_string())?;
        // When a buffer is full, new events are counted as lost, and the older ones stay.
        trace.set("options/overwrite", "0")?;
        trace.set("options/event-fork", "1")?;
        trace.set("set_event_pid", &pid.to_string())?;
        for (event, filter) in EVENTS {
            let event = Path::new("events/syscalls").join(event);
            if !filter.is_empty() {
                trace.set(event.join("filter"), filter)?;
            }
            trace.set(event.join("enable"), "1")?;
        }
        Ok(trace)
    }

    fn set(&self, file: impl AsRef<Path>, value: &str) -> io::Result<()> {
        let file = file.as_ref();
        let named =
            |error: io::Error| io::Error::new(error.kind(), format!("tracing/{}: {error}", file.display()));
        fs::write(self.folder.join(file), value).map_err(named)
    }

    /// Removes the trace without blocking the caller's thread: the kernel needs 0.1 s.
    pub(crate) async fn remove(self) {
        blocking(move || drop(self)).await;
    }

    /// Returns one of these processes that runs and is not traced, because something else than the app started it.
    ///
    /// # Errors
    /// The trace cannot be read.
    pub(crate) fn first_untraced(&self, processes: &[u32]) -> io::Result<Option<u32>> {
        let traced = fs::read_to_string(self.folder.join("set_event_pid"))?;
        let traced: HashSet<u32> = traced.lines().filter_map(|line| line.trim().parse().ok()).collect();
        let is_running = |pid: &&u32| Path::new("/proc").join(pid.to_string()).exists();
        Ok(processes.iter().filter(|pid| !traced.contains(pid)).find(is_running).copied())
    }

    /// Stops tracing, and returns the ranges that were discarded.
    ///
    /// # Errors
    /// Events were lost, the trace cannot be read, or it has a line of an unknown form.
    pub(crate) fn stop_and_read(&self) -> io::Result<DiscardedRanges> {
        self.set("tracing_on", "0")?;
        let lost = self.lost_events()?;
        if lost > 0 {
            return Err(io::Error::other(format!("{lost} events were lost because a trace buffer was full")));
        }
        let trace = String::from_utf8_lossy(&fs::read(self.folder.join("trace"))?).into_owned();
        DiscardedRanges::read(&trace)
            .map_err(|line| io::Error::other(format!("unknown event in trace: `{line}`")))
    }

    fn lost_events(&self) -> io::Result<u64> {
        let mut lost = 0;
        for cpu in fs::read_dir(self.folder.join("per_cpu"))? {
            let stats = fs::read_to_string(cpu?.path().join("stats"))?;
            lost += stats.lines().filter_map(lost_by).sum::<u64>();
        }
        Ok(lost)
    }
}

impl Drop for MadviseTrace {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.folder) {
            tracing::warn!(%error, "failed to remove trace of baked instance");
        }
    }
}

/// Removes a trace instance. One that does not exist or is being removed is no error.
fn remove(folder: &Path) -> io::Result<()> {
    match rmdir(folder) {
        Ok(()) | Err(Errno::NOENT | Errno::NODEV) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Returns the folder with the trace instances of the kernel.
fn instances_dir(tracefs: &Tracefs) -> PathBuf {
    tracefs.path().join("instances")
}

/// Returns the lost events that a line of a processor's statistics reports.
fn lost_by(line: &str) -> Option<u64> {
    let (name, count) = line.split_once(": ")?;
    matches!(name, "overrun" | "commit overrun" | "dropped events").then(|| count.trim().parse().ok())?
}

/// Removes all traces that servers of this node left, or with `None` those of every node.
///
/// # Errors
/// A trace cannot be removed.
pub(super) fn remove_all(node: Option<&str>) -> io::Result<()> {
    // Where tracing is impossible there are no traces.
    let Ok(tracefs) = Tracefs::mount() else { return Ok(()) };
    let prefix = node.map_or_else(|| NAME_PREFIX.to_owned(), |node| format!("{NAME_PREFIX}{node}-"));
    for entry in fs::read_dir(instances_dir(&tracefs))? {
        let name = entry?.file_name();
        if name.to_string_lossy().starts_with(&prefix) {
            remove(&instances_dir(&tracefs).join(name))?;
        }
    }
    Ok(())
}

/// Removes the traces that servers of this node left.
///
/// # Errors
/// A trace cannot be removed.
pub(crate) async fn remove_madvise_traces(node: &str) -> io::Result<()> {
    let node = node.to_owned();
    blocking(move || remove_all(Some(&node))).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_events_are_counted() {
        let stats = "entries: 6\noverrun: 2\ncommit overrun: 0\nbytes: 280\noldest event ts: 46563.9\ndropped events: 5\nread events: 9\n";
        assert_eq!(stats.lines().filter_map(lost_by).sum::<u64>(), 7);
    }
}
