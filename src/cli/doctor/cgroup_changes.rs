//! Checks how long a start waits for the first change of a cgroup.

use std::io;
use std::time::Duration;

use super::check_result::CheckResult;
use crate::runtime::version;
use crate::server::backends::{CGROUP_CHANGES_KERNEL, first_cgroup_change};

/// A change that takes longer has waited for the other processors.
const MAX_FAST: Duration = Duration::from_millis(5);

/// Measures one change. `is_on` is the setting that makes them fast.
pub(super) async fn check(kernel: &str, is_on: bool) -> CheckResult {
    judge(first_cgroup_change().await, kernel, is_on)
}

fn judge(change: io::Result<Duration>, kernel: &str, is_on: bool) -> CheckResult {
    const CHECK: &str = "cgroup changes";
    let took = match change {
        Ok(took) if took < MAX_FAST => return CheckResult::ok(CHECK, "fast"),
        Ok(took) => took,
        Err(error) => {
            return CheckResult::warning(CHECK, format!("not measured: {error}"), "run doctor as root");
        }
    };
    let found = format!("the first one of a start waits {} ms", took.as_millis());
    let (major, minor) = CGROUP_CHANGES_KERNEL;
    match version(kernel).is_some_and(|kernel| kernel >= CGROUP_CHANGES_KERNEL) {
        true if is_on => CheckResult::ok(CHECK, format!("{found}, until a server has started on this host")),
        true => CheckResult::warning(CHECK, found, "unset FAST_CGROUP_CHANGES, and restart the server"),
        false => CheckResult::warning(CHECK, found, format!("use a kernel of at least {major}.{minor}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::Verdict;

    #[test]
    fn a_slow_change_is_named_with_what_makes_it_fast() {
        let slow = || Ok(Duration::from_millis(12));
        assert_eq!(judge(Ok(Duration::from_micros(200)), "5.15.0", true).verdict, Verdict::Ok);
        assert_eq!(judge(slow(), "6.18.44", true).verdict, Verdict::Ok);
        for (change, kernel, is_on, remedy) in [
            (slow(), "6.18.44", false, "FAST_CGROUP_CHANGES"),
            (slow(), "6.17.9", true, "6.18"),
            (slow(), "", true, "6.18"),
            (Err(io::ErrorKind::PermissionDenied.into()), "6.18.44", true, "root"),
        ] {
            let judged = judge(change, kernel, is_on);
            assert_eq!(judged.verdict, Verdict::Warning);
            assert!(judged.remedy.unwrap().contains(remedy), "{remedy}");
        }
    }
}
