//! Checks the limits of all instances together: how much they are, and what this host lacks to set them.

use super::check_result::CheckResult;
use super::kernel;
use crate::config::RuntimeSettings;
use crate::server::backends;

/// Controllers that the limits and weights need.
const NEEDED: [&str; 3] = ["memory", "pids", "cpu"];

/// Returns the limits of all instances together. `is_needed` says whether the configured mode uses them.
pub(super) fn check(settings: &RuntimeSettings, is_needed: bool) -> CheckResult {
    let (memory, pids) = backends::instance_limits(settings);
    let found = kernel::cgroups();
    let lacks = NEEDED.into_iter().filter(|needed| !found.has(needed)).collect::<Vec<_>>();
    judge(memory, pids, &lacks, is_needed)
}

fn judge(memory: u64, pids: u64, lacks: &[&str], is_needed: bool) -> CheckResult {
    const CHECK: &str = "limits of all instances";
    if !is_needed {
        return CheckResult::ok(CHECK, "child processes have limits of their own only");
    }
    let limits = format!(
        "{} MiB of memory, {pids} processes, no more weight than the server on processors",
        memory >> 20
    );
    match lacks {
        [] => CheckResult::ok(CHECK, limits),
        lacks => CheckResult::warning(
            CHECK,
            format!("{limits}; not all can be set: no cgroup controller {}", lacks.join(", ")),
            "enable it in the kernel (cgroup_enable=memory at boot) and mount it at /sys/fs/cgroup",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::Verdict;

    #[test]
    fn the_limits_are_named_and_a_missing_controller_is_a_warning() {
        let judged = judge(600 << 20, 300, &[], true);
        assert_eq!(judged.verdict, Verdict::Ok);
        assert!(judged.found.starts_with("600 MiB of memory, 300 processes"), "{}", judged.found);
        let judged = judge(600 << 20, 300, &["memory"], true);
        assert_eq!(judged.verdict, Verdict::Warning);
        assert!(judged.found.ends_with("no cgroup controller memory"), "{}", judged.found);
        assert_eq!(judge(0, 0, &["memory"], false).verdict, Verdict::Ok);
    }
}
