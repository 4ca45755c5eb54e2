//! An instance's disk. Everything that an instance writes on top of its image lies in a tmpfs of its own, whose size is
//! the template's disk limit. The tmpfs counts as the instance's memory, so the memory limit bounds both.
//!
//! The tmpfs is held as a descriptor. It is mounted where containerd sees it only while containerd mounts the
//! instance's root on it; the overlay keeps it from then on. So it is gone with the instance, and the tmpfs of an
//! instance that never started is gone with the server, however the server ends.
//!
//! What must be in the layer before a start is written to [`Disk::upper_dir`]. The snapshot's own folder in containerd
//! stays empty until a bake copies the tmpfs there.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use containerd_client::types::Mount;
use tokio::process::Command;

use super::frozen_owners;
use crate::runtime::RuntimeError;
use crate::runtime::blocking::{IoContext, blocking};
use crate::runtime::containerd::host::id_ranges::{IDS, IdRange};
use crate::runtime::containerd::host::tmpfs::Tmpfs;

/// The folder with what the instance writes.
const UPPER: &str = "upper";
/// The folder that overlayfs needs beside it.
const WORK: &str = "work";
/// The folder that becomes `/dev/shm`.
const SHM: &str = "shm";

/// Bytes of disk per file: the number of files is limited because each takes about a KiB of the kernel's memory
/// besides.
const BYTES_PER_FILE: u64 = 4096;

/// Longest time to copy a disk's files.
const COPY_DEADLINE: Duration = Duration::from_secs(10 * 60);

/// A tmpfs for what one instance writes.
#[derive(Debug)]
pub(crate) struct Disk(Arc<Tmpfs>);

impl Disk {
    /// Creates an empty disk of that many bytes. It belongs to the root of the instance with these ids.
    ///
    /// # Errors
    /// The kernel refuses, for example without `CAP_SYS_ADMIN`.
    pub(crate) fn create(bytes: u64, ids: Option<IdRange>) -> io::Result<Self> {
        let disk = Tmpfs::create("try-it-now", bytes, (bytes / BYTES_PER_FILE).max(64))?;
        for (folder, mode) in [(UPPER, 0o755), (WORK, 0o755), (SHM, 0o1777)] {
            let path = disk.path().join(folder);
            fs::create_dir(&path)?;
            // Whatever the server's umask is: these are folders of apps that may not run as root.
            fs::set_permissions(&path, Permissions::from_mode(mode))?;
            if let Some(ids) = ids {
                chown(path, Some(ids.first()), Some(ids.first()))?;
            }
        }
        Ok(Self(Arc::new(disk)))
    }

    /// Returns the folder with what the instance writes, to which this server may write before the start.
    pub(crate) fn upper_dir(&self) -> PathBuf {
        self.0.path().join(UPPER)
    }

    /// Mounts the disk at `at`, an empty folder, where containerd sees it.
    ///
    /// # Errors
    /// containerd's mount namespace cannot be entered, or the kernel refuses.
    pub(crate) async fn attach(&self, containerd: &Path, at: &Path) -> io::Result<()> {
        self.0.attach(containerd, at).await
    }

    /// Copies the disk's files to an empty folder, with all their attributes. Ids of the instance's range become those
    /// that the instance sees.
    ///
    /// # Errors
    /// `cp` fails or takes too long.
    pub(crate) async fn copy_to(&self, folder: &Path, ids: Option<IdRange>) -> Result<(), RuntimeError> {
        copy_files(&self.upper_dir(), folder, ids.map(frozen_ids)).await
    }

    /// Copies the files of `/dev/shm` to a new folder, as [`Disk::copy_to`] does. Makes no folder if there are none.
    ///
    /// # Errors
    /// `cp` fails or takes too long.
    pub(crate) async fn copy_shm_to(&self, folder: &Path, ids: Option<IdRange>) -> Result<(), RuntimeError> {
        let shm = self.0.path().join(SHM);
        let context = || "read the instance's shared memory".to_owned();
        if fs::read_dir(&shm).context(context)?.next().is_none() {
            return Ok(());
        }
        fs::create_dir(folder).context(context)?;
        copy_files(&shm, folder, ids.map(frozen_ids)).await
    }

