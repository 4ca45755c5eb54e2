//! Runs external tools with a deadline, and reads their versions.

pub(super) use crate::runtime::version;
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

#[cfg(test)]
mod tests {
    use super::*;

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
