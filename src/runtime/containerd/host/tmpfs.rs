//! A file system in memory that is held as a descriptor, and that containerd sees wherever it is attached, whichever
//! mounts this server sees.

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

use crate::runtime::blocking::apart;

/// What the system calls a tmpfs.
const MAGIC: i64 = 0x0102_1994;

/// See the module.
#[derive(Debug)]
pub(crate) struct Tmpfs(OwnedFd);

impl Tmpfs {
    /// An empty one for that many bytes and files, by a name that the list of mounts shows.
    pub(crate) fn make(name: &str, bytes: u64, files: u64) -> io::Result<Self> {
        let draft = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_set_string(&draft, "source", name)?;
        fsconfig_set_string(&draft, "size", bytes.to_string())?;
        fsconfig_set_string(&draft, "nr_inodes", files.to_string())?;
        fsconfig_create(&draft)?;
        Ok(Self(fsmount(&draft, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?))
    }

    /// The one that containerd sees at `at`.
    ///
    /// # Errors
    /// `NotFound`, too, where there is none.
    pub(crate) async fn find(containerd: &Path, at: &Path) -> io::Result<Self> {
        let (containerd, at) = (containerd.to_owned(), at.to_owned());
        apart("find a tmpfs", move || {
            enter_mounts_of(&containerd)?;
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let found = open(&at, flags, Mode::empty())?;
            match fstatfs(&found)?.f_type == MAGIC {
                true => Ok(Self(found)),
                false => Err(io::ErrorKind::NotFound.into()),
            }
        })
        .await
    }

    /// Bytes that it holds.
    pub(crate) fn held(&self) -> io::Result<u64> {
        let found = fstatfs(&self.0)?;
        let blocks = found.f_blocks.saturating_sub(found.f_bfree);
        Ok(blocks.saturating_mul(u64::try_from(found.f_bsize).unwrap_or(0)))
    }

    pub(crate) fn path(&self) -> PathBuf {
        // Not `self`: it is told to other processes, too.
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd()).into()
    }

    /// Mounts it at `at`, an empty folder, where containerd sees it.
    pub(crate) async fn attach(self: &Arc<Self>, containerd: &Path, at: &Path) -> io::Result<()> {
        let (tmpfs, containerd, at) = (self.clone(), containerd.to_owned(), at.to_owned());
        apart("attach a tmpfs", move || {
            enter_mounts_of(&containerd)?;
            Ok(move_mount(&tmpfs.0, "", CWD, at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
        })
        .await
    }
}

/// Unmounts what is attached there, if anything is, and removes the folder. What others have mounted of it stays theirs.
pub(crate) fn detach(at: &Path) -> io::Result<()> {
    match unmount(at, UnmountFlags::DETACH) {
        // Either it is not mounted, or where only containerd sees it; then it goes with the folder.
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    match fs::remove_dir(at) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Unmounts all of that name that containerd sees, and returns where they were.
pub(crate) async fn detach_all(containerd: &Path, name: &'static str) -> io::Result<Vec<PathBuf>> {
    let containerd = containerd.to_owned();
    apart("detach all of a name", move || {
        enter_mounts_of(&containerd)?;
        let mounts = fs::read_to_string("/proc/thread-self/mountinfo")?;
        let found: Vec<PathBuf> = mounts.lines().filter_map(|line| place_of(line, name)).collect();
        found.iter().try_for_each(|at| unmount(at, UnmountFlags::DETACH))?;
        Ok(found)
    })
    .await
}

/// Where a line of the list of mounts has a tmpfs of that name.
fn place_of(line: &str, name: &str) -> Option<PathBuf> {
    let (mount, kind) = line.split_once(" - ")?;
    let mut kind = kind.split(' ');
    if kind.next() != Some("tmpfs") || kind.next() != Some(name) {
        return None;
    }
    mount.split(' ').nth(4).map(|at| at.replace("\\040", " ").into())
}

/// From now on this thread sees the mounts that whoever listens at a socket sees.
fn enter_mounts_of(socket: &Path) -> io::Result<()> {
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
        let line = "98 1 0:45 / /var/lib/a\\040b rw,relatime shared:3 - tmpfs golden rw,size=1k";
        assert_eq!(place_of(line, "golden"), Some("/var/lib/a b".into()));
        assert_eq!(place_of(line, "other"), None);
        assert_eq!(place_of("98 1 0:45 / /a rw - ext4 golden rw", "golden"), None);
        assert_eq!(place_of("", "golden"), None);
    }

    #[test]
    fn what_is_not_attached_is_detached_already() {
        detach(Path::new("/no/such/place")).unwrap();
    }
}
