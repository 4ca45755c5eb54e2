//! Ending all that an app has started, however it hid.
//!
//! The caller is a child subreaper: whatever loses its parent becomes its child. So when it has no child, it has
//! no descendant.

use std::collections::HashSet;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, getpid, wait, waitpid};

use super::processes;

/// A tree that still grows after so many looks is killed as far as it is known, and then looked at again.
const LOOKS: usize = 64;

/// Ends every descendant of this process. Returns when there is none. Every child is reaped here, so no other
/// code of the process may wait for one.
pub(super) fn end_all() {
    while reap() {
        let found = stop_all();
        // Leaves first: a child's parent is then the one that it was found with.
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

/// Takes note of ended children without waiting. Says whether there are others.
fn reap() -> bool {
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) => return true,
            Err(_) => return false,
        }
    }
}

/// Stops every descendant, so that none can start another while it is being killed, and returns them with their
/// parents, parents first.
fn stop_all() -> Vec<(Pid, Pid)> {
    let mut found = Vec::new();
    let mut known = HashSet::new();
    for _ in 0..LOOKS {
        let before = known.len();
        let mut look_at = vec![getpid()];
        while let Some(parent) = look_at.pop() {
            // A parent is stopped before its children are listed, so few escape the list.
            for pid in processes::children(parent) {
                if known.insert(pid) {
                    signal_child(pid, parent, Signal::STOP);
                    found.push((pid, parent));
                }
                look_at.push(pid);
            }
        }
        if known.len() == before {
            break;
        }
    }
    found
}

fn signal_child(pid: Pid, parent: Pid, signal: Signal) {
    let is_child = || processes::stat(pid).is_some_and(|s| s.parent == parent.as_raw_nonzero().get());
    processes::signal(pid, signal, is_child);
}
