//! Looking at the host's processes and signalling them, without ever hitting another one that got the same
//! number meanwhile.

use std::fs;
use std::path::PathBuf;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// What matters here of `/proc/PID/stat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stat {
    /// The parent's number; 0 for the first process.
    pub(super) parent: i32,
    /// Whether it has a controlling terminal, and so belongs to a person at work.
    pub(super) terminal: bool,
    /// Whether it has ended and waits for its parent to notice.
    pub(super) ended: bool,
}

/// Reads about a process; `None` when there is none of that number.
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
    Some(Stat { parent, terminal: terminal != 0, ended: matches!(state, "Z" | "X") })
}

/// A file of `/proc/PID`.
pub(super) fn proc_file(pid: Pid, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{}/{name}", pid.as_raw_nonzero()))
}

/// All processes of the host, as far as we may see them.
pub(super) fn all() -> Vec<Pid> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(Pid::from_raw)
        .collect()
}

/// The living and ended children of a process, adopted ones too.
pub(super) fn children(pid: Pid) -> Vec<Pid> {
    by_thread(pid).unwrap_or_else(|| by_scan(pid))
}

/// `None` when this kernel does not list children; empty when the process is gone.
fn by_thread(pid: Pid) -> Option<Vec<Pid>> {
    let mut found = Vec::new();
    // A process that is gone has no children; they have another parent now.
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

/// Sends a signal to the process of this number, if it is the one meant. Its number is held fast before it is
/// looked at, so no other process can be hit. Says whether it was sent.
pub(super) fn signal(pid: Pid, signal: Signal, meant: impl FnOnce() -> bool) -> bool {
    pidfd_open(pid, PidfdFlags::empty())
        .is_ok_and(|process| meant() && pidfd_send_signal(&process, signal).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_stat_line_is_read_whatever_the_program_is_called() {
        let line = "42 (a) Z 1 (b) S 7 42 42 34816 50 4194304 1 0";
        let expected = Stat { parent: 7, terminal: true, ended: false };
        assert_eq!(parse_stat(line), Some(expected));
        assert_eq!(parse_stat("42 (x) Z 7 42 42 0 -1").map(|s| (s.terminal, s.ended)), Some((false, true)));
        assert_eq!(parse_stat("garbage"), None);
    }

    #[test]
    fn both_ways_to_find_children_agree() {
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
    fn a_process_that_is_not_meant_is_not_hit() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        assert!(!signal(Pid::from_child(&child), Signal::KILL, || false));
        assert!(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
