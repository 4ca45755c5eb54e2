//! The steps by which an instance and a checkpoint are made and removed, each of which a test can have fail, or be the
//! last that its server does.

use std::fmt;
use std::io;
use std::sync::Arc;

use crate::runtime::RuntimeError;

/// What was just done, in the order of a life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultPoint {
    /// It has a network.
    Network,
    /// It has a writable layer.
    Snapshot,
    /// It has a folder of this node, with its pipes, and its output is listened to.
    Folder,
    /// It has a disk, and the first files are on it.
    FirstFiles,
    /// containerd sees the disk.
    Disk,
    /// containerd has a record of it.
    Record,
    /// It has a shim, and where nothing is restored its first process.
    Task,
    /// It runs.
    Start,
    /// One that runs since before this server was found, to be picked up.
    Adoption,
    /// There is a folder for a checkpoint.
    BakeFolder,
    /// Its memory is in there, and its processes are gone.
    Freeze,
    /// That memory lies where copies would share it, and the images are still those that share nothing.
    Memory,
    /// That memory lies where copies share it, as far as they do.
    Share,
    /// Its layer is one to stand on.
    Commit,
    /// The checkpoint is declared whole.
    Manifest,
    /// Its processes and its shim are gone.
    NoTask,
    /// containerd has no record of it.
    NoRecord,
    /// Its layer is gone.
    NoSnapshot,
    /// Its folder is gone.
    NoFolder,
}

/// Is told of each step when it is done, and may make it an error after all.
#[derive(Clone, Default)]
pub struct Watcher(Option<Arc<Watch>>);

type Watch = dyn Fn(FaultPoint) -> io::Result<()> + Send + Sync;

impl Watcher {
    /// One that is told by a call.
    pub fn new(watch: impl Fn(FaultPoint) -> io::Result<()> + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(watch)))
    }

    pub(super) fn done(&self, step: FaultPoint) -> Result<(), RuntimeError> {
        let Some(watch) = &self.0 else { return Ok(()) };
        watch(step).map_err(|source| RuntimeError::Io { doing: format!("{step:?}"), source })
    }
}

impl fmt::Debug for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Watcher(some)" } else { "Watcher(none)" })
    }
}
