//! The files of shared memory of this node's checkpoints, and the limit of the memory that they may take.
//!
//! The files of a checkpoint are on a tmpfs of their own, in the folder that its instances have as their read-only
//! `/dev`. The tmpfs is attached where containerd sees it. Every instance's mount holds it too, so it exists until the
//! last of them ends.

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

use super::gaps::{MappedParts, punch_gaps};
use super::layout::{MEMORY_DIR, PAGE_SIZE};
use super::madvise_trace;
use super::rewrite::{Evidence, RewriteDraft};
use crate::runtime::CleanScope;
use crate::runtime::blocking::blocking;
use crate::runtime::containerd::checkpoint::manifest::{CheckpointKey, FileDigest, SharedFiles};
use crate::runtime::containerd::fault_points::{FaultInjector, FaultPoint};
use crate::runtime::containerd::host::node_dir;
use crate::runtime::containerd::host::tmpfs::{self, Tmpfs};

/// The name of the file systems in the list of mounts.
const TMPFS_NAME: &str = "try-it-now-memory";

/// Maximum number of files beside those of memory: devices, links, folders.
const OTHER_FILES: u64 = 64;
/// Bytes that these other files take.
const OTHER_BYTES: u64 = 1 << 20;

/// The shared memory of this node's checkpoints.
#[derive(Debug)]
pub(crate) struct SharedMemory {
    /// The folder with one folder for each checkpoint, on which its tmpfs is attached.
    root: PathBuf,
    /// containerd's socket.
    containerd: PathBuf,
    /// Maximum bytes of all checkpoints together.
    limit: u64,
    /// Bytes that mappings of all instances together may allocate in gaps of the files.
    growth: u64,
    reservations: Mutex<HashMap<CheckpointKey, Reservation>>,
    /// The memory of removed checkpoints that instances may still use.
    removed: Mutex<Vec<(CheckpointKey, WrittenMemory)>>,
}

/// The files of memory of one checkpoint.
#[derive(Debug, Clone)]
struct WrittenMemory {
    tmpfs: Arc<Tmpfs>,
    mapped: Arc<[MappedParts]>,
}

/// The shared memory of one checkpoint.
#[derive(Debug)]
struct Reservation {
    /// Bytes that count towards the limit.
    bytes: u64,
    /// The files, once they are written.
    written: Option<WrittenMemory>,
}

/// Why the memory of a checkpoint is not shared.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ShareError {
    /// The checkpoint is unchanged and can be restored.
    #[error("{0}")]
    Unchanged(String),
    /// Some of its images may be replaced, so it must not be restored.
    #[error("cannot replace the checkpoint's images: {0}")]
    Damaged(io::Error),
}

impl SharedMemory {
    /// Returns shared memory below a folder, in which checkpoints may take `limit` bytes together. `growth` is the most
    /// bytes of memory that all instances together may use: each file system has room for that much in the gaps of its
    /// files.
    pub(crate) fn new(root: PathBuf, containerd: PathBuf, limit: u64, growth: u64) -> Self {
        let (reservations, removed) = (Mutex::default(), Mutex::default());
        Self { root, containerd, limit, growth, reservations, removed }
    }

    /// Returns the folder that the instances of a checkpoint have as their `/dev`.
    pub(crate) fn devices_dir(&self, key: &CheckpointKey) -> PathBuf {
        self.root.join(key.as_str())
    }

    /// Rewrites the images of a checkpoint so that its memory is shared, and writes the files of memory.
    /// With `with_shm`, shared anonymous memory becomes private to each process.
    ///
    /// # Errors
    /// The memory cannot be shared, does not fit into the limit, or cannot be written. See [`ShareError`].
    pub(crate) async fn share(
        &self,
        key: &CheckpointKey,
        images: PathBuf,
        with_shm: bool,
        evidence: Evidence,
        faults: &FaultInjector,
    ) -> Result<SharedFiles, ShareError> {
        let draft = blocking(move || RewriteDraft::read(&images, with_shm, &evidence)).await;
        let draft = draft.map_err(|why| ShareError::Unchanged(why.to_string()))?;
        let mapped_bytes = draft.mapped_bytes();
        let _ = self.remove(key);
        self.reserve(key, mapped_bytes)?;
        let outcome = self.write(key, draft, faults).await;
        if outcome.is_err() {
            let _ = self.remove(key);
        }
        outcome
    }

