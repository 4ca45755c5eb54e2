//! Control groups of version 1, as runc makes them.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::other;

/// There where all hierarchies are one.
const VERSION_2: &str = "/sys/fs/cgroup/cgroup.controllers";

/// Runc's settings that are understood here; one that is set beside them is for runc.
const UNDERSTOOD: [&str; 7] =
    ["path", "devices", "memory", "memory_swap", "pids_limit", "cpu_quota", "cpu_period"];

/// The groups of a container that were made.
#[derive(Debug, Default)]
pub(super) struct Groups(BTreeSet<PathBuf>);

/// What is written where: a file of a kind of group, and its content.
#[derive(Debug, PartialEq, Eq)]
struct Setting {
    kind: &'static str,
    file: &'static str,
    content: String,
}

impl Groups {
    /// Makes these, by kind and folder, with these limits.
    ///
    /// # Errors
    /// Also where there is anything that only runc knows how to do.
    pub(super) fn make(&mut self, folders: &[(&str, &Path)], limits: &Value) -> io::Result<()> {
        if Path::new(VERSION_2).exists() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let settings = settings(limits)?;
        for (kind, folder) in folders {
            if folder.exists() && !self.0.contains(*folder) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            fs::create_dir_all(folder)?;
            self.0.insert(folder.to_path_buf());
            if *kind == "cpuset" {
                inherit(folder)?;
            }
            for setting in settings.iter().filter(|setting| setting.kind == *kind) {
                fs::write(folder.join(setting.file), &setting.content)?;
            }
        }
        let missing = settings.iter().find(|setting| !folders.iter().any(|(kind, _)| *kind == setting.kind));
        missing.map_or(Ok(()), |setting| Err(other(format!("there is no group for {}", setting.kind))))
    }

    /// Puts a process in them.
    pub(super) fn add(&self, pid: u32) -> io::Result<()> {
        self.0.iter().try_for_each(|folder| fs::write(folder.join("cgroup.procs"), pid.to_string()))
    }

    /// The numbers of all that is in them.
    pub(super) fn processes(&self) -> Vec<i32> {
        let list = self.0.first().and_then(|folder| fs::read_to_string(folder.join("cgroup.procs")).ok());
        list.unwrap_or_default().lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// Removes them, if nobody is in them.
    pub(super) fn remove(&self) {
        self.0.iter().for_each(|folder| drop(fs::remove_dir(folder)));
    }
}

/// Nobody can be in a group without processors and memory of its own; a new one has none.
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

/// In the order in which they are written.
fn settings(limits: &Value) -> io::Result<Vec<Setting>> {
    let limits = limits.as_object().ok_or_else(|| other("there are no limits"))?;
    let is_set =
        |value: &Value| !matches!(value, Value::Null | Value::Bool(false)) && *value != 0 && *value != "";
    if let Some((name, _)) =
        limits.iter().find(|(name, value)| !UNDERSTOOD.contains(&name.as_str()) && is_set(value))
    {
        return Err(other(format!("{name} is for runc")));
    }
    let mut settings = Vec::new();
    for rule in limits.get("devices").and_then(Value::as_array).into_iter().flatten() {
        let file = if rule["allow"] == true { "devices.allow" } else { "devices.deny" };
        settings.push(Setting { kind: "devices", file, content: device(rule)? });
    }
    for (name, kind, file) in [
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
                    .ok_or_else(|| other(format!("{name} is odd")))?;
                settings.push(Setting { kind, file, content: content.to_string() });
            }
            _ => {}
        }
    }
    Ok(settings)
}

/// A rule as the kernel reads it.
fn device(rule: &Value) -> io::Result<String> {
    let odd = || other(format!("a rule for devices is odd: {rule}"));
    let kind =
        rule["type"].as_u64().and_then(|kind| u8::try_from(kind).ok()).map(char::from).ok_or_else(odd)?;
    let number = |name: &str| match rule[name].as_i64() {
        Some(-1) => Ok("*".to_owned()),
        Some(number) if number >= 0 => Ok(number.to_string()),
        _ => Err(odd()),
    };
    let access = rule["permissions"].as_str().filter(|access| access.chars().all(|c| "rwm".contains(c)));
    if !"abc".contains(kind) {
        return Err(odd());
    }
    Ok(format!("{kind} {}:{} {}", number("major")?, number("minor")?, access.ok_or_else(odd)?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn limits_are_written_as_the_kernel_reads_them() {
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
            settings(&limits).unwrap().into_iter().map(|one| (one.file, one.content)).collect();
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
    fn what_only_runc_knows_is_refused() {
        for odd in [
            json!({ "cpu_shares": 2 }),
            json!({ "memory": -1 }),
            json!({ "memory": "much" }),
            json!({ "devices": [{ "type": 120, "major": 1, "minor": 3, "permissions": "rw", "allow": true }] }),
            json!({ "devices": [{ "type": 99, "major": -2, "minor": 3, "permissions": "rw", "allow": true }] }),
            json!({ "devices": [{ "type": 99, "major": 1, "minor": 3, "permissions": "x", "allow": true }] }),
            json!([]),
        ] {
            settings(&odd).unwrap_err();
        }
    }
}
