//! Checks whether instances can have user namespaces, and whether one of them can use up what the kernel counts for all.

use super::check_result::CheckResult;
use super::kernel;
use super::tool::version;
use crate::config::Config;
use crate::runtime::UserNamespaces;
use crate::runtime::containerd_process::ContainerdProcess;
use crate::server::backends::{UserNamespaceHost, user_namespace_host};

/// The oldest kernel that maps the user ids of an overlay's layers.
const MIN_KERNEL: (u32, u32) = (5, 19);

/// Checks this host for the instances that the configuration allows.
pub(super) fn check(config: &Config, containerd: &ContainerdProcess, kernel: &str) -> Vec<CheckResult> {
    const CHECK: &str = "user namespaces";
    let mode = config.runtime.user_namespaces;
    if mode == UserNamespaces::Off {
        return vec![CheckResult::warning(
            CHECK,
            "off (USER_NAMESPACES=false): root of an instance is root of this host",
            "unset USER_NAMESPACES",
        )];
    }
    let host = user_namespace_host(containerd.pid);
    let instances = config.templates.iter().map(|template| template.pool.max);
    let instances = instances.fold(0, usize::saturating_add);
    let is_root = kernel::capabilities(None).is_some_and(|found| found.has(kernel::SYS_ADMIN));
    vec![judge_support(&host, kernel, mode), judge_totals(&host, instances, is_root)]
}

/// Checks whether instances can have user namespaces. Where they must have them, no server or no instance starts
/// otherwise.
fn judge_support(host: &UserNamespaceHost, kernel: &str, mode: UserNamespaces) -> CheckResult {
    const CHECK: &str = "user namespaces";
    let is_required = mode == UserNamespaces::Required;
    let judge = |why: &str, remedy: &str| {
        let (effect, remedy) = match is_required {
            true => {
                ("no instance starts (USER_NAMESPACES=true)", format!("{remedy}, or unset USER_NAMESPACES"))
            }
            false => ("instances have none, and their root is root of this host", remedy.to_owned()),
        };
        CheckResult::missing(CHECK, is_required, format!("{effect}: {why}"), remedy)
    };
    if let Some(refusal) = &host.refusal {
        return judge(
            refusal,
            "set user.max_user_namespaces (sysctl) to 10000 or more, and leave the ids from 1879048192 to 2141192191 to \
             this server: out of /etc/subuid and /etc/subgid, and in the user namespace that it runs in",
        );
    }
    match version(kernel) {
        Some(found) if found < MIN_KERNEL => judge(
            &format!("kernel {kernel} cannot map the ids of layers"),
            &format!("use a kernel of at least {}.{}", MIN_KERNEL.0, MIN_KERNEL.1),
        ),
        _ => CheckResult::ok(CHECK, "each instance has user ids of its own"),
    }
}

/// Checks what the kernel counts for all instances. A server that is root raises the totals of inotify when it starts.
fn judge_totals(host: &UserNamespaceHost, instances: usize, is_root: bool) -> CheckResult {
    const CHECK: &str = "totals of all instances";
    let instances = u64::try_from(instances).unwrap_or(u64::MAX);
    let lacking = host.inotify.iter().filter_map(|(file, total, one)| {
        let needed = instances.saturating_mul(u64::from(*one));
        (!is_root && total.is_some_and(|total| total < needed)).then_some((*file, needed))
    });
    let lacking: Vec<(&str, u64)> = lacking.collect();
    if !lacking.is_empty() {
        let texts = lacking.iter().map(|(file, needed)| format!("{needed} to {file}")).collect::<Vec<_>>();
        return CheckResult::warning(
            CHECK,
            format!("one instance can use up the inotify watches of others ({instances} instances at most)"),
            format!("write {}", texts.join(" and ")),
        );
    }
    if host.are_accounts_unlimited {
        return CheckResult::ok(
            CHECK,
            "inotify, message queues and pending signals suffice for each instance",
        );
    }
    CheckResult::warning(
        CHECK,
        "an instance gets a share of the POSIX message queues and pending signals of containerd; several users of \
         instances together can use up all",
        "set LimitMSGQUEUE=infinity and LimitSIGPENDING=infinity in containerd's systemd unit",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::Verdict;

    fn host(refusal: Option<&str>, total: u64, are_accounts_unlimited: bool) -> UserNamespaceHost {
        let inotify = vec![("/proc/sys/x", Some(total), 128)];
        UserNamespaceHost { refusal: refusal.map(str::to_owned), inotify, are_accounts_unlimited }
    }

    #[test]
    fn a_host_that_cannot_have_user_namespaces_is_named_with_the_cause() {
        let modes = [(UserNamespaces::Auto, Verdict::Warning), (UserNamespaces::Required, Verdict::Failed)];
        for (mode, verdict) in modes {
            let judged = judge_support(&host(Some("the kernel forbids them"), 0, true), "6.18.4", mode);
            assert_eq!(judged.verdict, verdict);
            assert!(judged.found.ends_with("the kernel forbids them"), "{}", judged.found);
            let judged = judge_support(&host(None, 0, true), "5.15.0-1", mode);
            assert_eq!(judged.verdict, verdict);
            assert!(judged.found.contains("5.15.0-1"), "{}", judged.found);
            assert_eq!(judge_support(&host(None, 0, true), "6.18.4", mode).verdict, Verdict::Ok);
        }
    }

    #[test]
    fn totals_that_are_too_small_for_the_most_instances_are_named() {
        let judged = judge_totals(&host(None, 128, true), 20, false);
        assert_eq!(judged.verdict, Verdict::Warning);
        assert_eq!(judged.remedy.as_deref(), Some("write 2560 to /proc/sys/x"));
        assert_eq!(judge_totals(&host(None, 2560, true), 20, false).verdict, Verdict::Ok);
        assert_eq!(judge_totals(&host(None, 128, true), 20, true).verdict, Verdict::Ok);
        assert_eq!(judge_totals(&host(None, 128, false), 20, true).verdict, Verdict::Warning);
    }
}
