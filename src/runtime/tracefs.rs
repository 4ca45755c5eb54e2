//! The kernel's tracing file system, mounted for this process alone, because a host need not have it mounted.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

/// The initial process id namespace. Only there the kernel's process numbers are those that this server sees.
const INITIAL_PID_NAMESPACE: &str = "pid:[4026531836]";

/// A mount of tracefs, removed when it is dropped.
#[derive(Debug)]
pub struct Tracefs(OwnedFd);

impl Tracefs {
    /// Mounts tracefs where only this process sees it.
    ///
    /// # Errors
    /// The kernel has no tracing or denies it to this process, or this process runs in a process id namespace of its
    /// own.
    pub fn mount() -> io::Result<Self> {
        if fs::read_link("/proc/self/ns/pid")? != Path::new(INITIAL_PID_NAMESPACE) {
            return Err(io::Error::other(
                "this server has a process id namespace of its own, as in a container",
            ));
        }
        let context = fsopen("tracefs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_create(&context)?;
        let tracefs = Self(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?);
        let events = tracefs.path().join("events/syscalls");
        fs::metadata(events).map_err(|_| io::Error::other("the kernel lacks CONFIG_FTRACE_SYSCALLS"))?;
        Ok(tracefs)
    }

    /// Returns the path of the mount, valid in this process.
    pub fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.0.as_raw_fd()).into()
    }
}
