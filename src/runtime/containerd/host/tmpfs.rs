//! A file system in memory that is held as a descriptor and can be mounted where containerd sees it, whatever mounts
//! this server sees: containerd may have a mount namespace of its own.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::sched::{CloneFlags, setns, unshare};
use rustix::fs::{CWD, Mode, OFlags, fstatfs, open};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_string, fsmount, fsopen, move_mount, unmount,
};
use rustix::net::sockopt::socket_peercred;

use crate::runtime::blocking::on_own_thread;

/// Type number of a tmpfs in `statfs`.
const TMPFS_MAGIC: i64 = 0x0102_1994;

/// A tmpfs, which exists as long as this or a mount of it does.
#[derive(Debug)]
pub(crate) struct Tmpfs(OwnedFd);

impl Tmpfs {
    /// Creates an empty tmpfs for that many bytes and files. The list of mounts shows `name`.
    ///
    /// # Errors
    /// The kernel refuses, for example without `CAP_SYS_ADMIN`.
    pub(crate) fn create(name: &str, bytes: u64, files: u64) -> io::Result<Self> {
        let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_set_string(&context, "source", name)?;
        fsconfig_set_string(&context, "size", bytes.to_string())?;
        fsconfig_set_string(&context, "nr_inodes", files.to_string())?;
        fsconfig_create(&context)?;
        Ok(Self(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?))
    }

    /// Opens the tmpfs that containerd sees at `at`.
    ///
    /// # Errors
    /// `NotFound` if another file system is there; else the system's error.
    pub(crate) async fn find(containerd: &Path, at: &Path) -> io::Result<Self> {
        let (containerd, at) = (containerd.to_owned(), at.to_owned());
        on_own_thread("find a tmpfs", move || {
            enter_mount_namespace_of(&containerd)?;
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let found = open(&at, flags, Mode::empty())?;
            match fstatfs(&found)?.f_type == TMPFS_MAGIC {
                true => Ok(Self(found)),
                false => Err(io::ErrorKind::NotFound.into()),
            }
        })
        .await
    }

    /// Returns the number of bytes that it contains.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(crate) fn used_bytes(&self) -> io::Result<u64> {
        let found = fstatfs(&self.0)?;
        let blocks = found.f_blocks.saturating_sub(found.f_bfree);
        Ok(blocks.saturating_mul(u64::try_from(found.f_bsize).unwrap_or(0)))
    }

    /// Returns the path of its root, valid in all processes of this host while this is held.
    pub(crate) fn path(&self) -> PathBuf {
        // Not `/proc/self`: other processes use the path too.
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd()).into()
    }

    /// Mounts it at `at`, an empty folder, where containerd sees it.
    ///
    /// # Errors
    /// containerd's mount namespace cannot be entered, or the kernel refuses.
    pub(crate) async fn attach(self: &Arc<Self>, containerd: &Path, at: &Path) -> io::Result<()> {
        let (tmpfs, containerd, at) = (self.clone(), containerd.to_owned(), at.to_owned());
        on_own_thread("attach a tmpfs", move || {
            enter_mount_namespace_of(&containerd)?;
            Ok(move_mount(&tmpfs.0, "", CWD, at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
        })
        .await
    }
}

/// Unmounts what this server sees mounted at a folder, if anything, and removes the folder. Other mounts of the same
/// file system stay.
///
/// # Errors
/// The kernel refuses.
pub(crate) fn detach(at: &Path) -> io::Result<()> {
    match unmount(at, UnmountFlags::DETACH) {
        // It is not mounted, or only where containerd sees it; then the mount goes with the folder.
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    match fs::remove_dir(at) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Unmounts the tmpfs of that name that containerd sees below these folders, or with `None` anywhere, and returns where
/// they were mounted.
///
/// # Errors
/// containerd's mount namespace cannot be entered, or the kernel refuses.
pub(crate) async fn detach_all(
    containerd: &Path,
    name: &'static str,
    below: Option<Vec<PathBuf>>,
) -> io::Result<Vec<PathBuf>> {
    let containerd = containerd.to_owned();
    on_own_thread("detach all of a name", move || {
        enter_mount_namespace_of(&containerd)?;
        let mounts = fs::read_to_string("/proc/thread-self/mountinfo")?;
        // The list of mounts has paths without links. A folder that does not exist has no mounts.
        let below: Option<Vec<PathBuf>> =
            below.map(|folders| folders.iter().filter_map(|folder| folder.canonicalize().ok()).collect());
        let is_wanted = |at: &PathBuf| {
            below.as_ref().is_none_or(|folders| folders.iter().any(|folder| at.starts_with(folder)))
        };
        let found = mounts.lines().filter_map(|line| mount_point_of(line, name));
        let found: Vec<PathBuf> = found.filter(is_wanted).collect();
        found.iter().try_for_each(|at| unmount(at, UnmountFlags::DETACH))?;
        Ok(found)
    })
    .await
}

/// Returns the mount point in a line of `mountinfo`, if it is that of a tmpfs of that name.
fn mount_point_of(line: &str, name: &str) -> Option<PathBuf> {
    let (mount, kind) = line.split_once(" - ")?;
    let mut kind = kind.split(' ');
    if kind.next() != Some("tmpfs") || kind.next() != Some(name) {
        return None;
    }
    mount.split(' ').nth(4).map(|at| at.replace("\\040", " ").into())
}

/// Moves this thread to the mount namespace of the process that listens at a socket.
fn enter_mount_namespace_of(socket: &Path) -> io::Result<()> {
    let listener = socket_peercred(UnixStream::connect(socket)?)?.pid;
    let mounts = File::open(format!("/proc/{}/ns/mnt", listener.as_raw_nonzero()))?;
    unshare(CloneFlags::CLONE_FS)?;
    setns(mounts, CloneFlags::CLONE_NEWNS)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tmpfs_is_known_by_its_name() {
        let line = "98 1 0:45 / /var/lib/a\\040b rw,relatime shared:3 - tmpfs memory rw,size=1k";
        assert_eq!(mount_point_of(line, "memory"), Some("/var/lib/a b".into()));
        assert_eq!(mount_point_of(line, "other"), None);
        assert_eq!(mount_point_of("98 1 0:45 / /a rw - ext4 memory rw", "memory"), None);
        assert_eq!(mount_point_of("", "memory"), None);
    }

    #[test]
    fn detaching_what_is_not_attached_is_no_error() {
        detach(Path::new("/no/such/place")).unwrap();
    }
}
