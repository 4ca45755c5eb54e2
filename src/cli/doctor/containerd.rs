//! Checks containerd, and the runc that it starts containers with.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::time::timeout;

use super::check_result::CheckResult;
use super::known_holes;
use super::tool::{ToolResult, run, version};
use crate::runtime::containerd_process::ContainerdProcess;

/// How long the socket may take to accept a connection.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// The oldest supported version: the first that pulls images by itself, with its transfer service.
const MIN_VERSION: (u32, u32) = (1, 7);

/// Checks the containerd at `address`. `needed` says whether the configured mode uses it. Also returns what is known of
/// its process.
pub(super) async fn check(address: &Path, needed: bool) -> (Vec<CheckResult>, ContainerdProcess) {
    let connected = match timeout(CONNECT_DEADLINE, UnixStream::connect(address)).await {
        Ok(connected) => connected,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    };
    let reached = connected.as_ref().map(|_| ()).map_err(ToString::to_string);
    let containerd =
        connected.ok().map_or_else(ContainerdProcess::unknown, |stream| ContainerdProcess::of_peer(&stream));
    let program = program(&containerd);
    let output = match &program {
        Some(program) => Some(run(program, &["--version"]).await),
        None => None,
    };
    let mut results = vec![judge_socket(address, &reached, needed)];
    results.extend(output.as_ref().map(|output| judge_version(output, needed)));
    results.extend(known_holes::of_containerd(output.as_ref()));
    let runc = match containerd.find_program("runc") {
        Some(runc) => Some(run(&runc, &["--version"]).await),
        None => None,
    };
    results.push(judge_runc(runc.as_ref(), reached.is_ok(), needed));
    results.extend(known_holes::of_runc(runc.as_ref()));
    (results, containerd)
}

/// Returns the program of the running containerd, else the one that would be started.
fn program(containerd: &ContainerdProcess) -> Option<PathBuf> {
    let running = containerd.pid.and_then(|pid| fs::read_link(format!("/proc/{pid}/exe")).ok());
    // A program of another name is a test's replacement, which has no version to ask for.
    let named = |path: &PathBuf| path.file_name().is_some_and(|name| name == "containerd");
    running.filter(named).or_else(|| containerd.find_program("containerd"))
}

fn judge_socket(address: &Path, reached: &Result<(), String>, needed: bool) -> CheckResult {
    const CHECK: &str = "containerd";
    let address = address.display();
    match reached {
        Ok(()) => CheckResult::ok(CHECK, format!("reachable at {address}")),
        Err(why) => CheckResult::missing(
            CHECK,
            needed,
            format!("not reachable at {address}: {why}"),
            "start containerd (systemctl start containerd), or set CONTAINERD_ADDRESS to its socket",
        ),
    }
}

fn judge_version(output: &ToolResult, needed: bool) -> CheckResult {
    const CHECK: &str = "containerd version";
    let remedy = format!("install containerd {}.{} or newer, best 2.x", MIN_VERSION.0, MIN_VERSION.1);
    match output {
        ToolResult::Succeeded(output) => match version(output) {
            Some(version) if version < MIN_VERSION => {
                CheckResult::missing(CHECK, needed, first_line(output), remedy)
            }
            Some((major, minor)) => CheckResult::ok(CHECK, format!("{major}.{minor}")),
            None => CheckResult::warning(CHECK, format!("unknown: {}", first_line(output)), remedy),
        },
        ToolResult::Failed(why) => CheckResult::warning(CHECK, format!("unknown: {why}"), remedy),
    }
}

/// A running containerd may have a runc in a folder that this process cannot see, so a missing runc is then a warning.
fn judge_runc(output: Option<&ToolResult>, reached: bool, needed: bool) -> CheckResult {
    const CHECK: &str = "runc";
    const REMEDY: &str = "install runc where containerd finds it (its PATH)";
    match output {
        Some(ToolResult::Succeeded(output)) => CheckResult::ok(CHECK, first_line(output)),
        Some(ToolResult::Failed(why)) => {
            CheckResult::missing(CHECK, needed, format!("does not run: {why}"), REMEDY)
        }
        None => CheckResult::missing(CHECK, needed && !reached, "not found in PATH", REMEDY),
    }
}

fn first_line(output: &str) -> &str {
    output.lines().next().unwrap_or_default().trim()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::Verdict;

    fn well(output: &str) -> ToolResult {
        ToolResult::Succeeded(output.to_owned())
    }

    #[test]
    fn a_missing_socket_is_named_and_fails_only_where_it_is_needed() {
        let refused = Err("Connection refused".to_owned());
        let judged = judge_socket(Path::new("/run/c.sock"), &refused, true);
        assert_eq!(judged.verdict, Verdict::Failed);
        assert!(judged.found.contains("/run/c.sock") && judged.found.contains("refused"));
        assert_eq!(judge_socket(Path::new("/run/c.sock"), &refused, false).verdict, Verdict::Warning);
        assert_eq!(judge_socket(Path::new("/run/c.sock"), &Ok(()), true).verdict, Verdict::Ok);
    }

    #[test]
    fn an_old_containerd_fails_and_an_unknown_version_is_a_warning() {
        let judged = |output: &str| judge_version(&well(output), true).verdict;
        assert_eq!(judged("containerd github.com/containerd/containerd/v2 2.1.9+unknown "), Verdict::Ok);
        assert_eq!(judged("containerd github.com/containerd/containerd v1.7.0 x"), Verdict::Ok);
        assert_eq!(judged("containerd github.com/containerd/containerd 1.6.20~ds1 x"), Verdict::Failed);
        assert_eq!(judged("containerd"), Verdict::Warning);
        assert_eq!(judge_version(&ToolResult::Failed("x".to_owned()), true).verdict, Verdict::Warning);
    }

    #[test]
    fn a_runc_that_is_not_found_may_still_be_visible_to_containerd() {
        assert_eq!(
            judge_runc(Some(&well("runc version 1.3.6\ncommit: x")), true, true).found,
            "runc version 1.3.6"
        );
        assert_eq!(judge_runc(None, true, true).verdict, Verdict::Warning);
        assert_eq!(judge_runc(None, false, true).verdict, Verdict::Failed);
        assert_eq!(
            judge_runc(Some(&ToolResult::Failed("x".to_owned())), true, true).verdict,
            Verdict::Failed
        );
    }

    #[tokio::test]
    async fn the_process_that_listens_at_the_socket_is_found() {
        let folder = std::env::temp_dir().join(format!("try-it-now-doctor-{}", uuid::Uuid::now_v7()));
        fs::create_dir_all(&folder).unwrap();
        let socket = folder.join("c.sock");
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let (results, containerd) = check(&socket, true).await;
        assert_eq!(containerd.pid, Some(std::process::id() as i32));
        assert_eq!((results[0].check, results[0].verdict), ("containerd", Verdict::Ok));
        drop(listener);
        fs::remove_dir_all(&folder).unwrap();
        let (results, containerd) = check(&socket, true).await;
        assert_eq!((containerd.pid, results[0].verdict), (None, Verdict::Failed));
    }
}
