//! What a container is: the specification that runc gets. Pure.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use super::super::{App, Order, RuntimeError};
use super::images::ImageConfig;
use super::seccomp;

/// What an app may do beyond an ordinary user: handle files and users inside its own container.
const CAPABILITIES: [&str; 10] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_NET_BIND_SERVICE",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// What an instance may use unless its template says otherwise.
const PIDS: u32 = 512;
const MEMORY: u64 = 1 << 30;

/// The period over which processor time is shared out, in microseconds.
const CPU_PERIOD: u64 = 100_000;

/// Where things of this host lie that a container is given.
#[derive(Debug)]
pub(super) struct Place<'a> {
    /// The instance's network namespace.
    pub(super) network: &'a Path,
    /// The folder that each container has as its `/dev`.
    pub(super) devices: &'a Path,
    /// The file of settings for CRIU.
    pub(super) criu: &'a Path,
    /// Open files that this host lets a process have; without `CAP_SYS_RESOURCE` nobody may raise it.
    pub(super) most_open_files: u64,
    /// The cgroup, below the roots.
    pub(super) cgroup: &'a str,
}

/// Writes the specification.
pub(super) fn write(order: &Order, image: &ImageConfig, place: &Place<'_>) -> Result<Value, RuntimeError> {
    let app = &*order.app;
    let (uid, gid) = user(&image.user)?;
    let working_dir = if image.working_dir.is_empty() { "/" } else { &image.working_dir };
    let mut limits = Vec::new();
    limits
        .extend(app.limits.open_files.map(|files| limit("RLIMIT_NOFILE", files.min(place.most_open_files))));
    limits.extend(app.limits.file_size.map(|size| limit("RLIMIT_FSIZE", size)));
    limits.extend(app.limits.cpu_seconds.map(|seconds| limit("RLIMIT_CPU", seconds)));
    Ok(json!({
        "ociVersion": "1.1.0",
        "process": {
            "user": { "uid": uid, "gid": gid },
            "args": arguments(app, image)?,
            "env": environment(order, image),
            "cwd": working_dir,
            "capabilities": {
                "bounding": CAPABILITIES,
                "effective": if uid == 0 { CAPABILITIES.as_slice() } else { &[] },
                "permitted": if uid == 0 { CAPABILITIES.as_slice() } else { &[] },
            },
            "rlimits": limits,
            "noNewPrivileges": true,
        },
        "root": { "path": "rootfs" },
        "hostname": "instance",
        // Each mount costs a restore time, so there are no more than apps need; a tmpfs costs it 10 ms, since CRIU has
        // tar unpack it, empty or not.
        "mounts": [
            mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
            mount("/dev", "bind", &place.devices.display().to_string(), &["bind", "ro", "nosuid", "noexec"]),
        ],
        "annotations": { "org.criu.config": place.criu },
        "linux": {
            "namespaces": [
                { "type": "pid" },
                { "type": "ipc" },
                { "type": "uts" },
                { "type": "mount" },
                { "type": "network", "path": place.network },
            ],
            "cgroupsPath": place.cgroup,
            "resources": {
                "devices": devices(),
                "memory": { "limit": memory(app), "swap": memory(app) },
                "pids": { "limit": app.limits.pids.unwrap_or(PIDS) },
                "cpu": cpu(app),
            },
            "seccomp": seccomp::filter(),
            // Files alone: a folder would be masked by a tmpfs.
            "maskedPaths": [
                "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug",
                "/proc/timer_list", "/proc/timer_stats",
            ],
            "readonlyPaths": [
                "/proc/acpi", "/proc/asound", "/proc/bus", "/proc/fs", "/proc/irq", "/proc/scsi", "/proc/sys",
                "/proc/sysrq-trigger",
            ],
        },
    }))
}

fn mount(destination: &str, kind: &str, source: &str, options: &[&str]) -> Value {
    json!({ "destination": destination, "type": kind, "source": source, "options": options })
}

fn limit(kind: &str, value: u64) -> Value {
    json!({ "type": kind, "soft": value, "hard": value })
}

fn memory(app: &App) -> u64 {
    app.limits.memory.unwrap_or(MEMORY)
}

fn cpu(app: &App) -> Value {
    match app.limits.millicpus {
        Some(thousandths) => {
            json!({ "period": CPU_PERIOD, "quota": u64::from(thousandths) * CPU_PERIOD / 1000 })
        }
        None => json!({}),
    }
}

/// Nothing but what lies in every container's `/dev`.
fn devices() -> Value {
    let allow = |major: u32, minor: u32| json!({ "allow": true, "type": "c", "major": major, "minor": minor, "access": "rwm" });
    json!([
        { "allow": false, "access": "rwm" },
        allow(1, 3),
        allow(1, 5),
        allow(1, 7),
        allow(1, 8),
        allow(1, 9),
        allow(5, 0),
    ])
}

fn arguments(app: &App, image: &ImageConfig) -> Result<Vec<String>, RuntimeError> {
    if !app.command.is_empty() {
        return Ok(app.command.clone());
    }
    let parts = [&image.entrypoint, &image.cmd];
    let arguments: Vec<String> = parts.into_iter().flatten().flatten().cloned().collect();
    if arguments.is_empty() {
        return Err(RuntimeError::Start(
            "neither the template nor the image says which command to run".to_owned(),
        ));
    }
    Ok(arguments)
}

/// The image's, then the template's, then what is promised.
fn environment(order: &Order, image: &ImageConfig) -> Vec<String> {
    let mut variables = BTreeMap::from([
        ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        ("HOME", "/root"),
    ]);
    variables.extend(image.env.iter().flatten().filter_map(|pair| pair.split_once('=')));
    variables.extend(order.app.env.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    let port = order.app.port.to_string();
    variables.extend([
        ("HOST", "127.0.0.1"),
        ("PORT", &port),
        ("INSTANCE_ID", order.id.as_str()),
        ("INSTANCE_URL", &order.url),
        ("INSTANCE_HOST", &order.host),
    ]);
    variables.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
}

/// `uid` or `uid:gid`; names would have to be looked up inside the image.
fn user(user: &str) -> Result<(u32, u32), RuntimeError> {
    let (uid, gid) = user.split_once(':').unwrap_or((user, ""));
    let number = |text: &str| match text {
        "" | "root" => Ok(0),
        digits => digits.parse(),
    };
    number(uid).and_then(|uid| Ok((uid, number(gid)?))).map_err(|_| {
        RuntimeError::Start(format!("the image's user `{user}` is a name, and only numbers are understood"))
    })
}
