//! Cgroups of version 1, as runc creates them.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// The file that exists where all hierarchies are one.
const CGROUP_V2_FILE: &str = "/sys/fs/cgroup/cgroup.controllers";

/// The folder with the hierarchies.
const CGROUP_ROOT: &str = "/sys/fs/cgroup";

/// The names of runc's limits that are supported here. If another is set, runc must do the restore.
const SUPPORTED_LIMITS: [&str; 7] =
    ["path", "devices", "memory", "memory_swap", "pids_limit", "cpu_quota", "cpu_period"];

/// The cgroups of a container that were created.
#[derive(Debug, Default)]
pub(super) struct Cgroups(BTreeSet<PathBuf>);

/// The content of a file in the cgroup of a controller.
#[derive(Debug, PartialEq, Eq)]
struct CgroupSetting {
    controller: &'static str,
    file: &'static str,
    content: String,
}

impl Cgroups {
    /// Creates the cgroups in `folders`, each with its controller, and sets runc's limits.
    ///
    /// # Errors
    /// A cgroup cannot be created or exists already, or only runc supports a limit or the version of the cgroups.
    pub(super) fn create(&mut self, folders: &[(&str, &Path)], limits: &Value) -> io::Result<()> {
        if Path::new(CGROUP_V2_FILE).exists() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let settings = settings(limits)?;
        for (controller, folder) in folders {
            if folder.exists() && !self.0.contains(*folder) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            fs::create_dir_all(folder)?;
            self.0.insert(folder.to_path_buf());
            if *controller == "cpuset" {
                inherit(folder)?;
            }
            for setting in settings.iter().filter(|setting| setting.controller == *controller) {
                fs::write(folder.join(setting.file), &setting.content)?;
            }
        }
        let missing = settings
            .iter()
            .find(|setting| !folders.iter().any(|(controller, _)| *controller == setting.controller));
        missing.map_or(Ok(()), |setting| {
            Err(io::Error::other(format!("no cgroup of the controller {}", setting.controller)))
        })
    }

    /// Moves a process into all cgroups.
    ///
    /// # Errors
    /// A cgroup cannot be written.
    pub(super) fn add(&self, pid: u32) -> io::Result<()> {
        self.0.iter().try_for_each(|folder| fs::write(folder.join("cgroup.procs"), pid.to_string()))
    }

    /// Returns the cgroups of this process in the same hierarchies.
    ///
    /// # Errors
    /// The kernel does not say which they are.
    pub(super) fn of_this_process(&self) -> io::Result<Self> {
        let own = fs::read_to_string("/proc/self/cgroup")?;
        let folders: BTreeSet<PathBuf> =
            self.0.iter().filter_map(|folder| folder_in_hierarchy_of(folder, &own)).collect();
        if folders.len() == self.0.len() { Ok(Self(folders)) } else { Err(io::ErrorKind::NotFound.into()) }
    }

    /// Returns the numbers of the processes in the cgroups.
    pub(super) fn processes(&self) -> Vec<i32> {
        let list = self.0.first().and_then(|folder| fs::read_to_string(folder.join("cgroup.procs")).ok());
        list.unwrap_or_default().lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// Removes the cgroups that have no processes.
    pub(super) fn remove(&self) {
        self.0.iter().for_each(|folder| drop(fs::remove_dir(folder)));
    }
}

/// Returns the folder of a process's cgroup in the hierarchy of another cgroup's folder. `cgroups` is the content of
/// `/proc/PID/cgroup`.
fn folder_in_hierarchy_of(folder: &Path, cgroups: &str) -> Option<PathBuf> {
    let hierarchy = folder.strip_prefix(CGROUP_ROOT).ok()?.iter().next()?.to_str()?;
    let path = cgroups.lines().find_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        let controllers = controllers.strip_prefix("name=").unwrap_or(controllers);
        let is_hierarchy = match controllers {
            "" => hierarchy == "unified",
            several => several == hierarchy || several.split(',').any(|one| one == hierarchy),
        };
        is_hierarchy.then_some(path)
    })?;
    Some(Path::new(CGROUP_ROOT).join(hierarchy).join(path.trim_start_matches('/')))
}

/// Gives a cgroup of the controller `cpuset` the CPUs and memory nodes of its parent. A new one has none, and without
/// them no process can be moved into it.
fn inherit(folder: &Path) -> io::Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if fs::read_to_string(folder.join(file))?.trim().is_empty() {
            let above = folder.parent().ok_or(io::ErrorKind::NotFound)?;
            inherit(above)?;
            fs::write(folder.join(file), fs::read_to_string(above.join(file))?.trim())?;
        }
    }
    Ok(())
}

