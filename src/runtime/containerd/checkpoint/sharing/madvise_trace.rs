//! An app is watched while it is started and warmed up: the kernel's tracing notes the calls by which its processes give
//! memory up. The app is not touched by that, and where nothing is baked nothing is noted.

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

/// What begins the names of ours in the kernel's tracing.
const OURS: &str = "try-it-now-";

/// KiB of notes in all, and of each processor at least and at most. One takes less than a tenth of a KiB.
const ROOM: usize = 16 << 10;
const ROOM_EACH: (usize, usize) = (512, 2048);

/// The notes of one app. Dropped, they end.
#[derive(Debug)]
pub(crate) struct Watch {
    folder: PathBuf,
    /// Keeps the folder in reach.
    _tracing: Tracefs,
}

impl Watch {
    /// Begins with this process, and with all that come of it.
    pub(crate) async fn begin(node: &str, id: &str, pid: u32) -> io::Result<Self> {
        let name = format!("{OURS}{node}-{id}");
        blocking(move || Self::begin_now(&name, pid)).await
    }

    fn begin_now(name: &str, pid: u32) -> io::Result<Self> {
        let tracing = Tracefs::open()?;
        let folder = instances(&tracing).join(name);
        fs::create_dir(&folder)?;
        let watch = Self { folder, _tracing: tracing };
        let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
        let room = (ROOM / processors).clamp(ROOM_EACH.0, ROOM_EACH.1);
        watch.set("buffer_size_kb", &room.to_string())?;
        // What there is no room for is counted, and what was noted stays.
        watch.set("options/overwrite", "0")?;
        watch.set("options/event-fork", "1")?;
        watch.set("set_event_pid", &pid.to_string())?;
        for (event, filter) in EVENTS {
            let event = Path::new("events/syscalls").join(event);
            if !filter.is_empty() {
                watch.set(event.join("filter"), filter)?;
            }
            watch.set(event.join("enable"), "1")?;
        }
        Ok(watch)
    }

    fn set(&self, what: impl AsRef<Path>, value: &str) -> io::Result<()> {
        let what = what.as_ref();
        let named =
            |error: io::Error| io::Error::new(error.kind(), format!("tracing/{}: {error}", what.display()));
        fs::write(self.folder.join(what), value).map_err(named)
    }

    /// Ends it, which takes the kernel a tenth of a second.
    pub(crate) async fn end(self) {
        blocking(move || drop(self)).await;
    }

    /// One of these processes that is not watched, since somebody else than the app has started it.
    pub(crate) fn misses(&self, processes: &[u32]) -> io::Result<Option<u32>> {
        let watched = fs::read_to_string(self.folder.join("set_event_pid"))?;
        let watched: HashSet<u32> = watched.lines().filter_map(|line| line.trim().parse().ok()).collect();
        let lives = |pid: &&u32| Path::new("/proc").join(pid.to_string()).exists();
        Ok(processes.iter().filter(|pid| !watched.contains(pid)).find(lives).copied())
    }

    /// What was seen. From then on nothing is.
    pub(crate) fn seen(&self) -> io::Result<DiscardedRanges> {
        self.set("tracing_on", "0")?;
        let lost = self.lost()?;
        if lost > 0 {
            return Err(io::Error::other(format!("{lost} notes had no room")));
        }
        let notes = String::from_utf8_lossy(&fs::read(self.folder.join("trace"))?).into_owned();
        DiscardedRanges::read(&notes).map_err(|line| io::Error::other(format!("the kernel says `{line}`")))
    }

    /// Notes that were not kept.
    fn lost(&self) -> io::Result<u64> {
        let mut lost = 0;
        for processor in fs::read_dir(self.folder.join("per_cpu"))? {
            let stats = fs::read_to_string(processor?.path().join("stats"))?;
            lost += stats.lines().filter_map(lost_by).sum::<u64>();
        }
        Ok(lost)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.folder) {
            tracing::warn!(%error, "the kernel still notes what an app does that was to be baked");
        }
    }
}

/// One that is being removed is as good as gone.
fn remove(folder: &Path) -> io::Result<()> {
    match rmdir(folder) {
        Ok(()) | Err(Errno::NOENT | Errno::NODEV) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Where what is noted for several is apart.
fn instances(tracing: &Tracefs) -> PathBuf {
    tracing.path().join("instances")
}

fn lost_by(line: &str) -> Option<u64> {
    let (what, count) = line.split_once(": ")?;
    matches!(what, "overrun" | "commit overrun" | "dropped events").then(|| count.trim().parse().ok())?
}

/// Ends what a server of this node left, or of any.
pub(crate) fn end_all(node: Option<&str>) -> io::Result<()> {
    // Where nobody can watch, nobody has.
    let Ok(tracing) = Tracefs::open() else { return Ok(()) };
    let begins = node.map_or_else(|| OURS.to_owned(), |node| format!("{OURS}{node}-"));
    for entry in fs::read_dir(instances(&tracing))? {
        let name = entry?.file_name();
        if name.to_string_lossy().starts_with(&begins) {
            remove(&instances(&tracing).join(name))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_lost_is_counted() {
        let stats = "entries: 6\noverrun: 2\ncommit overrun: 0\nbytes: 280\noldest event ts: 46563.9\ndropped events: 5\nread events: 9\n";
        assert_eq!(stats.lines().filter_map(lost_by).sum::<u64>(), 7);
    }
}
