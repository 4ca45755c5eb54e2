//! Checks the kernel: its version, the capabilities of this process, and the cgroup controllers.

use std::fs;
use std::path::Path;

use super::check_result::CheckResult;
use super::tool::version;

// The bits of capabilities (`linux/capability.h`).

pub(super) const NET_ADMIN: u32 = 12;
pub(super) const SYS_ADMIN: u32 = 21;
pub(super) const SYS_RESOURCE: u32 = 24;
pub(super) const CHECKPOINT_RESTORE: u32 = 40;

/// The oldest kernel with the system calls that the server uses: `pidfd_open` and `close_range`.
const MIN_VERSION: (u32, u32) = (5, 11);
/// The cgroup controllers that the limits of containers need.
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];

/// A set of capabilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Capabilities(u64);

impl Capabilities {
    pub(super) fn has(self, bit: u32) -> bool {
        self.0 >> bit & 1 == 1
    }

    fn parse(status: &str) -> Option<Self> {
        let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
        u64::from_str_radix(line.trim(), 16).ok().map(Self)
    }

    #[cfg(test)]
    pub(super) fn of(bits: &[u32]) -> Self {
        Self(bits.iter().map(|bit| 1 << bit).sum())
    }
}

/// The controllers of this host, and the version of their hierarchy; 0 when none is mounted.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Cgroups {
    version: u8,
    controllers: Vec<String>,
}

impl Cgroups {
    /// Returns whether there is a controller.
    pub(super) fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|found| found == controller)
    }
}

pub(super) fn release() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}

pub(super) fn judge_release(release: &str) -> CheckResult {
    let remedy = format!("use a kernel of at least {}.{}", MIN_VERSION.0, MIN_VERSION.1);
    match version(release) {
        Some(version) if version < MIN_VERSION => CheckResult::missing("kernel", true, release, remedy),
        Some(_) => CheckResult::ok("kernel", release),
        None => CheckResult::warning("kernel", "its version cannot be read", remedy),
    }
}

/// Returns the effective capabilities of a process, or of this process without a `pid`; `None` when they cannot be
/// read.
pub(super) fn capabilities(pid: Option<i32>) -> Option<Capabilities> {
    let process = pid.map_or_else(|| "self".to_owned(), |pid| pid.to_string());
    Capabilities::parse(&fs::read_to_string(format!("/proc/{process}/status")).ok()?)
}

pub(super) fn judge_capabilities(effective: Option<Capabilities>, needed: bool) -> CheckResult {
    const CHECK: &str = "capabilities";
    let Some(effective) = effective else {
        return CheckResult::warning(CHECK, "/proc/self/status cannot be read", "mount /proc");
    };
    let lacking: Vec<_> = [(SYS_ADMIN, "CAP_SYS_ADMIN"), (NET_ADMIN, "CAP_NET_ADMIN")]
        .into_iter()
        .filter(|(bit, _)| !effective.has(*bit))
        .map(|(_, name)| name)
        .collect();
    if lacking.is_empty() {
        return CheckResult::ok(CHECK, "CAP_SYS_ADMIN and CAP_NET_ADMIN");
    }
    let found = format!("the network of containers needs {}, which this user lacks", lacking.join(" and "));
    let remedy = "run the server as root, or give it these (AmbientCapabilities= of its systemd unit)";
    CheckResult::missing(CHECK, needed, found, remedy)
}

pub(super) fn cgroups() -> Cgroups {
    let read = |path: &Path| fs::read_to_string(path).unwrap_or_default();
    let mounts = read(Path::new("/proc/mounts"));
    let root = unified_root(&mounts).map(|root| read(&Path::new(root).join("cgroup.controllers")));
    parse_cgroups(&mounts, root.as_deref().unwrap_or_default())
}

/// Returns where the hierarchy of version 2 is mounted.
fn unified_root(mounts: &str) -> Option<&str> {
    mounts.lines().find_map(|line| {
        let fields: Vec<_> = line.split(' ').collect();
        (fields.get(2) == Some(&"cgroup2")).then(|| fields[1])
    })
}