    /// Fills `/dev/shm` with what [`Disk::copy_shm_to`] wrote, if it wrote a folder.
    ///
    /// # Errors
    /// `cp` fails or takes too long.
    pub(crate) async fn fill_shm(&self, from: &Path, ids: Option<IdRange>) -> Result<(), RuntimeError> {
        if !from.is_dir() {
            return Ok(());
        }
        let set_ids = ids.map(|ids| move |copy: &Path| frozen_owners::shift(copy, ids));
        copy_files(from, &self.0.path().join(SHM), set_ids).await
    }
}

/// Returns the folder that becomes `/dev/shm` of an instance whose disk is attached at `at`.
pub(super) fn shm_dir(at: &Path) -> PathBuf {
    at.join(SHM)
}

/// Returns what gives copied files the ids that the instance with this range sees.
fn frozen_ids(ids: IdRange) -> impl FnOnce(&Path) -> io::Result<()> + Send + 'static {
    move |copy| frozen_owners::restore(copy, ids)
}

/// Copies files to an empty folder, with all their attributes. `set_ids` changes the ids of the copies.
async fn copy_files(
    from: &Path,
    to: &Path,
    set_ids: Option<impl FnOnce(&Path) -> io::Result<()> + Send + 'static>,
) -> Result<(), RuntimeError> {
    let context = || format!("copy the instance's files to {}", to.display());
    let mut copy = Command::new("cp");
    copy.args(["--archive", "--sparse=always", "--"]).arg(from.join(".")).arg(to).kill_on_drop(true);
    let copied = tokio::time::timeout(COPY_DEADLINE, copy.output()).await;
    let output = copied.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).context(context)?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(io::Error::other(text)).context(context);
    }
    let Some(set_ids) = set_ids else { return Ok(()) };
    let copied = to.to_owned();
    blocking(move || set_ids(&copied)).await.context(context)
}

/// Makes an overlay give file handles, without which CRIU cannot freeze an instance that watches files (inotify).
/// Restored instances need none. A file system of layers that has no handles ignores it.
pub(super) fn give_file_handles(mounts: &mut [Mount]) {
    for mount in mounts.iter_mut().filter(|mount| mount.r#type == "overlay") {
        mount.options.retain(|option| !option.starts_with("index=") && !option.starts_with("nfs_export="));
        mount.options.extend(["index=on", "nfs_export=on"].map(str::to_owned));
    }
}

/// Makes an overlay write to the disk that is attached at `at`. With ids, the shim mounts its lower layers so that their
/// files belong to the ids of the range.
pub(super) fn redirect_overlay(mounts: &mut [Mount], at: &Path, ids: Option<IdRange>) {
    for mount in mounts.iter_mut().filter(|mount| mount.r#type == "overlay") {
        if let Some(ids) = ids {
            let mapping = format!("0:{}:{IDS}", ids.first());
            mount.options.extend([format!("uidmap={mapping}"), format!("gidmap={mapping}")]);
        }
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
        redirect_overlay(&mut mounts, Path::new("/n/disk"), None);
        let expected =
            ["index=off", "workdir=/n/disk/work", "upperdir=/n/disk/upper", "lowerdir=/s/8/fs:/s/7/fs"];
        assert_eq!(mounts[0].options, expected);
        assert!(mounts[1].options.is_empty());
    }

    #[test]
    fn an_overlay_gives_file_handles_whatever_the_snapshotter_says() {
        let options = ["index=off", "lowerdir=/s/8/fs"].map(str::to_owned).to_vec();
        let overlay = Mount { r#type: "overlay".to_owned(), options, ..Mount::default() };
        let mut mounts = [overlay, Mount { r#type: "bind".to_owned(), ..Mount::default() }];
        give_file_handles(&mut mounts);
        assert_eq!(mounts[0].options, ["lowerdir=/s/8/fs", "index=on", "nfs_export=on"]);
        assert!(mounts[1].options.is_empty());
    }

    #[tokio::test]
    async fn a_disk_is_mounted_only_while_it_is_attached_and_lives_as_long_as_it_is_held() {
        let disk = match Disk::create(1 << 20, None) {
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
        fs::write(disk.upper_dir().join("word"), "kept").unwrap();
        assert_eq!(fs::read(at.join("upper/word")).unwrap(), b"kept");
        let full = fs::write(at.join("upper/more"), vec![0; 1 << 20]).unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);

        detach(&at).unwrap();
        assert!(!mounted() && !at.exists());
        let copy = folder.join("copy");
        fs::create_dir(&copy).unwrap();
        disk.copy_to(&copy, None).await.unwrap();
        assert_eq!(fs::read(copy.join("word")).unwrap(), b"kept");
        fs::remove_dir_all(folder).unwrap();
    }
}
