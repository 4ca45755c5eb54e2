//! This server's folder in `STATE_DIR`: its name, and what it runs.
//!
//! A server takes the first folder that it can lock, which is that of one that crashed or stopped; else it makes
//! one. So two servers on one host never touch each other's instances, and what a crashed one left is found.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::instance::NodeId;
use crate::template::Secret;
use crate::template::random_hex;

/// Hexadecimal digits: 256 bits.
const SECRET_LENGTH: usize = 64;

/// The folder for containers in a node's.
const CONTAINERS: &str = "containers";

/// A folder that is ours for as long as this lives.
#[derive(Debug)]
pub struct NodeDir {
    id: NodeId,
    path: PathBuf,
    /// Its lock is the claim; the system takes it back when the process ends, however it ends.
    _lock: File,
}

impl NodeDir {
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

    /// Takes every folder there is below `state_dir`, so that no server works there meanwhile. If any has a server that
    /// runs, takes none, and names the first of those.
    ///
    /// # Errors
    /// The folders cannot be read or locked.
    pub fn take_all(state_dir: &Path) -> io::Result<Result<Vec<Self>, NodeId>> {
        let nodes = state_dir.join("nodes");
        let entries = match fs::read_dir(&nodes) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Ok(Vec::new())),
            entries => entries?,
        };
        let mut taken = Vec::new();
        for entry in entries {
            let name = entry?.file_name();
            let Some(id) = name.to_str().and_then(|name| NodeId::parse(name).ok()) else { continue };
            match Self::lock(&nodes, id.clone())? {
                Some(folder) => taken.push(folder),
                None => return Ok(Err(id)),
            }
        }
        Ok(Ok(taken))
    }

    /// The folders for containers of all nodes there are below `state_dir`, whether a server has them or not.
    pub fn all_containers(state_dir: &Path) -> Vec<PathBuf> {
        let nodes = fs::read_dir(state_dir.join("nodes")).into_iter().flatten().flatten();
        let known =
            nodes.filter(|node| node.file_name().to_str().is_some_and(|name| NodeId::parse(name).is_ok()));
        known.map(|node| node.path().join(CONTAINERS)).collect()
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

    /// What the random texts of its instances come from. Made once, for its instances may outlive the server.
    pub fn secret(&self) -> io::Result<Secret> {
        let path = self.path.join("secret");
        match fs::read_to_string(&path) {
            Ok(text) if text.len() == SECRET_LENGTH => return Ok(Secret::new(text)),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            // One that was interrupted was never used.
            _ => {}
        }
        let secret = random_hex::<{ SECRET_LENGTH / 2 }>()?;
        let draft = self.path.join("secret.draft");
        let mut file = File::options().create(true).write(true).truncate(true).mode(0o600).open(&draft)?;
        file.write_all(secret.as_bytes())?;
        file.sync_all()?;
        fs::rename(draft, path)?;
        Ok(Secret::new(secret))
    }

    /// The folder for its instances; it may not exist yet.
    pub fn instances(&self) -> PathBuf {
        self.path.join("instances")
    }

    /// The file in which it notes which visitor has what; it may not exist yet.
    pub fn journal(&self) -> PathBuf {
        self.path.join("journal")
    }

    /// The file in which it notes what it handed out by way of a store that servers share; it may not exist yet. Beside it
    /// stands one that ends in `.tenure`.
    pub fn claims(&self) -> PathBuf {
        self.path.join("claims")
    }

    /// The folder for its containers and their checkpoints; it may not exist yet.
    pub fn containers(&self) -> PathBuf {
        self.path.join(CONTAINERS)
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
        let a = NodeDir::take(&dir).unwrap();
        let b = NodeDir::take(&dir).unwrap();
        assert_ne!(a.id(), b.id());
        assert!(NodeDir::take_all(&dir).unwrap().is_err(), "servers have them");
        let freed = a.id().clone();
        drop(a);
        assert_eq!(NodeDir::take(&dir).unwrap().id(), &freed);
        assert_eq!(NodeDir::take_all(&dir).unwrap().unwrap_err(), *b.id());
        drop(b);
        assert_eq!(NodeDir::take_all(&dir).unwrap().unwrap().len(), 2);
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_node_keeps_its_secret_and_nobody_else_may_read_it() {
        use std::os::unix::fs::PermissionsExt;
        let dir = state_dir();
        let node = NodeDir::take(&dir).unwrap();
        let secret = node.secret().unwrap();
        assert_eq!((node.secret().unwrap(), secret.reveal().len()), (secret.clone(), SECRET_LENGTH));
        assert_eq!(fs::metadata(node.path.join("secret")).unwrap().permissions().mode() & 0o777, 0o600);
        let other = NodeDir::take(&dir).unwrap();
        assert_ne!(other.secret().unwrap(), secret);
        fs::remove_dir_all(dir).unwrap();
    }
}
