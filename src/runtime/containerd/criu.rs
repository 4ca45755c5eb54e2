//! Whether this host can freeze and restore.

use std::ffi::OsStr;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

/// Longest time to say a version.
const PATIENCE: Duration = Duration::from_secs(5);

/// CRIU's version, as the program in `path`, or else in this process's `PATH`, says; `None` when there is none that works.
pub(super) async fn version(path: Option<&OsStr>) -> Option<String> {
    let mut command = Command::new("criu");
    command.arg("--version").stdin(Stdio::null()).kill_on_drop(true);
    if let Some(path) = path {
        command.env("PATH", path);
    }
    let output = tokio::time::timeout(PATIENCE, command.output()).await.ok()?.ok()?;
    if !output.status.success() {
        return None;
    }
    let text = String::from_utf8(output.stdout).ok()?;
    text.lines().find_map(|line| line.strip_prefix("Version:")).map(|version| version.trim().to_owned())
}