/// A host may mount both versions. The one that has controllers counts.
fn parse_cgroups(mounts: &str, unified: &str) -> Cgroups {
    let first: Vec<String> = mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .filter(|fields| fields.get(2) == Some(&"cgroup"))
        .flat_map(|fields| {
            fields.get(3).copied().unwrap_or_default().split(',').map(str::to_owned).collect::<Vec<_>>()
        })
        .filter(|option| CONTROLLERS.contains(&option.as_str()))
        .collect();
    let (version, controllers) = match first.is_empty() {
        false => (1, first),
        true if unified_root(mounts).is_some() => {
            (2, unified.split_whitespace().map(str::to_owned).collect())
        }
        true => (0, first),
    };
    Cgroups { version, controllers }
}

pub(super) fn judge_cgroups(cgroups: &Cgroups, needed: bool) -> CheckResult {
    const CHECK: &str = "cgroups";
    const REMEDY: &str = "mount the cgroup hierarchy at /sys/fs/cgroup, as systemd does";
    if cgroups.version == 0 {
        return CheckResult::missing(CHECK, needed, "none is mounted", REMEDY);
    }
    let is_present = |name: &&str| cgroups.controllers.iter().any(|controller| controller == name);
    let (have, lack): (Vec<&str>, Vec<&str>) = CONTROLLERS.into_iter().partition(is_present);
    let found = format!("version {} with {}", cgroups.version, have.join(", "));
    match lack.is_empty() {
        true => CheckResult::ok(CHECK, found),
        false => {
            let found = format!(
                "version {} without {}: the limits that need them have no effect",
                cgroups.version,
                lack.join(", ")
            );
            CheckResult::warning(CHECK, found, "enable these controllers (kernel parameter cgroup_enable=)")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::Verdict;

    #[test]
    fn an_old_kernel_fails_and_an_unknown_version_is_a_warning() {
        assert_eq!(judge_release("6.18.44-x").verdict, Verdict::Ok);
        assert_eq!(judge_release("5.11.0").verdict, Verdict::Ok);
        assert_eq!(judge_release("5.10.0-28-amd64").verdict, Verdict::Failed);
        assert_eq!(judge_release("").verdict, Verdict::Warning);
    }

    #[test]
    fn missing_capabilities_that_containers_need_are_named() {
        let all =
            Capabilities::parse("Name:\tx\nCapPrm:\t0\nCapEff:\t000001fffeffffff\nCapBnd:\t0\n").unwrap();
        assert!(all.has(SYS_ADMIN) && all.has(CHECKPOINT_RESTORE) && !all.has(SYS_RESOURCE));
        assert_eq!(judge_capabilities(Some(all), true).verdict, Verdict::Ok);
        let some = Some(Capabilities::of(&[SYS_ADMIN]));
        let judged = judge_capabilities(some, true);
        assert_eq!(judged.verdict, Verdict::Failed);
        assert!(judged.found.contains("CAP_NET_ADMIN") && !judged.found.contains("CAP_SYS_ADMIN"));
        assert_eq!(judge_capabilities(some, false).verdict, Verdict::Warning);
        assert_eq!(judge_capabilities(None, true).verdict, Verdict::Warning);
    }

    const FIRST: &str = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw,relatime,cpu 0 0\n\
                         cgroup /sys/fs/cgroup/m cgroup rw,memory,pids 0 0\ncgroup /s cgroup rw,name=systemd 0 0\n";
    const SECOND: &str = "cgroup2 /sys/fs/cgroup cgroup2 rw,nsdelegate 0 0\n";

    #[test]
    fn the_version_of_cgroups_with_controllers_counts() {
        let second = parse_cgroups(SECOND, "cpuset cpu io memory pids\n");
        assert_eq!(second.version, 2);
        assert_eq!(judge_cgroups(&second, true).found, "version 2 with cpu, memory, pids");
        let mixed = parse_cgroups(&format!("{FIRST}{SECOND}"), "");
        assert_eq!(judge_cgroups(&mixed, true).found, "version 1 with cpu, memory, pids");
        let without = parse_cgroups(SECOND, "cpu pids");
        assert_eq!(judge_cgroups(&without, true).verdict, Verdict::Warning);
        assert!(judge_cgroups(&without, true).found.contains("memory"));
        assert_eq!(judge_cgroups(&parse_cgroups("", ""), true).verdict, Verdict::Failed);
    }
}
