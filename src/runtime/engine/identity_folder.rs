//! The files that tell an instance which one it is, in a folder of this host that its container mounts.
//!
//! An upload of files has the engine mount the container's file system and start a program of its own, which takes a
//! fifth of a start. So a container that needs no other files gets these four by read-only mounts, where the engine
//! sees this server's folder as this server does. Read-only, since a container must not fill this server's disk.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use bollard::models::{Mount, MountType};

use super::connection::Connection;
use crate::instance::InstanceId;
use crate::runtime::InstanceFile;
use crate::runtime::blocking::blocking;

/// Mode of the folders: what a container mounts is readable in it, and no other user of the host reads it.
const FOLDER_MODE: u32 = 0o700;

/// A folder with a folder for each instance, named by the instance's id.
#[derive(Debug, Clone)]
pub(super) struct IdentityFolder {
    root: PathBuf,
}

impl IdentityFolder {
    /// Makes the folder if it is missing.
    ///
    /// # Errors
    /// It cannot be made.
    pub(super) fn open(root: PathBuf) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(&root)?;
        Ok(Self { root })
    }

    /// Returns whether containers of this engine can mount files of the folder, as far as this server can see: the process
    /// that opened the engine's socket sees the same folder under the same path, and the engine neither maps users nor
    /// labels files. A service manager may have opened the socket of an engine that sees other folders: Docker refuses
    /// a mount of what it does not see.
    pub(super) fn is_mountable(&self, connection: &Connection) -> bool {
        let Some(process) = connection.process.filter(|_| connection.mounts_files_as_they_are) else {
            return false;
        };
        // Podman reads a mount as a list with commas.
        let path = self.root.to_str().filter(|path| !path.contains(','));
        path.is_some_and(|path| is_same(Path::new(path), Path::new(&format!("/proc/{process}/root{path}"))))
    }

    /// Returns whether an engine's error names the folder, so that its containers cannot mount files of it.
    pub(super) fn is_named_in(&self, error: &str) -> bool {
        self.root.to_str().is_some_and(|root| error.contains(root))
    }

    /// Writes the files of an instance. Returns the mounts of its container.
    ///
    /// # Errors
    /// A file cannot be written, or the instance has a folder already.
    pub(super) async fn write(
        &self,
        id: &InstanceId,
        files: impl IntoIterator<Item = InstanceFile>,
    ) -> io::Result<Vec<Mount>> {
        let folder = self.root.join(id.as_str());
        let files: Vec<InstanceFile> = files.into_iter().collect();
        blocking(move || {
            DirBuilder::new().mode(FOLDER_MODE).create(&folder)?;
            let mounts = files.iter().map(|file| {
                let source = folder.join(Path::new(&file.path).file_name().unwrap_or_default());
                fs::write(&source, &file.content)?;
                fs::set_permissions(&source, Permissions::from_mode(file.mode))?;
                Ok(Mount {
                    typ: Some(MountType::BIND),
                    source: Some(source.display().to_string()),
                    target: Some(file.path.clone()),
                    read_only: Some(true),
                    ..Default::default()
                })
            });
            mounts.collect()
        })
        .await
    }

    /// Removes the files of an instance, whose container is gone. An instance without files is no error.
    ///
    /// # Errors
    /// A file cannot be removed.
    pub(super) async fn remove(&self, id: &InstanceId) -> io::Result<()> {
        let folder = self.root.join(id.as_str());
        let removed = blocking(move || fs::remove_dir_all(folder)).await;
        removed.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
    }

    /// Lists the instances that have files.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub(super) async fn list(&self) -> io::Result<Vec<InstanceId>> {
        let root = self.root.clone();
        blocking(move || {
            let names = fs::read_dir(root)?.map(|entry| Ok(entry?.file_name()));
            let names: Vec<_> = names.collect::<io::Result<_>>()?;
            Ok(names.iter().filter_map(|name| InstanceId::parse(name.to_str()?).ok()).collect())
        })
        .await
    }
}

/// Returns whether two paths lead to the same file.
fn is_same(one: &Path, other: &Path) -> bool {
    let [one, other] = [one, other].map(|path| fs::metadata(path).map(|found| (found.dev(), found.ino())));
    matches!((one, other), (Ok(one), Ok(other)) if one == other)
}
