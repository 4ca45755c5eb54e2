//! This server's folder in `STATE_DIR`: its name, and what it runs.
//!
//! A server takes the first folder that it can lock, which is that of one that crashed or stopped; else it makes
//! one. So two servers on one host never touch each other's instances, and what a crashed one left is found.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use crate::instance::NodeId;

/// A folder that is ours for as long as this lives.
#[derive(Debug)]
pub struct NodeFolder {
    id: NodeId,
    path: PathBuf,
    /// Its lock is the claim; the system takes it back when the process ends, however it ends.
    _lock: File,
}

impl NodeFolder {
    /// Takes a folder below `state_dir`.
    pub fn take(state_dir: &Path) -> io::Result<Self> {
        let nodes = state_dir.join("nodes");
        fs::create_dir_all(&nodes)?;
        let mut names: Vec<String> =
            fs::read_dir(&nodes)?.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
        names.sort_unstable();
        for name in names {
            if let Ok(id) = NodeId::parse(&name)
                && let Some(folder) = Self::lock(&nodes, id)?
            {
                return Ok(folder);
            }
        }
        loop {
            if let Some(folder) = Self::lock(&nodes, NodeId::random())? {
                return Ok(folder);
            }
        }
    }

    /// `None` when another server has it.
    fn lock(nodes: &Path, id: NodeId) -> io::Result<Option<Self>> {
        let path = nodes.join(id.as_str());
        fs::create_dir_all(&path)?;
        let lock = File::options().create(true).truncate(false).write(true).open(path.join("lock"))?;
        match lock.try_lock() {
            Ok(()) => Ok(Some(Self { id, path, _lock: lock })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// The server's name.
    pub fn id(&self) -> &NodeId {
        &self.id
    }

    /// The folder for its instances; it may not exist yet.
    pub fn instances(&self) -> PathBuf {
        self.path.join("instances")
    }

    /// The folder for its containers and their checkpoints; it may not exist yet.
    pub fn containers(&self) -> PathBuf {
        self.path.join("containers")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state_dir() -> PathBuf {
        let name = format!("try-it-now-node-{}", NodeId::random());
        std::env::temp_dir().join(name)
    }

    #[test]
    fn two_servers_have_two_folders_and_a_later_one_takes_over_a_free_one() {
        let dir = state_dir();
        let a = NodeFolder::take(&dir).unwrap();
        let b = NodeFolder::take(&dir).unwrap();
        assert_ne!(a.id(), b.id());
        let freed = a.id().clone();
        drop(a);
        assert_eq!(NodeFolder::take(&dir).unwrap().id(), &freed);
        fs::remove_dir_all(dir).unwrap();
    }
}
