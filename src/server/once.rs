//! What is done once, while no server runs: cleaning up, and baking ahead.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use super::node::NodeFolder;
use crate::config::Templates;
use crate::instance::NodeId;
use crate::pool::{BakeError, Baked, Pool};
use crate::runtime::RuntimeError;

/// Where the system shows its cgroups.
const CGROUPS: &str = "/sys/fs/cgroup";

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
    /// The system gives no signals.
    #[error("cannot listen for signals: {0}")]
    Signals(io::Error),
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
    /// Folders, files and cgroups on this host.
    pub paths: Vec<PathBuf>,
}

/// Removes what nodes without anything that runs have on disk, and the cgroup that ours were in. Returns what there was.
pub(super) fn remove_all(nodes: &[NodeFolder]) -> Result<Vec<PathBuf>, OnceError> {
    let mut removed = Vec::new();
    for node in nodes {
        let (claims, tenure) = (node.claims(), node.claims().with_extension("tenure"));
        for path in [node.containers(), node.instances(), node.journal(), claims, tenure] {
            let gone = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            match gone {
                Ok(()) => removed.push(path),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(OnceError::Folder { folder: path, source }),
            }
        }
    }
    removed.extend(cgroups(Path::new(CGROUPS)).into_iter().filter(|cgroup| fs::remove_dir(cgroup).is_ok()));
    Ok(removed)
}

/// The cgroup that all containers of ours are in: one below the root, or one in each hierarchy of the older version. It
/// can be removed when it is empty, and with the containers of another containerd in it, it is not.
fn cgroups(root: &Path) -> Vec<PathBuf> {
    let hierarchies = fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
    let found = hierarchies.chain([root.to_owned()]).map(|hierarchy| hierarchy.join("try-it-now"));
    let mut found: Vec<PathBuf> = found.filter_map(|cgroup| cgroup.canonicalize().ok()).collect();
    found.sort_unstable();
    // A hierarchy may have two names.
    found.dedup();
    found
}

/// Done at the first SIGINT or SIGTERM from the call on.
pub(super) fn interrupted() -> io::Result<impl Future<Output = ()>> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
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

/// Bakes them one after another, and ends all that it started. Gives up when `interrupted` is done.
pub(super) async fn bake(
    pool: &Arc<Pool>,
    names: Vec<String>,
    interrupted: impl Future<Output = ()>,
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
            if let Some(about) = pool.about_golden(&name).await {
                tell(&format!("{name}: {about}"));
            }
        }
        Ok(())
    };
    let outcome = tokio::select! {
        outcome = baking => outcome,
        () = interrupted => Err(OnceError::Interrupted),
    };
    pool.drain().await;
    outcome
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_cgroup_is_found_in_each_hierarchy_once() {
        let root = std::env::temp_dir().join(format!("try-it-now-cgroups-{}", NodeId::random()));
        for folder in ["cpu,cpuacct/try-it-now", "memory/try-it-now", "memory/try-it-not", "try-it-now"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        std::os::unix::fs::symlink("cpu,cpuacct", root.join("cpu")).unwrap();
        let found: Vec<_> =
            cgroups(&root).into_iter().map(|path| path.strip_prefix(&root).unwrap().to_owned()).collect();
        assert_eq!(found, ["cpu,cpuacct/try-it-now", "memory/try-it-now", "try-it-now"].map(PathBuf::from));
        assert!(cgroups(&root.join("nowhere")).is_empty());
        fs::remove_dir_all(root).unwrap();
    }
}
