//! Other people's programs: run with a deadline, their versions read.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(10);

/// How a program ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// With status 0, and its standard output.
    Well(String),
    /// Otherwise, and why: the last line that it wrote, or what the system said.
    Badly(String),
}

/// Runs a program to its end or to its deadline, when it is killed.
pub(super) async fn run(program: &Path, arguments: &[&str]) -> Ended {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    match timeout(PATIENCE, command.output()).await {
        Err(_) => Ended::Badly(format!("no answer within {} s", PATIENCE.as_secs())),
        Ok(Err(error)) => Ended::Badly(error.to_string()),
        Ok(Ok(output)) if output.status.success() => {
            Ended::Well(String::from_utf8_lossy(&output.stdout).into_owned())
        }
        Ok(Ok(output)) => {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            let last = said.lines().rfind(|line| !line.trim().is_empty());
            Ended::Badly(last.map_or_else(|| output.status.to_string(), |line| line.trim().to_owned()))
        }
    }
}

/// The first major and minor number with a dot between.
pub(super) fn version(text: &str) -> Option<(u32, u32)> {
    let numbers = text.split(|c: char| !(c.is_ascii_digit() || c == '.'));
    numbers.into_iter().find_map(|number| {
        let mut parts = number.split('.');
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_programs_say() {
        for (text, found) in [
            ("Version: 4.2.1\nGitID: x", Some((4, 2))),
            ("containerd github.com/containerd/containerd/v2 2.1.9+unknown ", Some((2, 1))),
            ("containerd github.com/containerd/containerd v1.7.24~ds1 9", Some((1, 7))),
            ("runc version 1.3.6+ds1\ncommit: 1.3.6", Some((1, 3))),
            ("6.18.44-fc-v669", Some((6, 18))),
            ("4", None),
            ("no. 99999999999.1", None),
            ("", None),
        ] {
            assert_eq!(version(text), found, "{text}");
        }
    }

    #[tokio::test]
    async fn how_a_program_ended_is_told() {
        let shell = |script| async move { run(Path::new("/bin/sh"), &["-c", script]).await };
        assert!(matches!(shell("echo a").await, Ended::Well(said) if said == "a\n"));
        assert!(matches!(shell("echo a >&2; echo b >&2; exit 1").await, Ended::Badly(why) if why == "b"));
        assert!(matches!(shell("exit 3").await, Ended::Badly(why) if why.contains('3')));
        assert!(matches!(run(Path::new("/nowhere"), &[]).await, Ended::Badly(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_program_that_hangs_is_given_up() {
        // The clock is paused, so that the deadline is at once.
        let ended = run(Path::new("/bin/sh"), &["-c", "exec sleep 600"]).await;
        assert!(matches!(ended, Ended::Badly(why) if why.contains("no answer")));
    }
}