/// Returns the settings for runc's limits in the order in which they must be written.
fn settings(limits: &Value) -> io::Result<Vec<CgroupSetting>> {
    let limits = limits.as_object().ok_or_else(|| io::Error::other("runc recorded no limits"))?;
    let is_set =
        |value: &Value| !matches!(value, Value::Null | Value::Bool(false)) && *value != 0 && *value != "";
    if let Some((name, _)) =
        limits.iter().find(|(name, value)| !SUPPORTED_LIMITS.contains(&name.as_str()) && is_set(value))
    {
        return Err(io::Error::other(format!("only runc supports the limit {name}")));
    }
    let mut settings = Vec::new();
    for rule in limits.get("devices").and_then(Value::as_array).into_iter().flatten() {
        let file = if rule["allow"] == true { "devices.allow" } else { "devices.deny" };
        settings.push(CgroupSetting { controller: "devices", file, content: device(rule)? });
    }
    for (name, controller, file) in [
        ("memory", "memory", "memory.limit_in_bytes"),
        ("memory_swap", "memory", "memory.memsw.limit_in_bytes"),
        ("pids_limit", "pids", "pids.max"),
        ("cpu_period", "cpu", "cpu.cfs_period_us"),
        ("cpu_quota", "cpu", "cpu.cfs_quota_us"),
    ] {
        match limits.get(name) {
            Some(value) if is_set(value) => {
                let content = value
                    .as_i64()
                    .filter(|number| *number > 0)
                    .ok_or_else(|| io::Error::other(format!("the limit {name} is no positive number")))?;
                settings.push(CgroupSetting { controller, file, content: content.to_string() });
            }
            _ => {}
        }
    }
    Ok(settings)
}

/// Returns a rule for devices as the kernel reads it.
fn device(rule: &Value) -> io::Result<String> {
    let unknown = || io::Error::other(format!("unknown rule for devices: {rule}"));
    let kind =
        rule["type"].as_u64().and_then(|kind| u8::try_from(kind).ok()).map(char::from).ok_or_else(unknown)?;
    let number = |name: &str| match rule[name].as_i64() {
        Some(-1) => Ok("*".to_owned()),
        Some(number) if number >= 0 => Ok(number.to_string()),
        _ => Err(unknown()),
    };
    let access = rule["permissions"].as_str().filter(|access| access.chars().all(|c| "rwm".contains(c)));
    if !"abc".contains(kind) {
        return Err(unknown());
    }
    Ok(format!("{kind} {}:{} {}", number("major")?, number("minor")?, access.ok_or_else(unknown)?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_cgroup_of_a_process_is_found_in_each_hierarchy() {
        let own = "9:name=systemd:/a\n4:memory:/b/c\n2:cpu,cpuacct:/\n0::/d\n";
        let found = |hierarchy: &str| {
            let folder = Path::new(CGROUP_ROOT).join(hierarchy).join("try-it-now/shop");
            folder_in_hierarchy_of(&folder, own).map(|path| path.display().to_string())
        };
        assert_eq!(found("systemd").as_deref(), Some("/sys/fs/cgroup/systemd/a"));
        assert_eq!(found("memory").as_deref(), Some("/sys/fs/cgroup/memory/b/c"));
        assert_eq!(found("cpu").as_deref(), Some("/sys/fs/cgroup/cpu/"));
        assert_eq!(found("cpu,cpuacct").as_deref(), Some("/sys/fs/cgroup/cpu,cpuacct/"));
        assert_eq!(found("unified").as_deref(), Some("/sys/fs/cgroup/unified/d"));
        assert_eq!(found("pids"), None);
    }

    #[test]
    fn limits_become_settings_as_the_kernel_reads_them() {
        let limits = json!({
            "path": "/try-it-now/shop-1", "memory": 64, "memory_swap": 64, "pids_limit": 5, "cpu_quota": 1000, "rootless": false,
            "cpu_period": 2000, "oom_kill_disable": null, "hugetlb": 0,
            "devices": [
                { "type": 97, "major": -1, "minor": -1, "permissions": "rwm", "allow": false },
                { "type": 99, "major": 1, "minor": 3, "permissions": "rw", "allow": true },
                { "type": 98, "major": -1, "minor": -1, "permissions": "m", "allow": true },
            ],
        });
        let written: Vec<_> =
            settings(&limits).unwrap().into_iter().map(|setting| (setting.file, setting.content)).collect();
        let expected = [
            ("devices.deny", "a *:* rwm"),
            ("devices.allow", "c 1:3 rw"),
            ("devices.allow", "b *:* m"),
            ("memory.limit_in_bytes", "64"),
            ("memory.memsw.limit_in_bytes", "64"),
            ("pids.max", "5"),
            ("cpu.cfs_period_us", "2000"),
            ("cpu.cfs_quota_us", "1000"),
        ];
        assert_eq!(written, expected.map(|(file, content)| (file, content.to_owned())));
    }

    #[test]
    fn limits_that_only_runc_supports_are_refused() {
        for limits in [
            json!({ "cpu_shares": 2 }),
            json!({ "memory": -1 }),
            json!({ "memory": "much" }),
            json!({ "devices": [{ "type": 120, "major": 1, "minor": 3, "permissions": "rw", "allow": true }] }),
            json!({ "devices": [{ "type": 99, "major": -2, "minor": 3, "permissions": "rw", "allow": true }] }),
            json!({ "devices": [{ "type": 99, "major": 1, "minor": 3, "permissions": "x", "allow": true }] }),
            json!([]),
        ] {
            settings(&limits).unwrap_err();
        }
    }
}
