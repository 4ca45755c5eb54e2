//! What is done once, while no server runs: cleaning up, and baking ahead.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::node::NodeFolder;
use crate::config::{Host, Templates};
use crate::instance::NodeId;
use crate::pool::{BakeError, Baked, Pool};
use crate::runtime::RuntimeError;

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
pub enum OnceError {
    /// A server is at work.
    #[error("a server of {} runs ({node}): stop it first", .folder.display())]
    Runs {
        /// Its state folder.
        folder: PathBuf,
        /// Its name there.
        node: NodeId,
    },
    /// The state folder cannot be used.
    #[error("cannot use {}: {source}", .folder.display())]
    Folder {
        /// Which one.
        folder: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No template has that name.
    #[error("there is no template `{asked}`; there are: {known}")]
    NoTemplate {
        /// What was asked for.
        asked: String,
        /// All names, with commas.
        known: String,
    },
    /// The runtime refused.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// A template could not be baked.
    #[error("{template}: {source}")]
    Bake {
        /// Which one.
        template: String,
        /// Why not.
        source: BakeError,
    },
    /// Somebody ended it.
    #[error("interrupted; nothing half made was left")]
    Interrupted,
}

/// What was removed.
#[derive(Debug)]
pub struct Cleaned {
    /// Containers, with what ran in them.
    pub containers: usize,
    /// Snapshots.
    pub snapshots: usize,
    /// Links, and tables of nftables.
    pub network: usize,
    /// Folders on this host.
    pub folders: Vec<PathBuf>,
}

/// Removes what `empty` takes out of containerd, and then the folders of containers and checkpoints.
pub(super) async fn clean(
    host: &Host,
    empty: impl Future<Output = Result<(usize, usize), RuntimeError>>,
) -> Result<Cleaned, OnceError> {
    let nodes = all_nodes(&host.state_dir)?;
    // First, for what runs uses the folders.
    let (containers, snapshots) = empty.await?;
    let mut folders = Vec::new();
    for folder in nodes.iter().map(NodeFolder::containers) {
        match fs::remove_dir_all(&folder) {
            Ok(()) => folders.push(folder),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(OnceError::Folder { folder, source }),
        }
    }
    Ok(Cleaned { containers, snapshots, network: 0, folders })
}

/// All folders of a state folder in which no server works, or the one that does.
pub(super) fn all_nodes(state_dir: &Path) -> Result<Vec<NodeFolder>, OnceError> {
    let folder = state_dir.to_owned();
    match NodeFolder::take_all(state_dir) {
        Ok(Ok(nodes)) => Ok(nodes),
        Ok(Err(node)) => Err(OnceError::Runs { folder, node }),
        Err(source) => Err(OnceError::Folder { folder, source }),
    }
}

/// The names of the templates to bake: that one, or all.
pub(super) fn names(templates: &Templates, only: Option<&str>) -> Result<Vec<String>, OnceError> {
    let all: Vec<_> = templates.iter().map(|template| template.name.as_str().to_owned()).collect();
    match only {
        None => Ok(all),
        Some(name) if all.iter().any(|known| known == name) => Ok(vec![name.to_owned()]),
        Some(name) => Err(OnceError::NoTemplate { asked: name.to_owned(), known: all.join(", ") }),
    }
}

/// Bakes them one after another, and ends all that it started. A first SIGINT gives up.
pub(super) async fn bake(
    pool: &Arc<Pool>,
    names: Vec<String>,
    mut tell: impl FnMut(&str),
) -> Result<(), OnceError> {
    let baking = async {
        for name in names {
            tell(&format!("{name}: fetching, starting and warming up an instance"));
            let begun = Instant::now();
            match pool.bake(&name).await {
                Ok(Baked::Already) => {
                    tell(&format!("{name}: was baked before, and nothing has changed since"))
                }
                Ok(Baked::Now) => tell(&format!("{name}: baked in {}", seconds(begun.elapsed()))),
                Err(source) => return Err(OnceError::Bake { template: name, source }),
            }
        }
        Ok(())
    };
    let outcome = tokio::select! {
        outcome = baking => outcome,
        _ = tokio::signal::ctrl_c() => Err(OnceError::Interrupted),
    };
    pool.drain().await;
    outcome
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}
