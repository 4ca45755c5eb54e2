//! The state folder of one run: `run/RUNTIME/ID` in `STATE_DIR`. It is locked by the lock of a node in it, so that other
//! runs know whether it is in use.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::runtime_choice::ChosenRuntime;
use crate::cli::error::CommandError;
use crate::cli::try_image::{clear, open_runtime};
use crate::config::RuntimeSettings;
use crate::instance::NodeId;
use crate::runtime::Runtime;
use crate::server::state_dir::NodeDir;

/// The name of the folder in `STATE_DIR` for all runs.
const FOLDER: &str = "run";

/// The state folder of a run that is in progress.
pub(super) struct RunDir {
    path: PathBuf,
    /// The node on which the image is explored. Its lock is that of the folder.
    node: NodeDir,
    /// The runtime of that node, until the image is explored. An interrupted start goes on in it, so only this runtime
    /// knows when nothing of the node can appear any more.
    runtime: Mutex<Option<Arc<dyn Runtime>>>,
}

impl RunDir {
    /// Removes everything that killed runs with this runtime left, and makes the folder of a new run.
    ///
    /// # Errors
    /// The folders cannot be used, or what a killed run left cannot be removed.
    pub(super) async fn open(chosen: &ChosenRuntime, own_program: &Path) -> Result<Self, CommandError> {
        let all = chosen.config.state_dir.join(FOLDER).join(chosen.name);
        let unusable = |source| CommandError::Folder { folder: all.clone(), source };
        // Held until the new folder has its lock: without it, another run would take it for one that a killed run left.
        let _lock = lock(all.clone()).await.map_err(unusable)?;
        for entry in fs::read_dir(&all).map_err(unusable)? {
            let path = entry.map_err(unusable)?.path();
            match NodeDir::lock_all(&path).map_err(unusable)? {
                Ok(nodes) => remove(nodes, &path, &chosen.config.runtime, own_program).await?,
                // It is in use.
                Err(_) => continue,
            }
        }
        let path = all.join(NodeId::random().as_str());
        let node = NodeDir::lock_any(&path).map_err(unusable)?;
        match open_runtime(&node, &chosen.config.runtime, own_program).await {
            Ok(runtime) => Ok(Self { path, node, runtime: Mutex::new(Some(runtime)) }),
            Err(error) => {
                fs::remove_dir_all(&path).map_err(unusable)?;
                Err(error)
            }
        }
    }

    /// Returns the path of the folder.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the runtime on which the image is explored; `None` after that.
    pub(super) fn runtime(&self) -> Option<Arc<dyn Runtime>> {
        self.runtime.lock().clone()
    }

    /// Closes the runtime on which the image was explored. All its instances have ended.
    pub(super) fn close_runtime(&self) {
        self.runtime.lock().take();
    }

    /// Removes everything that ran with this folder, and the folder.
    ///
    /// # Errors
    /// Something cannot be removed; the next run removes it.
    pub(super) async fn remove(
        self,
        settings: &RuntimeSettings,
        own_program: &Path,
    ) -> Result<(), CommandError> {
        let Self { path, node, runtime } = self;
        let unusable = |source| CommandError::Folder { folder: path.clone(), source };
        let _lock = lock(path.parent().unwrap_or(&path).to_owned()).await.map_err(unusable)?;
        match runtime.into_inner() {
            Some(runtime) => clear(runtime, node).await?,
            None => drop(node),
        }
        // The nodes of the server, which has ended.
        match NodeDir::lock_all(&path).map_err(unusable)? {
            Ok(nodes) => remove(nodes, &path, settings, own_program).await,
            Err(node) => Err(CommandError::ServerRuns { folder: path, node }),
        }
    }
}

/// Locks a folder, and makes it if it is missing.
async fn lock(folder: PathBuf) -> io::Result<File> {
    let locking = tokio::task::spawn_blocking(move || {
        fs::create_dir_all(&folder)?;
        let folder = File::open(folder)?;
        folder.lock()?;
        Ok(folder)
    });
    locking.await?
}

/// Removes everything of these nodes, and the folder.
async fn remove(
    nodes: Vec<NodeDir>,
    path: &Path,
    settings: &RuntimeSettings,
    own_program: &Path,
) -> Result<(), CommandError> {
    for node in nodes {
        let runtime = open_runtime(&node, settings, own_program).await?;
        clear(runtime, node).await?;
    }
    fs::remove_dir_all(path).map_err(|source| CommandError::Folder { folder: path.to_owned(), source })
}

/// Lists the state folders of all runs below `STATE_DIR`.
pub(crate) fn state_dirs(state_dir: &Path) -> Vec<PathBuf> {
    let below = |folder: PathBuf| {
        fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect::<Vec<_>>()
    };
    below(state_dir.join(FOLDER)).into_iter().flat_map(below).collect()
}
