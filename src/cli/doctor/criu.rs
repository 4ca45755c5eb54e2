//! Checks CRIU, which restores instances from checkpoints. Without it instances start cold, so no check here fails.

use std::path::{Path, PathBuf};

use super::check_result::CheckResult;
use super::kernel::{CHECKPOINT_RESTORE, Capabilities, SYS_ADMIN, SYS_RESOURCE, capabilities};
use super::tool::{ToolResult, run, version};
use crate::runtime::containerd_process::ContainerdProcess;

const CHECK: &str = "criu";
/// The oldest CRIU that can dump on kernels from a version on, newest kernel first: kernel, CRIU.
const MIN_VERSIONS: [((u32, u32), (u32, u32)); 2] = [((6, 16), (4, 2)), ((6, 13), (4, 1))];
/// The `f_type` of a tmpfs (`linux/magic.h`).
const TMPFS_MAGIC: u64 = 0x0102_1994;

/// Checks the CRIU that containerd finds. `kernel` is the release of the running kernel.
pub(super) async fn check(containerd: &ContainerdProcess, kernel: &str) -> Vec<CheckResult> {
    let Some(criu) = containerd.find_program("criu") else { return vec![absent()] };
    let mut results = vec![judge_version(&run(&criu, &["--version"]).await, version(kernel))];
    results.push(judge_check(&run(&criu, &["check"]).await));
    results.push(judge_privilege(capabilities(containerd.pid).or_else(|| capabilities(None))));
    results.push(judge_cache(on_tmpfs(&run_folder(containerd.pid))));
    results
}

fn absent() -> CheckResult {
    let found = "not found in PATH: every start is a cold start";
    CheckResult::warning(
        CHECK,
        found,
        "install criu where containerd finds it (its PATH), or set CRIU_ENABLED=false",
    )
}

fn judge_version(output: &ToolResult, kernel: Option<(u32, u32)>) -> CheckResult {
    let output = match output {
        ToolResult::Succeeded(output) => output,
        ToolResult::Failed(why) => {
            return CheckResult::warning(CHECK, format!("does not run: {why}"), "install a complete criu");
        }
    };
    let Some(found @ (major, minor)) = version(output) else {
        return CheckResult::warning(
            CHECK,
            format!("unknown version: {output}"),
            "install criu 4.2 or newer",
        );
    };
    let row = MIN_VERSIONS.iter().find(|(from, _)| kernel.is_some_and(|kernel| kernel >= *from));
    match row {
        Some(((k, l), min @ (m, n))) if found < *min => CheckResult::warning(
            CHECK,
            format!(
                "{major}.{minor} cannot make checkpoints on kernels from {k}.{l} on: containers start cold"
            ),
            format!("install criu {m}.{n} or newer"),
        ),
        _ => CheckResult::ok(CHECK, format!("{major}.{minor}")),
    }
}

fn judge_check(output: &ToolResult) -> CheckResult {
    match output {
        ToolResult::Succeeded(_) => CheckResult::ok("criu check", "looks good"),
        ToolResult::Failed(why) => {
            let remedy = "run `criu check`: it names the missing kernel options and rights";
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

/// Returns the path of `/run` in containerd's mount namespace.
fn run_folder(pid: Option<i32>) -> PathBuf {
    pid.map_or_else(|| "/run".into(), |pid| format!("/proc/{pid}/root/run").into())
}

/// Returns whether a folder is on a tmpfs; `None` when that cannot be read.
fn on_tmpfs(folder: &Path) -> Option<bool> {
    let found = rustix::fs::statfs(folder).ok()?;
    u64::try_from(found.f_type).ok().map(|kind| kind == TMPFS_MAGIC)
}

fn judge_cache(tmpfs: Option<bool>) -> CheckResult {
    const CHECK: &str = "criu cache";
    let remedy = "mount a tmpfs on /run before containerd starts";
    match tmpfs {
        Some(true) => CheckResult::ok(CHECK, "/run is a tmpfs"),
        Some(false) => {
            let found = "/run is not a tmpfs: criu probes the kernel anew for each restore (25 to 30 ms)";
            CheckResult::warning(CHECK, found, remedy)
        }
        None => CheckResult::warning(CHECK, "containerd's /run cannot be read", remedy),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::Verdict;

    #[test]
    fn a_criu_that_is_too_old_for_the_kernel_is_a_warning() {
        for (criu, kernel, verdict) in [
            ("Version: 4.2.1", (6, 18), Verdict::Ok),
            ("Version: 4.1", (6, 16), Verdict::Warning),
            ("Version: 4.1", (6, 15), Verdict::Ok),
            ("Version: 4.0", (6, 13), Verdict::Warning),
            ("Version: 3.17.1", (6, 12), Verdict::Ok),
            ("Version: 4.0", (7, 0), Verdict::Warning),
            ("?", (6, 1), Verdict::Warning),
        ] {
            let judged = judge_version(&ToolResult::Succeeded(criu.to_owned()), Some(kernel));
            assert_eq!(judged.verdict, verdict, "{criu} {kernel:?}");
        }
        let judged = judge_version(&ToolResult::Succeeded("Version: 4.1".to_owned()), Some((6, 18)));
        assert!(judged.found.contains("4.1") && judged.found.contains("6.16"), "{judged:?}");
        assert_eq!(judged.remedy.as_deref(), Some("install criu 4.2 or newer"));
    }

    #[test]
    fn the_rights_of_criu_follow_from_containerds_capabilities() {
        let judged = |bits: &[u32]| judge_privilege(Some(Capabilities::of(bits)));
        assert_eq!(judged(&[SYS_ADMIN, SYS_RESOURCE]).verdict, Verdict::Ok);
        assert_eq!(judged(&[CHECKPOINT_RESTORE, SYS_RESOURCE]).verdict, Verdict::Ok);
        assert!(judged(&[SYS_ADMIN]).found.contains("uid 0"));
        assert!(judged(&[SYS_RESOURCE]).found.contains("start cold"));
        assert_eq!(judge_privilege(None).verdict, Verdict::Warning);
    }

    #[test]
    fn no_check_of_criu_fails() {
        let all = [
            absent(),
            judge_check(&ToolResult::Failed("no".to_owned())),
            judge_cache(None),
            judge_cache(Some(false)),
        ];
        assert!(all.iter().all(|result| result.verdict == Verdict::Warning && result.remedy.is_some()));
        assert_eq!(judge_check(&ToolResult::Succeeded(String::new())).verdict, Verdict::Ok);
        assert_eq!(on_tmpfs(Path::new("/proc")), Some(false));
        assert_eq!(on_tmpfs(Path::new("/nowhere")), None);
    }
}
