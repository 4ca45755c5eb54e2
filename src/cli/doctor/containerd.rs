//! containerd and what it starts containers with.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::time::timeout;

use super::check_result::CheckResult;
use super::command::{Ended, run, version};
use crate::runtime::containerd_process::Daemon;

const PATIENCE: Duration = Duration::from_secs(5);
/// The oldest that pulls images by itself (its transfer service).
const OLDEST: (u32, u32) = (1, 7);

pub(super) async fn examine(address: &Path, needed: bool) -> (Vec<CheckResult>, Daemon) {
    let connected = match timeout(PATIENCE, UnixStream::connect(address)).await {
        Ok(connected) => connected,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    };
    let reached = connected.as_ref().map(|_| ()).map_err(ToString::to_string);
    let daemon = connected.ok().map_or_else(Daemon::unseen, |stream| Daemon::behind(&stream));
    let program = program(&daemon);
    let said = match &program {
        Some(program) => Some(run(program, &["--version"]).await),
        None => None,
    };
    let mut findings = vec![judge_socket(address, &reached, needed)];
    findings.extend(said.map(|said| judge_version(&said, needed)));
    let runc = match daemon.find("runc") {
        Some(runc) => Some(run(&runc, &["--version"]).await),
        None => None,
    };
    findings.push(judge_runc(runc.as_ref(), reached.is_ok(), needed));
    (findings, daemon)
}

/// What runs, else what would be run.
fn program(daemon: &Daemon) -> Option<PathBuf> {
    let running = daemon.pid.and_then(|pid| fs::read_link(format!("/proc/{pid}/exe")).ok());
    // Under another name it is a stand-in: of no use to ask.
    let named = |path: &PathBuf| path.file_name().is_some_and(|name| name == "containerd");
    running.filter(named).or_else(|| daemon.find("containerd"))
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

fn judge_version(said: &Ended, needed: bool) -> CheckResult {
    const CHECK: &str = "containerd version";
    let remedy = format!("install containerd {}.{} or newer, best 2.x", OLDEST.0, OLDEST.1);
    match said {
        Ended::Well(said) => match version(said) {
            Some(version) if version < OLDEST => {
                CheckResult::missing(CHECK, needed, first_line(said), remedy)
            }
            Some((major, minor)) => CheckResult::ok(CHECK, format!("{major}.{minor}")),
            None => CheckResult::warning(CHECK, format!("unknown: {}", first_line(said)), remedy),
        },
        Ended::Badly(why) => CheckResult::warning(CHECK, format!("unknown: {why}"), remedy),
    }
}

/// A containerd that is reached may have a runc where we cannot look.
fn judge_runc(said: Option<&Ended>, reached: bool, needed: bool) -> CheckResult {
    const CHECK: &str = "runc";
    const REMEDY: &str = "install runc where containerd finds it (its PATH)";
    match said {
        Some(Ended::Well(said)) => CheckResult::ok(CHECK, first_line(said)),
        Some(Ended::Badly(why)) => {
            CheckResult::missing(CHECK, needed, format!("does not run: {why}"), REMEDY)
        }
        None => CheckResult::missing(CHECK, needed && !reached, "not found in PATH", REMEDY),
    }
}

fn first_line(said: &str) -> &str {
    said.lines().next().unwrap_or_default().trim()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::Verdict;

    fn well(said: &str) -> Ended {
        Ended::Well(said.to_owned())
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
    fn an_old_containerd_fails_and_one_that_tells_nothing_is_warned_of() {
        let judged = |said: &str| judge_version(&well(said), true).verdict;
        assert_eq!(judged("containerd github.com/containerd/containerd/v2 2.1.9+unknown "), Verdict::Ok);
        assert_eq!(judged("containerd github.com/containerd/containerd v1.7.0 x"), Verdict::Ok);
        assert_eq!(judged("containerd github.com/containerd/containerd 1.6.20~ds1 x"), Verdict::Failed);
        assert_eq!(judged("containerd"), Verdict::Warning);
        assert_eq!(judge_version(&Ended::Badly("x".to_owned()), true).verdict, Verdict::Warning);
    }

    #[test]
    fn a_runc_that_is_not_seen_may_still_be_containerds() {
        assert_eq!(
            judge_runc(Some(&well("runc version 1.3.6\ncommit: x")), true, true).found,
            "runc version 1.3.6"
        );
        assert_eq!(judge_runc(None, true, true).verdict, Verdict::Warning);
        assert_eq!(judge_runc(None, false, true).verdict, Verdict::Failed);
        assert_eq!(judge_runc(Some(&Ended::Badly("x".to_owned())), true, true).verdict, Verdict::Failed);
    }

    #[tokio::test]
    async fn the_process_behind_a_socket_is_known() {
        let folder = std::env::temp_dir().join(format!("try-it-now-doctor-{}", uuid::Uuid::now_v7()));
        fs::create_dir_all(&folder).unwrap();
        let socket = folder.join("c.sock");
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let (findings, daemon) = examine(&socket, true).await;
        assert_eq!(daemon.pid, Some(std::process::id() as i32));
        assert_eq!((findings[0].check, findings[0].verdict), ("containerd", Verdict::Ok));
        drop(listener);
        fs::remove_dir_all(&folder).unwrap();
        let (findings, daemon) = examine(&socket, true).await;
        assert_eq!((daemon.pid, findings[0].verdict), (None, Verdict::Failed));
    }
}
