//! CRIU: whether containers can be restored instead of started. Without it they start cold, so nothing here fails.

use std::path::{Path, PathBuf};

use super::check_result::CheckResult;
use super::command::{Ended, run, version};
use super::kernel::{CHECKPOINT_RESTORE, Capabilities, SYS_ADMIN, SYS_RESOURCE, capabilities};
use crate::runtime::containerd_process::Daemon;

const CHECK: &str = "criu";
/// From which kernel on an older CRIU can no longer dump: kernel, the least CRIU.
const NEEDS: [((u32, u32), (u32, u32)); 2] = [((6, 16), (4, 2)), ((6, 13), (4, 1))];
/// `f_type` of a tmpfs (`linux/magic.h`).
const TMPFS: u64 = 0x0102_1994;

pub(super) async fn examine(daemon: &Daemon, kernel: &str) -> Vec<CheckResult> {
    let Some(criu) = daemon.find("criu") else { return vec![absent()] };
    let mut findings = vec![judge_version(&run(&criu, &["--version"]).await, version(kernel))];
    findings.push(judge_check(&run(&criu, &["check"]).await));
    findings.push(judge_privilege(capabilities(daemon.pid).or_else(|| capabilities(None))));
    findings.push(judge_cache(on_tmpfs(&run_folder(daemon.pid))));
    findings
}

fn absent() -> CheckResult {
    let found = "not found in PATH: containers start cold, every time";
    CheckResult::warning(
        CHECK,
        found,
        "install criu where containerd finds it (its PATH), or set CRIU_ENABLED=false",
    )
}

fn judge_version(said: &Ended, kernel: Option<(u32, u32)>) -> CheckResult {
    let said = match said {
        Ended::Well(said) => said,
        Ended::Badly(why) => {
            return CheckResult::warning(CHECK, format!("does not run: {why}"), "install a whole criu");
        }
    };
    let Some(own @ (major, minor)) = version(said) else {
        return CheckResult::warning(CHECK, format!("unknown version: {said}"), "install criu 4.2 or newer");
    };
    let row = NEEDS.iter().find(|(from, _)| kernel.is_some_and(|kernel| kernel >= *from));
    match row {
        Some(((k, l), least @ (m, n))) if own < *least => CheckResult::warning(
            CHECK,
            format!(
                "{major}.{minor} cannot make checkpoints on kernels from {k}.{l} on: containers start cold"
            ),
            format!("install criu {m}.{n} or newer"),
        ),
        _ => CheckResult::ok(CHECK, format!("{major}.{minor}")),
    }
}

fn judge_check(said: &Ended) -> CheckResult {
    match said {
        Ended::Well(_) => CheckResult::ok("criu check", "looks good"),
        Ended::Badly(why) => {
            let remedy = "run it yourself (criu check): it names what the kernel or this user's rights lack";
            CheckResult::warning("criu check", why.as_str(), remedy)
        }
    }
}

fn judge_privilege(effective: Option<Capabilities>) -> CheckResult {
    const CHECK: &str = "criu rights";
    let Some(effective) = effective else {
        return CheckResult::warning(CHECK, "containerd's capabilities cannot be read", "run this as root");
    };
    if !effective.has(SYS_ADMIN) && !effective.has(CHECKPOINT_RESTORE) {
        let found = "containerd has neither CAP_CHECKPOINT_RESTORE nor CAP_SYS_ADMIN: containers start cold";
        return CheckResult::warning(CHECK, found, "run containerd as root");
    }
    if !effective.has(SYS_RESOURCE) {
        let found = "without CAP_SYS_RESOURCE only images whose processes are all uid 0 can be restored";
        return CheckResult::warning(
            CHECK,
            found,
            "give containerd CAP_SYS_RESOURCE, or run such images as uid 0",
        );
    }
    CheckResult::ok(CHECK, "CAP_SYS_RESOURCE: processes of an image may have any uid")
}

/// `/run` as containerd sees it.
fn run_folder(pid: Option<i32>) -> PathBuf {
    pid.map_or_else(|| "/run".into(), |pid| format!("/proc/{pid}/root/run").into())
}

/// `None` when it cannot be known.
fn on_tmpfs(folder: &Path) -> Option<bool> {
    let found = rustix::fs::statfs(folder).ok()?;
    u64::try_from(found.f_type).ok().map(|kind| kind == TMPFS)
}

fn judge_cache(tmpfs: Option<bool>) -> CheckResult {
    const CHECK: &str = "criu cache";
    let remedy = "mount a tmpfs on /run before containerd starts";
    match tmpfs {
        Some(true) => CheckResult::ok(CHECK, "/run is a tmpfs"),
        Some(false) => {
            let found = "/run is no tmpfs: criu probes the kernel anew for each restore (25 to 30 ms)";
            CheckResult::warning(CHECK, found, remedy)
        }
        None => CheckResult::warning(CHECK, "containerd's /run cannot be looked at", remedy),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::Verdict;

    #[test]
    fn a_criu_that_is_too_old_for_the_kernel_is_warned_of() {
        for (criu, kernel, verdict) in [
            ("Version: 4.2.1", (6, 18), Verdict::Ok),
            ("Version: 4.1", (6, 16), Verdict::Warning),
            ("Version: 4.1", (6, 15), Verdict::Ok),
            ("Version: 4.0", (6, 13), Verdict::Warning),
            ("Version: 3.17.1", (6, 12), Verdict::Ok),
            ("Version: 4.0", (7, 0), Verdict::Warning),
            ("?", (6, 1), Verdict::Warning),
        ] {
            let judged = judge_version(&Ended::Well(criu.to_owned()), Some(kernel));
            assert_eq!(judged.verdict, verdict, "{criu} {kernel:?}");
        }
        let judged = judge_version(&Ended::Well("Version: 4.1".to_owned()), Some((6, 18)));
        assert!(judged.found.contains("4.1") && judged.found.contains("6.16"), "{judged:?}");
        assert_eq!(judged.remedy.as_deref(), Some("install criu 4.2 or newer"));
    }

    #[test]
    fn what_criu_may_do_follows_from_capabilities() {
        let judged = |bits: &[u32]| judge_privilege(Some(Capabilities::of(bits)));
        assert_eq!(judged(&[SYS_ADMIN, SYS_RESOURCE]).verdict, Verdict::Ok);
        assert_eq!(judged(&[CHECKPOINT_RESTORE, SYS_RESOURCE]).verdict, Verdict::Ok);
        assert!(judged(&[SYS_ADMIN]).found.contains("uid 0"));
        assert!(judged(&[SYS_RESOURCE]).found.contains("start cold"));
        assert_eq!(judge_privilege(None).verdict, Verdict::Warning);
    }

    #[test]
    fn nothing_about_criu_ends_the_configured_mode() {
        let all = [
            absent(),
            judge_check(&Ended::Badly("no".to_owned())),
            judge_cache(None),
            judge_cache(Some(false)),
        ];
        assert!(all.iter().all(|finding| finding.verdict == Verdict::Warning && finding.remedy.is_some()));
        assert_eq!(judge_check(&Ended::Well(String::new())).verdict, Verdict::Ok);
        assert_eq!(on_tmpfs(Path::new("/proc")), Some(false));
        assert_eq!(on_tmpfs(Path::new("/nowhere")), None);
    }
}