    /// Counts the memory of a checkpoint towards the limit.
    fn reserve(&self, key: &CheckpointKey, bytes: u64) -> Result<(), ShareError> {
        let mut reservations = self.reservations.lock();
        let used = sum_of(&reservations);
        if used.saturating_add(bytes) > self.limit {
            let [needed, used, limit] = [bytes, used, self.limit].map(|bytes| bytes >> 20);
            let why = format!(
                "its memory of {needed} MiB does not fit: checkpoints share {used} MiB of {limit} MiB already"
            );
            return Err(ShareError::Unchanged(why));
        }
        reservations.insert(key.clone(), Reservation { bytes, written: None });
        Ok(())
    }

    async fn write(
        &self,
        key: &CheckpointKey,
        draft: RewriteDraft,
        faults: &FaultInjector,
    ) -> Result<SharedFiles, ShareError> {
        let unchanged = |error: io::Error| ShareError::Unchanged(format!("cannot write its memory: {error}"));
        let mapped_bytes = draft.mapped_bytes();
        // A mapping that grows finds zeros in the file, and they take memory when they are first accessed. Instances
        // reach their memory limit before the file system is full.
        let bytes = mapped_bytes.saturating_add(self.growth).saturating_add(OTHER_BYTES);
        let tmpfs = Tmpfs::create(TMPFS_NAME, bytes, OTHER_FILES + draft.file_count());
        let tmpfs = tmpfs.map(Arc::new).map_err(unchanged)?;
        let into = tmpfs.path();
        let written = blocking(move || {
            let written = node_dir::create_devices(&into).and_then(|()| draft.write(&into));
            match written.and_then(|()| digest_all(&into)) {
                Ok(digests) => Ok((draft, digests)),
                Err(error) => {
                    draft.discard();
                    Err(error)
                }
            }
        });
        let (draft, digests) = written.await.map_err(unchanged)?;
        let at = self.devices_dir(key);
        let attached = async {
            fs::create_dir_all(&at)?;
            tmpfs.attach(&self.containerd, &at).await?;
            faults.reached(FaultPoint::Memory).map_err(io::Error::other)
        };
        if let Err(error) = attached.await {
            draft.discard();
            return Err(unchanged(error));
        }
        let mapped = draft.mapped_parts();
        blocking(move || draft.replace_images()).await.map_err(ShareError::Damaged)?;
        let written = WrittenMemory { tmpfs, mapped: mapped.clone().into() };
        let reservation = Reservation { bytes: mapped_bytes, written: Some(written) };
        self.reservations.lock().insert(key.clone(), reservation);
        Ok(SharedFiles { mapped_bytes, digests, mapped })
    }

    /// Finds the shared memory of a checkpoint that an earlier server wrote, and counts it towards the limit.
    ///
    /// # Errors
    /// The memory does not exist or has changed; for example, the host was restarted.
    pub(crate) async fn find(&self, key: &CheckpointKey, files: &SharedFiles) -> io::Result<()> {
        let tmpfs = Arc::new(Tmpfs::find(&self.containerd, &self.devices_dir(key)).await?);
        let path = tmpfs.path();
        if blocking(move || digest_all(&path)).await? != files.digests {
            return Err(io::Error::other("its shared memory has changed"));
        }
        let written = WrittenMemory { tmpfs, mapped: files.mapped.clone().into() };
        let reservation = Reservation { bytes: files.mapped_bytes, written: Some(written) };
        self.reservations.lock().insert(key.clone(), reservation);
        Ok(())
    }

    /// Returns the bytes that mappings of all checkpoints cover, which are allocated as long as the checkpoints exist.
    pub(crate) fn reserved_bytes(&self) -> u64 {
        sum_of(&self.reservations.lock())
    }

    /// Returns the bytes that the shared memory of a checkpoint takes now; 0 if its memory is not shared.
    pub(crate) fn allocated_bytes(&self, key: &CheckpointKey) -> u64 {
        let written = self.reservations.lock().get(key).and_then(|reservation| reservation.written.clone());
        written.and_then(|written| written.tmpfs.used_bytes().ok()).unwrap_or(0)
    }

