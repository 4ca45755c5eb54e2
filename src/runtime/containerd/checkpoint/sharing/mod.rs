//! Clones that share their memory: a checkpoint is rewritten so that what its processes had in private memory becomes a
//! private mapping of files that all clones have in common. A clone costs only what it changes.
//!
//! | a file | what it knows |
//! |---|---|
//! | `image`, `message`, `source` | CRIU's image files |
//! | `plan` | which memory is shared, and where its pages go |
//! | `rewrite` | a checkpoint's folder |
//! | `touched` | what copies change at once |
//! | `verdict` | whether an app bears it, by what it is made of |
//! | `watch`, `given_up` | which of its memory does not, by what it does |
//! | `advice` | what some hear when they give memory up |
//!
//! The files lie in a tmpfs of the checkpoint's own, in the folder that its clones have as their `/dev`, which is read
//! only. It is attached where containerd sees it; every clone's mount holds it too, so it is gone with the last of them.

pub(super) mod allocator_scan;
mod criu_image;
mod image_dir;
mod madvise_events;
mod madvise_filter;
mod madvise_trace;
pub(super) mod plan;
mod proto_message;
pub(super) mod rewrite;

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use ring::digest::{Context, SHA256};
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::catalog::{FrozenFile, Key};
use crate::runtime::blocking::blocking;
use crate::runtime::containerd::host::node_dir;
use crate::runtime::containerd::host::tmpfs;
use crate::runtime::containerd::host::tmpfs::Tmpfs;
use crate::runtime::containerd::{FaultPoint, Watcher};
use plan::PAGE;
use rewrite::{FOLDER, RewriteDraft};

pub(crate) use super::prefault::PrefaultList;
pub(crate) use allocator_scan::{AllocatorReport, Evidence, examine};
pub(crate) use image_dir::read_and_write_again;
pub(crate) use madvise_trace::Watch;

/// What the list of mounts calls the file systems.
const NAME: &str = "try-it-now-memory";

/// Beside the files of memory: devices, links, folders.
const OTHER_FILES: u64 = 64;
/// What those take.
const OTHER_BYTES: u64 = 1 << 20;

/// The memory of one checkpoint.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Shared {
    /// Bytes that its files can come to hold without a mapping having grown.
    room: u64,
    /// With the checksums of all that is not zero.
    files: Vec<FrozenFile>,
}

/// The memory that this node's clones share.
#[derive(Debug)]
pub(crate) struct SharedMemory {
    root: PathBuf,
    /// containerd's socket.
    containerd: PathBuf,
    /// Most bytes in all.
    limit: u64,
    /// What there is of each checkpoint.
    rooms: Mutex<HashMap<Key, Room>>,
}

/// What the memory of one checkpoint takes.
#[derive(Debug)]
struct Room {
    /// Bytes that count towards the limit.
    bytes: u64,
    /// Where it lies, once it is written.
    tmpfs: Option<Arc<Tmpfs>>,
}

/// Why a checkpoint's memory is not shared.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotShared {
    /// It can be restored as it was.
    #[error("{0}")]
    Unchanged(String),
    /// It may be half rewritten.
    #[error("its images could not be replaced: {0}")]
    Spoilt(io::Error),
}

impl Shared {
    /// Bytes that its mappings take.
    pub(crate) fn bytes(&self) -> u64 {
        self.room
    }
}

impl SharedMemory {
    pub(crate) fn new(root: PathBuf, containerd: PathBuf, limit: u64) -> Self {
        Self { root, containerd, limit, rooms: Mutex::default() }
    }

    /// What a checkpoint's clones have as their `/dev`.
    pub(crate) fn devices(&self, key: &Key) -> PathBuf {
        self.root.join(key.as_str())
    }

    /// Rewrites a checkpoint. `most` is what one of its clones may use; with `parts`, processes have for themselves what
    /// they had in common.
    pub(crate) async fn share(
        &self,
        key: &Key,
        images: PathBuf,
        most: u64,
        parts: bool,
        evidence: Evidence,
        watcher: &Watcher,
    ) -> Result<Shared, NotShared> {
        let draft = blocking(move || RewriteDraft::read(&images, parts, &evidence)).await;
        let draft = draft.map_err(|why| NotShared::Unchanged(why.to_string()))?;
        let room = draft.room();
        let _ = self.remove(key);
        self.reserve(key, room)?;
        let outcome = self.fill(key, draft, room, most, watcher).await;
        if outcome.is_err() {
            let _ = self.remove(key);
        }
        outcome
    }

    /// Counts it, if there is room for it.
    fn reserve(&self, key: &Key, room: u64) -> Result<(), NotShared> {
        let mut rooms = self.rooms.lock();
        let used = rooms.values().fold(0_u64, |sum, room| sum.saturating_add(room.bytes));
        if used.saturating_add(room) > self.limit {
            let [room, used, limit] = [room, used, self.limit].map(|bytes| bytes >> 20);
            let why = format!(
                "its memory of {room} MiB does not fit beside {used} MiB into the {limit} MiB there are"
            );
            return Err(NotShared::Unchanged(why));
        }
        rooms.insert(key.clone(), Room { bytes: room, tmpfs: None });
        Ok(())
    }

