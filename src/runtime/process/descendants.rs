//! Kills all processes that an app has started, whether or not they detached themselves.
//!
//! The caller must be a child subreaper: a process that loses its parent becomes a child of the caller. So when the
//! caller has no child, it has no descendant.

use std::collections::HashSet;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, getpid, wait, waitpid};

use super::processes;

/// Most scans of a process tree that still grows. After these the known processes are killed and the tree is scanned
/// again.
const MAX_SCANS: usize = 64;

/// Kills every descendant of this process and returns when there is none. It reaps every child, so no other code of
/// this process may wait for one.
pub(super) fn kill_all() {
    while reap() {
        let found = stop_all();
        // Leaves first: then the parent of a process is still the one with which it was found.
        for (pid, parent) in found.iter().rev() {
            signal_child(*pid, *parent, Signal::KILL);
        }
        for (pid, parent) in found {
            if parent == getpid() {
                let _ = waitpid(Some(pid), WaitOptions::empty());
            }
        }
    }
}

/// Reaps children that have ended, without waiting. Returns whether there are other children.
fn reap() -> bool {
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) => return true,
            Err(_) => return false,
        }
    }
}

/// Stops every descendant with SIGSTOP, so that none can start another process while they are killed. Returns them with
/// their parents, parents first.
fn stop_all() -> Vec<(Pid, Pid)> {
    let mut found = Vec::new();
    let mut known = HashSet::new();
    for _ in 0..MAX_SCANS {
        let before = known.len();
        let mut to_scan = vec![getpid()];
        while let Some(parent) = to_scan.pop() {
            // A parent is stopped before its children are listed, so few escape the list.
            for pid in processes::children(parent) {
                if known.insert(pid) {
                    signal_child(pid, parent, Signal::STOP);
                    found.push((pid, parent));
                }
                to_scan.push(pid);
            }
        }
        if known.len() == before {
            break;
        }
    }
    found
}

fn signal_child(pid: Pid, parent: Pid, signal: Signal) {
    let is_child = || processes::stat(pid).is_some_and(|stat| stat.parent == parent.as_raw_nonzero().get());
    processes::signal(pid, signal, is_child);
}