    /// Gives back the pages that instances have allocated in gaps of the files: of one checkpoint, or with `None` of
    /// all. It changes nothing for instances that run.
    pub(crate) async fn punch_gaps(&self, key: Option<&CheckpointKey>) {
        let is_wanted = |one: &CheckpointKey| key.is_none_or(|key| key == one);
        let current = self
            .reservations
            .lock()
            .iter()
            .filter_map(|(one, reservation)| reservation.written.clone().filter(|_| is_wanted(one)))
            .collect::<Vec<_>>();
        let removed = self
            .removed
            .lock()
            .iter()
            .filter(|(one, _)| is_wanted(one))
            .map(|(_, written)| written.clone())
            .collect::<Vec<_>>();
        blocking(move || {
            for WrittenMemory { tmpfs, mapped } in current.into_iter().chain(removed) {
                if let Err(error) = punch_gaps(&tmpfs.path(), &mapped) {
                    tracing::warn!(%error, "failed to give back unused shared memory");
                }
            }
        })
        .await;
    }

    /// Forgets the memory of removed checkpoints that no instance uses any more.
    pub(crate) fn forget_unused(&self, in_use: &[CheckpointKey]) {
        self.removed.lock().retain(|(key, _)| in_use.contains(key));
    }

    /// Detaches the shared memory of a checkpoint. Instances that run keep it.
    ///
    /// # Errors
    /// The memory cannot be unmounted, or its folder cannot be removed.
    pub(crate) fn remove(&self, key: &CheckpointKey) -> io::Result<()> {
        let reservation = self.reservations.lock().remove(key);
        if let Some(written) = reservation.and_then(|reservation| reservation.written) {
            self.removed.lock().push((key.clone(), written));
        }
        tmpfs::detach(&self.devices_dir(key))
    }

    /// Detaches all shared memory that belongs to no checkpoint.
    ///
    /// # Errors
    /// Some memory cannot be unmounted, or its folder cannot be removed.
    pub(crate) fn detach_unknown(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.root)? {
            let name = entry?.file_name();
            let is_known = self.reservations.lock().keys().any(|key| name == key.as_str());
            if !is_known {
                tmpfs::detach(&self.root.join(name))?;
            }
        }
        Ok(())
    }
}

fn sum_of(reservations: &HashMap<CheckpointKey, Reservation>) -> u64 {
    reservations.values().fold(0, |sum, reservation| sum.saturating_add(reservation.bytes))
}

/// Detaches the shared memory of the nodes in `scope`, and removes their traces. `folders` are those nodes' folders for
/// containers. Returns how many checkpoints had shared memory.
///
/// # Errors
/// Some memory cannot be unmounted, or a trace cannot be removed.
pub(crate) async fn remove_all(
    containerd: &Path,
    scope: &CleanScope,
    folders: &[PathBuf],
) -> io::Result<usize> {
    for node in scope.filters() {
        let node = node.map(|node| node.as_str().to_owned());
        blocking(move || madvise_trace::remove_all(node.as_deref())).await?;
    }
    let below = (*scope != CleanScope::All).then(|| folders.to_vec());
    Ok(tmpfs::detach_all(containerd, TMPFS_NAME, below).await?.len())
}

/// Returns the checksums of all files of memory in a folder of devices.
fn digest_all(devices: &Path) -> io::Result<Vec<FileDigest>> {
    let folder = devices.join(MEMORY_DIR);
    let mut names = fs::read_dir(&folder)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<io::Result<Vec<_>>>()?;
    names.sort_unstable();
    names.into_iter().map(|name| digest(&folder, name)).collect()
}

/// Returns the checksum of each page of a file that is not zero, and of its offset. A page of zeros counts like a hole:
/// an instance that reads a hole allocates one.
fn digest(folder: &Path, name: String) -> io::Result<FileDigest> {
    let file = File::open(folder.join(&name))?;
    let bytes = file.metadata()?.len();
    let (mut sum, mut page, mut at) = (Context::new(&SHA256), [0; PAGE_SIZE as usize], 0);
    loop {
        let data = match seek(&file, SeekFrom::Data(at)) {
            Ok(data) => data,
            // The rest of the file is a hole.
            Err(Errno::NXIO) => {
                return Ok(FileDigest { name, bytes, sha256: hex::encode(sum.finish().as_ref()) });
            }
            Err(error) => return Err(error.into()),
        };
        let hole = seek(&file, SeekFrom::Hole(data))?;
        for offset in (data..hole).step_by(PAGE_SIZE as usize) {
            file.read_exact_at(&mut page, offset)?;
            if page != [0; PAGE_SIZE as usize] {
                sum.update(&offset.to_le_bytes());
                sum.update(&page);
            }
        }
        at = hole;
    }
}