    async fn fill(
        &self,
        key: &Key,
        draft: RewriteDraft,
        room: u64,
        most: u64,
        watcher: &Watcher,
    ) -> Result<Shared, NotShared> {
        let unchanged =
            |error: io::Error| NotShared::Unchanged(format!("its memory could not be written: {error}"));
        // A mapping that grows finds zeros in the file, and they need room when they are touched.
        let bytes = room.saturating_add(most).saturating_add(OTHER_BYTES);
        let tmpfs = Tmpfs::make(NAME, bytes, OTHER_FILES + draft.files()).map(Arc::new).map_err(unchanged)?;
        let into = tmpfs.path();
        let written = blocking(move || {
            match node_dir::make_devices(&into).and_then(|()| draft.write(&into)).and_then(|()| sums(&into)) {
                Ok(files) => Ok((draft, files)),
                Err(error) => {
                    draft.discard();
                    Err(error)
                }
            }
        });
        let (draft, files) = written.await.map_err(unchanged)?;
        let at = self.devices(key);
        let attached = async {
            fs::create_dir_all(&at)?;
            tmpfs.attach(&self.containerd, &at).await?;
            watcher.done(FaultPoint::Memory).map_err(io::Error::other)
        };
        if let Err(error) = attached.await {
            draft.discard();
            return Err(unchanged(error));
        }
        blocking(move || draft.swap()).await.map_err(NotShared::Spoilt)?;
        self.rooms.lock().insert(key.clone(), Room { bytes: room, tmpfs: Some(tmpfs) });
        Ok(Shared { room, files })
    }

    /// Finds what a server before this one has written.
    ///
    /// # Errors
    /// It is not there, or not as it was written: the host was started anew, for example.
    pub(crate) async fn find(&self, key: &Key, shared: &Shared) -> io::Result<()> {
        let tmpfs = Tmpfs::find(&self.containerd, &self.devices(key)).await?;
        let tmpfs = Arc::new(tmpfs);
        let of = tmpfs.clone();
        let found = blocking(move || sums(&of.path())).await?;
        if found != shared.files {
            return Err(io::Error::other("its memory is not as it was written"));
        }
        self.rooms.lock().insert(key.clone(), Room { bytes: shared.room, tmpfs: Some(tmpfs) });
        Ok(())
    }

    /// Bytes that a checkpoint's copies have in common; 0 where they have nothing.
    pub(crate) fn held(&self, key: &Key) -> u64 {
        let tmpfs = self.rooms.lock().get(key).and_then(|room| room.tmpfs.clone());
        tmpfs.and_then(|tmpfs| tmpfs.held().ok()).unwrap_or(0)
    }

    /// Lets go of a checkpoint's memory. Clones that live keep it.
    pub(crate) fn remove(&self, key: &Key) -> io::Result<()> {
        self.rooms.lock().remove(key);
        tmpfs::detach(&self.devices(key))
    }

    /// Lets go of all that nobody knows.
    pub(crate) fn sweep(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.root)? {
            let name = entry?.file_name();
            let known = self.rooms.lock().keys().any(|key| name == key.as_str());
            if !known {
                tmpfs::detach(&self.root.join(name))?;
            }
        }
        Ok(())
    }
}

/// Ends all that a server of this node was watching when it ended.
pub(crate) async fn end_watches(node: &str) -> io::Result<()> {
    let node = node.to_owned();
    blocking(move || madvise_trace::end_all(Some(&node))).await
}

/// Lets go of the memory of all nodes, and of what they watch. Returns how many checkpoints that was of.
pub(crate) async fn clean(containerd: &Path) -> io::Result<usize> {
    blocking(|| madvise_trace::end_all(None)).await?;
    Ok(tmpfs::detach_all(containerd, NAME).await?.len())
}

/// The checksums of all files of memory there.
fn sums(devices: &Path) -> io::Result<Vec<FrozenFile>> {
    let folder = devices.join(FOLDER);
    let mut names = fs::read_dir(&folder)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<io::Result<Vec<_>>>()?;
    names.sort_unstable();
    names.into_iter().map(|name| sum(&folder, name)).collect()
}

/// That of one: of each page that is not zero, and where it lies. What is zero may be a hole or have been touched.
fn sum(folder: &Path, name: String) -> io::Result<FrozenFile> {
    let file = File::open(folder.join(&name))?;
    let bytes = file.metadata()?.len();
    let (mut sum, mut page, mut at) = (Context::new(&SHA256), [0; PAGE as usize], 0);
    loop {
        let data = match seek(&file, SeekFrom::Data(at)) {
            Ok(data) => data,
            // Nothing but a hole from there on.
            Err(Errno::NXIO) => {
                return Ok(FrozenFile { name, bytes, sha256: hex::encode(sum.finish().as_ref()) });
            }
            Err(error) => return Err(error.into()),
        };
        let hole = seek(&file, SeekFrom::Hole(data))?;
        for offset in (data..hole).step_by(PAGE as usize) {
            file.read_exact_at(&mut page, offset)?;
            if page != [0; PAGE as usize] {
                sum.update(&offset.to_le_bytes());
                sum.update(&page);
            }
        }
        at = hole;
    }
}

#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod round_trip_tests;
