//! Whether this host can freeze and restore.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::process::Command;

use crate::runtime::containerd_process::Daemon;

/// Longest time to say a version.
const PATIENCE: Duration = Duration::from_secs(5);

/// The version of the CRIU that the containerd at this socket finds; `None` when there is none that works.
pub(crate) async fn version(socket: &Path) -> Option<String> {
    let stream = UnixStream::connect(socket).await.ok()?;
    let criu = Daemon::behind(&stream).find("criu")?;
    let mut command = Command::new(criu);
    command.arg("--version").stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(PATIENCE, command.output()).await.ok()?.ok()?;
    if !output.status.success() {
        return None;
    }
    let text = String::from_utf8(output.stdout).ok()?;
    text.lines().find_map(|line| line.strip_prefix("Version:")).map(|version| version.trim().to_owned())
}
