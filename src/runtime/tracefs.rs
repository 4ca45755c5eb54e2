//! The kernel's tracing, mounted for this process alone, since a host need not have it mounted.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

/// The first namespace of process numbers. Only there the kernel's numbers are ours.
const FIRST_PROCESSES: &str = "pid:[4026531836]";

/// The mount. Dropped, it is gone.
#[derive(Debug)]
pub struct Tracefs(OwnedFd);

impl Tracefs {
    /// Mounts it, and changes nothing else.
    ///
    /// # Errors
    /// The kernel has none, or does not let this process have it; or this process has other numbers for processes than
    /// the kernel.
    pub fn open() -> io::Result<Self> {
        if fs::read_link("/proc/self/ns/pid")? != Path::new(FIRST_PROCESSES) {
            return Err(io::Error::other("this server has process numbers of its own, as in a container"));
        }
        let draft = fsopen("tracefs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_create(&draft)?;
        let tracefs = Self(fsmount(&draft, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?);
        let events = tracefs.path().join("events/syscalls");
        fs::metadata(events).map_err(|_| io::Error::other("the kernel lacks CONFIG_FTRACE_SYSCALLS"))?;
        Ok(tracefs)
    }

    /// Where it is, for this process.
    pub fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.0.as_raw_fd()).into()
    }
}
