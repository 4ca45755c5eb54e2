//! What CRIU cannot freeze: found before the freeze where CRIU would wait for ever, else explained from CRIU's log.

use std::fs;

/// What a line of CRIU's log contains, and what that means for the app and its image. The texts are those of CRIU 4.
const KNOWN_ERRORS: [(&str, &str); 8] = [
    (
        "ctty inheritance detected",
        "a shell has its terminal open: close the terminal before the bake, or open it after",
    ),
    (
        "Can't get rlimit",
        "a process runs as another user than root, which this host can freeze only with CAP_SYS_RESOURCE",
    ),
    ("state D", "a process waits in the kernel, for a disk or for a child that it started with vfork"),
    ("Control messages in queue", "a UNIX socket has unread messages with the sender's identity"),
    ("increase limit", "a deleted file that is still open has more than 1 GiB"),
    ("Can't dump that handle", "an app watches files of a file system that gives no handles for them"),
    ("Can't lookup mount", "a file of a POSIX message queue, or of an unmounted folder, is open"),
    ("Unknown shit", "a process has a kind of file open that CRIU does not know"),
];

/// Returns a sentence about the first of these processes that is stopped, by SIGSTOP or a terminal. CRIU would wait for
/// ever for it to stop once more.
pub(super) fn describe_stopped(processes: &[u32]) -> Option<String> {
    processes.iter().find_map(|pid| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
        let is_stopped = rest.trim_start().starts_with(['T', 't']);
        is_stopped.then(|| {
            format!("its process {name} is stopped (SIGSTOP, or Ctrl-Z in a terminal): continue or end it before the bake")
        })
    })
}

/// Returns what the errors in CRIU's log mean, followed by the errors themselves.
pub(super) fn explain(log: &str) -> String {
    let errors: Vec<&str> = log.lines().filter(|line| line.contains("Error")).collect();
    let known = KNOWN_ERRORS.iter().find(|(text, _)| errors.iter().any(|error| error.contains(text)));
    let meaning = known.map_or(String::new(), |(_, meaning)| format!("{meaning}; "));
    format!("{meaning}errors of CRIU: {}", errors.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_error_is_explained_and_an_unknown_one_is_shown() {
        let log = "(0.1) Info\n(0.2) Error (criu/tty.c:1): tty: ctty inheritance detected sid/pgrp 7\n";
        let text = explain(log);
        assert!(text.starts_with("a shell has its terminal open"), "{text}");
        assert!(text.ends_with("detected sid/pgrp 7") && !text.contains("Info"), "{text}");
        assert_eq!(explain("(1) Error (x): new"), "errors of CRIU: (1) Error (x): new");
    }

    #[test]
    fn a_process_that_runs_is_not_stopped() {
        assert_eq!(describe_stopped(&[std::process::id(), u32::MAX]), None);
    }
}
