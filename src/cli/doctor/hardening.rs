//! Checks settings of the kernel that let instances learn of each other or of the host. The server works without them, so
//! no check here fails.

use std::fs;
use std::path::Path;

use super::check_result::CheckResult;
use crate::runtime::apparmor::{AppArmor, PROFILE};

/// A setting of the kernel below `/proc/sys`, by the least value that protects.
struct KernelSetting {
    /// The name for `sysctl`.
    name: &'static str,
    least: i64,
    /// What a smaller value allows.
    allows: &'static str,
}

const KERNEL_SETTINGS: [KernelSetting; 5] = [
    KernelSetting {
        name: "kernel.dmesg_restrict",
        least: 1,
        allows: "apps that are processes read the kernel's log",
    },
    KernelSetting { name: "kernel.kptr_restrict", least: 1, allows: "addresses of the kernel are shown" },
    KernelSetting {
        name: "kernel.unprivileged_bpf_disabled",
        least: 1,
        allows: "every user loads programs into the kernel",
    },
    KernelSetting { name: "kernel.perf_event_paranoid", least: 2, allows: "every user measures the kernel" },
    KernelSetting {
        name: "kernel.yama.ptrace_scope",
        least: 1,
        allows: "apps that are processes read the memory of each other",
    },
];

/// Checks the host whose file systems are below `root`.
pub(super) fn check(root: &Path) -> Vec<CheckResult> {
    let read = |path: &str| fs::read_to_string(root.join(path)).ok().map(|text| text.trim().to_owned());
    let setting = |name: &str| read(&format!("proc/sys/{}", name.replace('.', "/")));
    let mut results = vec![judge_settings(setting), judge_apparmor(AppArmor::of_host(root))];
    results.extend(read("sys/kernel/mm/ksm/run").map(|run| judge_page_merging(&run)));
    results.extend(setting("kernel.core_pattern").map(|pattern| judge_core_dumps(&pattern)));
    results.extend(read("proc/swaps").map(|swaps| judge_swap(&swaps)));
    results.push(judge_processor(&root.join("sys/devices/system/cpu/vulnerabilities")));
    results
}

fn judge_settings(read: impl Fn(&str) -> Option<String>) -> CheckResult {
    const CHECK: &str = "kernel settings";
    // A kernel without the setting has nothing to protect, or protects nothing that can be changed.
    let is_weak = |setting: &&KernelSetting| {
        read(setting.name)
            .and_then(|value| value.parse().ok())
            .is_some_and(|value: i64| value < setting.least)
    };
    let weak: Vec<_> = KERNEL_SETTINGS.iter().filter(is_weak).collect();
    if weak.is_empty() {
        return CheckResult::ok(CHECK, "users do not read the kernel or each other's memory");
    }
    let found: Vec<_> = weak.iter().map(|setting| format!("{}: {}", setting.name, setting.allows)).collect();
    let values: Vec<_> = weak.iter().map(|setting| format!("{}={}", setting.name, setting.least)).collect();
    CheckResult::warning(
        CHECK,
        found.join("; "),
        format!("sysctl -w {} (and in /etc/sysctl.d)", values.join(" ")),
    )
}

fn judge_apparmor(state: AppArmor) -> CheckResult {
    const CHECK: &str = "apparmor";
    match state {
        AppArmor::Absent => CheckResult::ok(CHECK, "not in this kernel"),
        AppArmor::Enforced => CheckResult::ok(CHECK, format!("instances have the profile {PROFILE}")),
        AppArmor::NotLoaded => CheckResult::warning(
            CHECK,
            format!("the profile {PROFILE} is not enforced: instances in containers have none"),
            format!("apparmor_parser -r deployments/apparmor/{PROFILE}, and restart the server"),
        ),
    }
}

/// Judges `/sys/kernel/mm/ksm/run`. Merged pages are slower to write: an instance that has the same page learns of it.
fn judge_page_merging(run: &str) -> CheckResult {
    const CHECK: &str = "page merging";
    if run == "1" {
        let found = "KSM merges equal pages of all processes: an instance learns by timing what others have in memory";
        return CheckResult::warning(CHECK, found, "echo 2 >/sys/kernel/mm/ksm/run (and disable ksmtuned)");
    }
    CheckResult::ok(CHECK, "KSM is off")
}

/// Judges `kernel.core_pattern`. A program that it names runs as the host's root, whatever the limits of the process are.
fn judge_core_dumps(pattern: &str) -> CheckResult {
    const CHECK: &str = "core dumps";
    match pattern.strip_prefix('|') {
        Some(handler) => {
            let handler = handler.split_whitespace().next().unwrap_or_default();
            let found =
                format!("{handler} runs as root on memory that an instance chose, when the instance crashes");
            CheckResult::warning(CHECK, found, "sysctl -w kernel.core_pattern=core (and in /etc/sysctl.d)")
        }
        None => CheckResult::ok(CHECK, "no program handles them, and instances write none"),
    }
}

