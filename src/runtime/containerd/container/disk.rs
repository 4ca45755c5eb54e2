//! An instance's disk: all that it writes beside its image lies in a tmpfs of its own, which is full when it holds what
//! the instance may write. It is part of the instance's memory, so there is one limit above all.
//!
//! The tmpfs is held as a descriptor and mounted where containerd sees it only while containerd mounts the instance's
//! root on it, which keeps it from then on. So it is gone with the instance, and one whose instance never began is gone
//! with the server, however that ends.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use containerd_client::types::Mount;
use tokio::process::Command;

use crate::runtime::RuntimeError;
use crate::runtime::blocking::IoContext;
use crate::runtime::containerd::host::tmpfs::Tmpfs;

/// What the instance writes, and what overlayfs needs beside it.
const UPPER: &str = "upper";
const WORK: &str = "work";

/// Bytes of disk for each file that there may be: each takes about a KiB of the kernel's memory besides.
const BYTES_A_FILE: u64 = 4096;

/// Longest time to write a disk's files elsewhere.
const PATIENCE: Duration = Duration::from_secs(10 * 60);

/// See the module.
#[derive(Debug)]
pub(crate) struct Disk(Arc<Tmpfs>);

impl Disk {
    /// An empty one for that many bytes.
    pub(crate) fn make(bytes: u64) -> io::Result<Self> {
        let disk = Tmpfs::make("try-it-now", bytes, (bytes / BYTES_A_FILE).max(64))?;
        for folder in [UPPER, WORK] {
            let path = disk.path().join(folder);
            fs::create_dir(&path)?;
            // Whatever the server's own mask is: it is the root folder of apps that need not run as root.
            fs::set_permissions(path, Permissions::from_mode(0o755))?;
        }
        Ok(Self(Arc::new(disk)))
    }

    /// The folder with what the instance writes, for this server to write to first.
    pub(crate) fn files(&self) -> PathBuf {
        self.0.path().join(UPPER)
    }

    /// Mounts it at `at`, an empty folder, where containerd sees it.
    pub(crate) async fn attach(&self, containerd: &Path, at: &Path) -> io::Result<()> {
        self.0.attach(containerd, at).await
    }

    /// Copies its files to an empty folder, with all that the file system knows about them.
    pub(crate) async fn copy_to(&self, folder: &Path) -> Result<(), RuntimeError> {
        let doing = || format!("copy what was written to {}", folder.display());
        let mut copy = Command::new("cp");
        copy.args(["--archive", "--sparse=always", "--"])
            .arg(self.files().join("."))
            .arg(folder)
            .kill_on_drop(true);
        let copied = tokio::time::timeout(PATIENCE, copy.output()).await;
        let output = copied.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).doing(doing)?;
        match output.status.success() {
            true => Ok(()),
            false => {
                Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned())).doing(doing)
            }
        }
    }
}

/// Has the overlay keep what is written on the disk attached at `at`.
pub(crate) fn redirect(mounts: &mut [Mount], at: &Path) {
    for mount in mounts.iter_mut().filter(|mount| mount.r#type == "overlay") {
        for option in &mut mount.options {
            for (name, folder) in [("upperdir", UPPER), ("workdir", WORK)] {
                if option.strip_prefix(name).is_some_and(|rest| rest.starts_with('=')) {
                    *option = format!("{name}={}", at.join(folder).display());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::containerd::host::tmpfs::detach;

    #[test]
    fn only_the_writable_part_of_an_overlay_is_redirected() {
        let options = ["index=off", "workdir=/s/9/work", "upperdir=/s/9/fs", "lowerdir=/s/8/fs:/s/7/fs"];
        let overlay = Mount {
            r#type: "overlay".to_owned(),
            options: options.map(str::to_owned).to_vec(),
            ..Mount::default()
        };
        let mut mounts = [overlay, Mount { r#type: "bind".to_owned(), ..Mount::default() }];
        redirect(&mut mounts, Path::new("/n/disk"));
        let expected =
            ["index=off", "workdir=/n/disk/work", "upperdir=/n/disk/upper", "lowerdir=/s/8/fs:/s/7/fs"];
        assert_eq!(mounts[0].options, expected);
        assert!(mounts[1].options.is_empty());
    }

    #[tokio::test]
    async fn a_disk_is_mounted_only_while_it_is_attached_and_lives_as_long_as_it_is_held() {
        let disk = match Disk::make(1 << 20) {
            Ok(disk) => Arc::new(disk),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                assert!(std::env::var_os("TRY_IT_NOW_NO_SKIPS").is_none_or(|value| value != "1"));
                return println!("skipped: only root may mount a disk");
            }
            Err(error) => panic!("{error}"),
        };
        let folder =
            std::env::temp_dir().join(format!("try-it-now-disk-{}", crate::instance::NodeId::random()));
        let (at, socket) = (folder.join("at"), folder.join("socket"));
        fs::create_dir_all(&at).unwrap();
        // In place of containerd, and with the mounts of this test.
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let mounted = || fs::read_to_string("/proc/self/mountinfo").unwrap().contains(at.to_str().unwrap());
        disk.attach(&socket, &at).await.unwrap();
        assert!(mounted());
        fs::write(disk.files().join("word"), "kept").unwrap();
        assert_eq!(fs::read(at.join("upper/word")).unwrap(), b"kept");
        let full = fs::write(at.join("upper/more"), vec![0; 1 << 20]).unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);

        detach(&at).unwrap();
        assert!(!mounted() && !at.exists());
        let copy = folder.join("copy");
        fs::create_dir(&copy).unwrap();
        disk.copy_to(&copy).await.unwrap();
        assert_eq!(fs::read(copy.join("word")).unwrap(), b"kept");
        fs::remove_dir_all(folder).unwrap();
    }
}
