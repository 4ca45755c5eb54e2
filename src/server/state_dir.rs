//! The folder of a node in `STATE_DIR`: it holds the node's id and what the node runs.
//!
//! A server locks the first folder that no other server has locked, which is the folder of a node that crashed or
//! stopped. If there is none, it makes a folder. So two servers on one host never touch each other's instances, and the
//! next server finds what a crashed server left.

use std::fs::{self, File, Permissions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::instance::NodeId;
use crate::template::{Secret, random_hex};

/// Hexadecimal digits of a node's secret: 256 bits.
const SECRET_LENGTH: usize = 64;

/// The name of the folder for containers in a node's folder.
const CONTAINERS_DIR_NAME: &str = "containers";

/// A node's folder, locked for as long as this value lives.
#[derive(Debug)]
pub struct NodeDir {
    id: NodeId,
    path: PathBuf,
    /// The locked file. The kernel unlocks it when the process ends, however it ends.
    _lock: File,
}

impl NodeDir {
    /// Locks the first free folder below `state_dir`, or makes one.
    ///
    /// # Errors
    /// The folders cannot be read, made or locked.
    pub fn lock_any(state_dir: &Path) -> io::Result<Self> {
        let nodes = state_dir.join("nodes");
        fs::create_dir_all(&nodes)?;
        let mut names: Vec<String> =
            fs::read_dir(&nodes)?.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
        names.sort_unstable();
        for name in names {
            if let Ok(id) = NodeId::parse(&name)
                && let Some(folder) = Self::try_lock(&nodes, id)?
            {
                return Ok(folder);
            }
        }
        loop {
            if let Some(folder) = Self::try_lock(&nodes, NodeId::random())? {
                return Ok(folder);
            }
        }
    }

    /// Locks the folder of one node below `state_dir`.
    ///
    /// # Errors
    /// The folder cannot be made or locked; `WouldBlock` if another server has locked it.
    pub fn lock(state_dir: &Path, id: NodeId) -> io::Result<Self> {
        let locked = Self::try_lock(&state_dir.join("nodes"), id)?;
        locked.ok_or_else(|| io::Error::new(io::ErrorKind::WouldBlock, "another server has locked it"))
    }

    /// Locks every node's folder below `state_dir`, so that no server runs there meanwhile. If a server runs in one of
    /// them, locks none and returns the id of the first such node.
    ///
    /// # Errors
    /// The folders cannot be read or locked.
    pub fn lock_all(state_dir: &Path) -> io::Result<Result<Vec<Self>, NodeId>> {
        let nodes = state_dir.join("nodes");
        let entries = match fs::read_dir(&nodes) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Ok(Vec::new())),
            entries => entries?,
        };
        let mut locked = Vec::new();
        for entry in entries {
            let name = entry?.file_name();
            let Some(id) = name.to_str().and_then(|name| NodeId::parse(name).ok()) else { continue };
            match Self::try_lock(&nodes, id.clone())? {
                Some(folder) => locked.push(folder),
                None => return Ok(Err(id)),
            }
        }
        Ok(Ok(locked))
    }

    /// Returns the folders for containers of all nodes below `state_dir`, whether a server has locked them or not.
    pub fn containers_dirs(state_dir: &Path) -> Vec<PathBuf> {
        let nodes = fs::read_dir(state_dir.join("nodes")).into_iter().flatten().flatten();
        let nodes =
            nodes.filter(|node| node.file_name().to_str().is_some_and(|name| NodeId::parse(name).is_ok()));
        nodes.map(|node| node.path().join(CONTAINERS_DIR_NAME)).collect()
    }

    /// Locks the folder of the node `id` and makes it if it is missing. Returns `None` if another server has locked it.
    fn try_lock(nodes: &Path, id: NodeId) -> io::Result<Option<Self>> {
        let path = nodes.join(id.as_str());
        fs::create_dir_all(&path)?;
        let lock = File::options().create(true).truncate(false).write(true).open(path.join("lock"))?;
        match lock.try_lock() {
            Ok(()) => Ok(Some(Self { id, path, _lock: lock })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Removes the folder. What the node runs must be gone.
    ///
    /// # Errors
    /// A file cannot be removed.
    pub fn remove(self) -> io::Result<()> {
        fs::remove_dir_all(&self.path)
    }

    /// Returns the node's id, which is the folder's name.
    pub fn id(&self) -> &NodeId {
        &self.id
    }

    /// Returns the secret from which the random texts of the node's instances are derived. It is made once and then
    /// kept, since instances may outlive the server.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub fn secret(&self) -> io::Result<Secret> {
        read_or_make_secret(&self.path.join("secret"))
    }

    /// Returns the folder for the instances of the process runtime. It may not exist yet.
    pub fn instances_dir(&self) -> PathBuf {
        self.path.join("instances")
    }

    /// Returns the file that keeps the steady time from one server process to the next. It may not exist yet.
    pub fn clock_file(&self) -> PathBuf {
        self.path.join("clock")
    }

    /// Returns the file in which the embedded store records assigned instances. It may not exist yet.
    pub fn journal_file(&self) -> PathBuf {
        self.path.join("journal")
    }

    /// Returns the file in which a node that shares a store records the claims that were granted to it. It may not
    /// exist yet. A second file beside it has the same name with `.tenure` at the end.
    pub fn grant_log_file(&self) -> PathBuf {
        self.path.join("claims")
    }

    /// Returns the folder for files that containers of an engine mount. It may not exist yet.
    pub fn engine_files_dir(&self) -> PathBuf {
        self.path.join("engine-files")
    }

    /// Returns the folder for containers and their checkpoints. It may not exist yet.
    pub fn containers_dir(&self) -> PathBuf {
        self.path.join(CONTAINERS_DIR_NAME)
    }
}

/// Returns the API key of the servers that use `state_dir`, and its file. It is made at the first start, readable for
/// the server's user only, and then kept.
///
/// # Errors
/// The file cannot be read or written.
pub fn own_api_key(state_dir: &Path) -> io::Result<(Secret, PathBuf)> {
    let path = state_dir.join("api-key");
    read_or_make_secret(&path).map(|secret| (secret, path))
}

/// Returns the secret in a file. If there is none, makes one. Of several servers that do so at once one makes it, and
/// a server that is killed meanwhile leaves at most a draft, which the next one overwrites.
fn read_or_make_secret(path: &Path) -> io::Result<Secret> {
    if let Some(secret) = read_secret(path)? {
        return Ok(secret);
    }
    let draft = path.with_extension("draft");
    let mut file = File::options().create(true).truncate(false).write(true).mode(0o600).open(&draft)?;
    file.lock()?;
    // Another server may have renamed the draft that this one has opened.
    if let Some(secret) = read_secret(path)? {
        return Ok(secret);
    }
    let secret = random_hex::<{ SECRET_LENGTH / 2 }>()?;
    file.set_permissions(Permissions::from_mode(0o600))?;
    file.set_len(0)?;
    file.write_all(secret.as_bytes())?;
    file.sync_all()?;
    fs::rename(draft, path)?;
    Ok(Secret::new(secret))
}

/// Returns the secret in a file; `None` if there is no such file.
///
/// # Errors
/// The file cannot be read, or has another length: then it was written by hand, and to replace it is not ours.
fn read_secret(path: &Path) -> io::Result<Option<Secret>> {
    match fs::read_to_string(path) {
        Ok(text) if text.len() == SECRET_LENGTH => Ok(Some(Secret::new(text))),
        Ok(text) => Err(io::Error::other(format!(
            "{} has {} characters instead of {SECRET_LENGTH}; remove it to get a new one at the next start",
            path.display(),
            text.len()
        ))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
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
    fn two_servers_have_two_folders_and_a_later_one_locks_a_free_one() {
        let dir = state_dir();
        let a = NodeDir::lock_any(&dir).unwrap();
        let b = NodeDir::lock_any(&dir).unwrap();
        assert_ne!(a.id(), b.id());
        assert!(NodeDir::lock_all(&dir).unwrap().is_err(), "servers have locked them");
        let freed = a.id().clone();
        drop(a);
        assert_eq!(NodeDir::lock_any(&dir).unwrap().id(), &freed);
        assert_eq!(NodeDir::lock_all(&dir).unwrap().unwrap_err(), *b.id());
        drop(b);
        assert_eq!(NodeDir::lock_all(&dir).unwrap().unwrap().len(), 2);
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_node_keeps_its_secret_and_no_other_user_may_read_it() {
        let dir = state_dir();
        let node = NodeDir::lock_any(&dir).unwrap();
        let secret = node.secret().unwrap();
        assert_eq!((node.secret().unwrap(), secret.reveal().len()), (secret.clone(), SECRET_LENGTH));
        assert_eq!(fs::metadata(node.path.join("secret")).unwrap().permissions().mode() & 0o777, 0o600);
        let other = NodeDir::lock_any(&dir).unwrap();
        assert_ne!(other.secret().unwrap(), secret);
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn servers_that_start_at_once_make_one_api_key() {
        let dir = state_dir();
        fs::create_dir_all(&dir).unwrap();
        // What a server that was killed has left.
        fs::write(dir.join("api-key.draft"), "half").unwrap();
        let keys: Vec<Secret> = std::thread::scope(|scope| {
            let servers: Vec<_> = (0..8).map(|_| scope.spawn(|| own_api_key(&dir).unwrap().0)).collect();
            servers.into_iter().map(|server| server.join().unwrap()).collect()
        });
        let (kept, file) = own_api_key(&dir).unwrap();
        assert!(keys.iter().all(|key| *key == kept) && kept.reveal().len() == SECRET_LENGTH);
        let names: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["api-key"]);
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o077, 0);
        fs::write(&file, "short").unwrap();
        assert!(own_api_key(&dir).unwrap_err().to_string().contains("remove it"));
        fs::remove_dir_all(dir).unwrap();
    }
}
