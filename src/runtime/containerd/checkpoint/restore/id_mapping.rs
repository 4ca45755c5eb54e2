//! Mounts whose files belong to the ids of an instance.
//!
//! This is the only unsafe code of the program. No crate has a safe call for either of the two system calls: a process in a
//! new user namespace can only be made by a fork or by another program, whose start takes ten times as long, and
//! `mount_setattr` is in no wrapper of system calls. containerd's shim makes such mounts too, by a process of its own for
//! each layer, which takes a tenth of a restore.
#![allow(unsafe_code)]

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use rustix::pipe::{PipeFlags, pipe_with};

use crate::runtime::containerd::host::id_ranges::IDS;

/// The ids of an instance, which exist as long as this does.
pub(super) struct IdMapping(File);

impl IdMapping {
    /// Returns the mapping of the instance whose ids begin at `first` on this host. The calling process must have one
    /// thread only.
    ///
    /// # Errors
    /// The kernel refuses user namespaces.
    pub(super) fn new(first: u32) -> io::Result<Self> {
        let holder = NamespaceHolder::start()?;
        let of_holder = |file: &str| format!("/proc/{}/{file}", holder.pid);
        let mapping = format!("0 {first} {IDS}");
        fs::write(of_holder("uid_map"), &mapping)?;
        fs::write(of_holder("gid_map"), &mapping)?;
        Ok(Self(File::open(of_holder("ns/user"))?))
    }

    /// Gives the files of a mount, which is not in use yet, the ids of the instance.
    ///
    /// # Errors
    /// Its file system cannot do it, or the mount has ids already.
    pub(super) fn apply(&self, mount: &OwnedFd) -> io::Result<()> {
        let attributes = libc::mount_attr {
            attr_set: libc::MOUNT_ATTR_IDMAP,
            attr_clr: 0,
            propagation: 0,
            userns_fd: u64::try_from(self.0.as_raw_fd()).map_err(io::Error::other)?,
        };
        // SAFETY: the kernel only reads the empty path and the attributes, whose size it is given, and both live until
        // the call returns.
        let result = unsafe {
            libc::syscall(
                libc::SYS_mount_setattr,
                mount.as_raw_fd(),
                c"".as_ptr(),
                libc::AT_EMPTY_PATH,
                &raw const attributes,
                size_of::<libc::mount_attr>(),
            )
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

/// A process in a user namespace of its own, which does nothing and ends with this.
struct NamespaceHolder {
    pid: Pid,
    /// The process ends when this is closed, also if this program is killed.
    _lifeline: OwnedFd,
}

impl NamespaceHolder {
    fn start() -> io::Result<Self> {
        let (end, lifeline) = pipe_with(PipeFlags::CLOEXEC)?;
        match clone_into_user_namespace()? {
            Some(pid) => Ok(Self { pid, _lifeline: lifeline }),
            None => wait_for_end(end.as_fd(), lifeline.as_fd()),
        }
    }
}

impl Drop for NamespaceHolder {
    fn drop(&mut self) {
        let _ = kill(self.pid, Signal::SIGKILL);
        let _ = waitpid(self.pid, None);
    }
}

/// Makes a copy of this process in a new user namespace. Returns its number to this process, and `None` to the copy.
fn clone_into_user_namespace() -> io::Result<Option<Pid>> {
    let (flags, none): (libc::c_long, libc::c_long) = ((libc::CLONE_NEWUSER | libc::SIGCHLD).into(), 0);
    // SAFETY: without a stack and without shared memory this is a fork. The process has one thread, so the copy's memory
    // is consistent, and the copy makes only the system calls of `wait_for_end`.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, none, none, none, none) };
    match pid {
        0 => Ok(None),
        pid if pid > 0 => Ok(Some(Pid::from_raw(i32::try_from(pid).map_err(io::Error::other)?))),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Ends this process, without any of its destructors, once no process can write to the pipe any more.
fn wait_for_end(end: BorrowedFd<'_>, own_lifeline: BorrowedFd<'_>) -> ! {
    let mut byte = 0_u8;
    // SAFETY: the copy of the process does nothing else, so no other code uses the descriptor that is closed, and the
    // buffer has the one byte that is read.
    unsafe {
        libc::close(own_lifeline.as_raw_fd());
        libc::read(end.as_raw_fd(), (&raw mut byte).cast(), 1);
        libc::_exit(0)
    }
}
