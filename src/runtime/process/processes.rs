//! Finds processes of the host and signals them, without ever signalling another process that got the same number in
//! the meantime.

use std::fs;
use std::path::PathBuf;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// The fields of `/proc/PID/stat` that this runtime needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stat {
    /// Number of the parent; 0 for the first process.
    pub(super) parent: i32,
    /// Whether the process has a controlling terminal, and so belongs to a person who works in a shell.
    pub(super) has_terminal: bool,
    /// Whether it has ended and waits to be reaped.
    pub(super) has_ended: bool,
}

/// Returns the state of a process; `None` if there is no process of that number.
pub(super) fn stat(pid: Pid) -> Option<Stat> {
    parse_stat(&fs::read_to_string(proc_file(pid, "stat")).ok()?)
}

fn parse_stat(text: &str) -> Option<Stat> {
    // The program's name comes second, in parentheses, and may hold anything.
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    let terminal: i32 = fields.nth(2)?.parse().ok()?;
    Some(Stat { parent, has_terminal: terminal != 0, has_ended: matches!(state, "Z" | "X") })
}

/// Returns the path of a file in `/proc/PID`.
pub(super) fn proc_file(pid: Pid, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{}/{name}", pid.as_raw_nonzero()))
}

/// Returns all processes of the host that this process may see.
pub(super) fn all() -> Vec<Pid> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(Pid::from_raw)
        .collect()
}

/// Returns the children of a process that are not reaped yet, adopted ones too.
pub(super) fn children(pid: Pid) -> Vec<Pid> {
    by_thread(pid).unwrap_or_else(|| by_scan(pid))
}

/// Returns `None` if this kernel does not list children; an empty list if the process is gone.
fn by_thread(pid: Pid) -> Option<Vec<Pid>> {
    let mut found = Vec::new();
    // A process that is gone has no children: they have another parent now.
    for thread in fs::read_dir(proc_file(pid, "task")).into_iter().flatten().flatten() {
        let list = thread.path().join("children");
        match fs::read_to_string(&list) {
            Ok(text) => found.extend(
                text.split_ascii_whitespace().filter_map(|n| n.parse().ok()).filter_map(Pid::from_raw),
            ),
            Err(_) if thread.path().exists() && !list.exists() => return None,
            Err(_) => {}
        }
    }
    Some(found)
}

fn by_scan(parent: Pid) -> Vec<Pid> {
    let parent = parent.as_raw_nonzero().get();
    all().into_iter().filter(|pid| stat(*pid).is_some_and(|s| s.parent == parent)).collect()
}

/// Sends a signal to the process of this number if `is_target` confirms it. A pidfd pins the process before the check,
/// so the signal cannot reach another process that gets the same number. Returns whether the signal was sent.
pub(super) fn signal(pid: Pid, signal: Signal, is_target: impl FnOnce() -> bool) -> bool {
    pidfd_open(pid, PidfdFlags::empty())
        .is_ok_and(|process| is_target() && pidfd_send_signal(&process, signal).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_stat_line_is_parsed_for_every_name_of_a_program() {
        let line = "42 (a) Z 1 (b) S 7 42 42 34816 50 4194304 1 0";
        let expected = Stat { parent: 7, has_terminal: true, has_ended: false };
        assert_eq!(parse_stat(line), Some(expected));
        assert_eq!(
            parse_stat("42 (x) Z 7 42 42 0 -1").map(|s| (s.has_terminal, s.has_ended)),
            Some((false, true))
        );
        assert_eq!(parse_stat("garbage"), None);
    }

    #[test]
    fn both_methods_to_find_children_agree() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let pid = Pid::from_child(&child);
        let own = rustix::process::getpid();
        assert!(by_scan(own).contains(&pid));
        assert!(by_thread(own).is_none_or(|found| found.contains(&pid)));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!children(own).contains(&pid));
    }

    #[test]
    fn a_process_that_is_not_the_target_is_not_signalled() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        assert!(!signal(Pid::from_child(&child), Signal::KILL, || false));
        assert!(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