/// Judges `/proc/swaps`. Compressed memory (zram) is no disk.
fn judge_swap(swaps: &str) -> CheckResult {
    const CHECK: &str = "swap";
    let devices = swaps.lines().skip(1).filter_map(|line| line.split_whitespace().next());
    let on_disk: Vec<_> = devices.filter(|device| !device.starts_with("/dev/zram")).collect();
    if on_disk.is_empty() {
        return CheckResult::ok(CHECK, "no memory is written to disk");
    }
    let found = format!("secrets of the server and of checkpoints may be written to {}", on_disk.join(", "));
    CheckResult::warning(CHECK, found, "swapoff -a (and remove it from /etc/fstab), or encrypt it")
}

/// Judges the kernel's list of holes of the processor.
fn judge_processor(list: &Path) -> CheckResult {
    const CHECK: &str = "processor";
    let (mut open, mut by_threads) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(list).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let text = fs::read_to_string(entry.path()).unwrap_or_default();
        if text.starts_with("Vulnerable") {
            open.push(name);
        } else if text.contains("SMT vulnerable") {
            by_threads.push(name);
        }
    }
    open.sort_unstable();
    by_threads.sort_unstable();
    if !open.is_empty() {
        let found = format!("instances may read memory of others through {}", open.join(", "));
        let remedy = "apt-get install --only-upgrade linux-image-amd64 intel-microcode amd64-microcode, reboot, and \
                      remove mitigations=off from the kernel's parameters";
        return CheckResult::warning(CHECK, found, remedy);
    }
    if !by_threads.is_empty() {
        let found = format!(
            "instances on two threads of a core may read each other through {}",
            by_threads.join(", ")
        );
        return CheckResult::warning(CHECK, found, "echo off >/sys/devices/system/cpu/smt/control");
    }
    CheckResult::ok(CHECK, "the kernel knows no open hole")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::Verdict;

    /// Checks a host that has these files.
    fn checked(files: &[(&str, &str)]) -> Vec<CheckResult> {
        let root = std::env::temp_dir().join(format!("try-it-now-hardening-{}", uuid::Uuid::now_v7()));
        for (path, content) in files {
            fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
            fs::write(root.join(path), content).unwrap();
        }
        let results = check(&root);
        let _ = fs::remove_dir_all(root);
        results
    }

    fn warnings(files: &[(&str, &str)]) -> Vec<CheckResult> {
        checked(files).into_iter().filter(|result| result.verdict != Verdict::Ok).collect()
    }

    #[test]
    fn a_host_with_all_settings_has_no_warning() {
        let hardened = [
            ("proc/sys/kernel/dmesg_restrict", "1\n"),
            ("proc/sys/kernel/kptr_restrict", "2\n"),
            ("proc/sys/kernel/unprivileged_bpf_disabled", "2\n"),
            ("proc/sys/kernel/perf_event_paranoid", "3\n"),
            ("proc/sys/kernel/yama/ptrace_scope", "1\n"),
            ("proc/sys/kernel/core_pattern", "core\n"),
            ("sys/kernel/mm/ksm/run", "2\n"),
            ("proc/swaps", "Filename Type Size Used Priority\n/dev/zram0 partition 1 0 100\n"),
            ("sys/devices/system/cpu/vulnerabilities/meltdown", "Mitigation: PTI\n"),
            ("sys/devices/system/cpu/vulnerabilities/mds", "Not affected\n"),
        ];
        assert_eq!(warnings(&hardened), []);
        assert_eq!(warnings(&[]), []);
    }

    #[test]
    fn each_weakness_is_named_with_a_command() {
        for (path, content, found, remedy) in [
            ("proc/sys/kernel/dmesg_restrict", "0\n", "log", "sysctl -w kernel.dmesg_restrict=1"),
            ("proc/sys/kernel/perf_event_paranoid", "-1\n", "measures", "kernel.perf_event_paranoid=2"),
            ("proc/sys/kernel/yama/ptrace_scope", "0\n", "each other", "kernel.yama.ptrace_scope=1"),
            (
                "proc/sys/kernel/core_pattern",
                "|/usr/share/apport/apport -p%p\n",
                "/usr/share/apport/apport",
                "sysctl",
            ),
            ("sys/module/apparmor/parameters/enabled", "Y\n", "not enforced", "apparmor_parser -r"),
            ("sys/kernel/mm/ksm/run", "1\n", "KSM", "echo 2"),
            ("proc/swaps", "Filename Type\n/dev/sda2 partition\n", "/dev/sda2", "swapoff"),
            (
                "sys/devices/system/cpu/vulnerabilities/spectre_v2",
                "Vulnerable: x\n",
                "spectre_v2",
                "microcode",
            ),
            (
                "sys/devices/system/cpu/vulnerabilities/mds",
                "Mitigation: Clear; SMT vulnerable\n",
                "mds",
                "smt/control",
            ),
        ] {
            let warned = warnings(&[(path, content)]);
            assert_eq!(warned.len(), 1, "{path}");
            assert!(warned[0].found.contains(found), "{path}: {}", warned[0].found);
            let given = warned[0].remedy.as_deref().unwrap();
            assert!(given.contains(remedy), "{path}: {given}");
        }
    }
}
