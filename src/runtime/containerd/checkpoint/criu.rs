//! Finds CRIU, without which no instance can be frozen or restored.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::process::Command;

use crate::runtime::containerd_process::ContainerdProcess;

/// Maximum time until CRIU has printed its version.
const VERSION_TIMEOUT: Duration = Duration::from_secs(5);

/// Returns the version of the CRIU that the containerd at this socket would run; `None` if there is none that works.
pub(crate) async fn version(socket: &Path) -> Option<String> {
    let stream = UnixStream::connect(socket).await.ok()?;
    let criu = ContainerdProcess::of_peer(&stream).find_program("criu")?;
    let mut command = Command::new(criu);
    command.arg("--version").stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(VERSION_TIMEOUT, command.output()).await.ok()?.ok()?;
    if !output.status.success() {
        return None;
    }
    let text = String::from_utf8(output.stdout).ok()?;
    text.lines().find_map(|line| line.strip_prefix("Version:")).map(|version| version.trim().to_owned())
}
