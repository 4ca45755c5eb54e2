//! Runs external tools with a deadline, and reads their versions.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

/// How long a tool may run.
const DEADLINE: Duration = Duration::from_secs(10);

/// How a tool ended.
#[derive(Debug)]
pub(super) enum ToolResult {
    /// It exited with status 0; its standard output.
    Succeeded(String),
    /// It failed; the last line of its standard error, or the system's error.
    Failed(String),
}

/// Runs a tool until it ends, or until the deadline, at which it is killed.
pub(super) async fn run(program: &Path, arguments: &[&str]) -> ToolResult {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    match timeout(DEADLINE, command.output()).await {
        Err(_) => ToolResult::Failed(format!("no answer within {} s", DEADLINE.as_secs())),
        Ok(Err(error)) => ToolResult::Failed(error.to_string()),
        Ok(Ok(output)) if output.status.success() => {
            ToolResult::Succeeded(String::from_utf8_lossy(&output.stdout).into_owned())
        }
        Ok(Ok(output)) => {
            let errors = String::from_utf8_lossy(&output.stderr).into_owned();
            let last = errors.lines().rfind(|line| !line.trim().is_empty());
            ToolResult::Failed(last.map_or_else(|| output.status.to_string(), |line| line.trim().to_owned()))
        }
    }
}

/// Returns the first major and minor number with a dot between them.
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
    fn versions_are_found_in_the_output_of_tools() {
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
    async fn the_result_has_the_output_or_the_last_line_of_the_errors() {
        let shell = |script| async move { run(Path::new("/bin/sh"), &["-c", script]).await };
        assert!(matches!(shell("echo a").await, ToolResult::Succeeded(output) if output == "a\n"));
        assert!(
            matches!(shell("echo a >&2; echo b >&2; exit 1").await, ToolResult::Failed(why) if why == "b")
        );
        assert!(matches!(shell("exit 3").await, ToolResult::Failed(why) if why.contains('3')));
        assert!(matches!(run(Path::new("/nowhere"), &[]).await, ToolResult::Failed(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_tool_that_hangs_is_killed_at_the_deadline() {
        // The clock is paused, so the deadline passes at once.
        let result = run(Path::new("/bin/sh"), &["-c", "exec sleep 600"]).await;
        assert!(matches!(result, ToolResult::Failed(why) if why.contains("no answer")));
    }
}
