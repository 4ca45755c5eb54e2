//! Steps of making and ending an instance or a checkpoint at which a test can inject a fault: the step fails, or the
//! server is killed right after it. Each step of this runtime must have a fault point and a place in the lists of
//! `tests/backends/containerd/faults.rs`.

use std::fmt;
use std::io;
use std::sync::Arc;

use crate::runtime::RuntimeError;

/// A completed step, in the order of an instance's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultPoint {
    /// The instance has a range of user ids. Only with user namespaces.
    UserIds,
    /// The instance has a network namespace.
    Network,
    /// It has a writable snapshot.
    Snapshot,
    /// It has a folder of this node with its pipes, and its output is read.
    Folder,
    /// It has a disk, and its first files are on it.
    FirstFiles,
    /// The disk is mounted where containerd sees it.
    Disk,
    /// containerd has a record of its container.
    Record,
    /// It has a shim, and unless it is restored its first process.
    Task,
    /// It runs.
    Start,
    /// An instance that an earlier server started was found and is about to be taken over.
    Adoption,
    /// The checkpoint has a folder.
    BakeFolder,
    /// The images of the instance's memory are in that folder, and its processes are gone.
    Freeze,
    /// The connections in the images that instances cannot have are closed.
    Connections,
    /// The random number generators in the images are reset.
    RandomNumbers,
    /// The memory is written to the files that instances will share, and the images still share nothing.
    Memory,
    /// The images refer to the shared files, as far as memory is shared.
    Share,
    /// The instance's layer is committed as the checkpoint's snapshot.
    Commit,
    /// The manifest is written, which makes the checkpoint valid.
    Manifest,
    /// The processes and the task of the instance are gone.
    NoTask,
    /// containerd has no record of its container.
    NoRecord,
    /// Its snapshot is gone.
    NoSnapshot,
    /// Its folder is gone.
    NoFolder,
}

/// Calls a hook at each fault point. The hook may return an error, which makes the step fail. Without a hook it does
/// nothing.
#[derive(Clone, Default)]
pub struct FaultInjector(Option<Arc<FaultHook>>);

type FaultHook = dyn Fn(FaultPoint) -> io::Result<()> + Send + Sync;

impl FaultInjector {
    /// Returns an injector that calls `hook`.
    pub fn new(hook: impl Fn(FaultPoint) -> io::Result<()> + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(hook)))
    }

    /// Calls the hook after a step.
    pub(super) fn reached(&self, point: FaultPoint) -> Result<(), RuntimeError> {
        let Some(hook) = &self.0 else { return Ok(()) };
        hook(point).map_err(|source| RuntimeError::Io { operation: format!("complete {point:?}"), source })
    }
}

impl fmt::Debug for FaultInjector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "FaultInjector(some)" } else { "FaultInjector(none)" })
    }
}
