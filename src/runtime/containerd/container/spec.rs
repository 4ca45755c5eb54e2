//! What a container is: the specification that runc gets. Pure.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use super::seccomp;
use crate::runtime::containerd::image::ImageConfig;
use crate::runtime::{Command, RuntimeError, StartRequest};
use crate::template::App;

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

/// How much sooner than others an instance's processes are ended, out of 1000.
const OOM_SCORE: i32 = 500;

/// The period over which processor time is shared out, in microseconds.
const CPU_PERIOD: u64 = 100_000;

/// Where things of this host lie that a container is given.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    /// The instance's network namespace.
    pub(crate) network: &'a Path,
    /// The folder that the container has as its `/dev`.
    pub(crate) devices: &'a Path,
    /// The file of settings for CRIU.
    pub(crate) criu: &'a Path,
    /// Open files that this host lets a process have; without `CAP_SYS_RESOURCE` nobody may raise it.
    pub(crate) most_open_files: u64,
    /// The cgroup, below the roots.
    pub(crate) cgroup: &'a str,
}

/// Writes the specification.
pub(crate) fn write(
    order: &StartRequest,
    image: &ImageConfig,
    place: &Place<'_>,
) -> Result<Value, RuntimeError> {
    let app = &*order.app;
    let memory = app.limits.container_memory();
    Ok(json!({
        "ociVersion": "1.1.0",
        "process": process(order, image, place.most_open_files, &arguments(app, image)?, &environment(order, image))?,
        "root": { "path": "rootfs" },
        "hostname": "instance",
        // Each mount costs a restore time, so there are no more than apps need; a tmpfs costs it 10 ms, since CRIU has
        // tar unpack it, empty or not.
        "mounts": [
            mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
            // Programs may be run from it, since else memory of a copy that is mapped from a file there could not hold
            // code. There are none in it.
            mount("/dev", "bind", &place.devices.display().to_string(), &["bind", "ro", "nosuid"]),
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
                "memory": { "limit": memory, "swap": memory },
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

/// A command beside the app: it may do what that may, and knows more of the instance.
pub(crate) fn command(
    order: &StartRequest,
    image: &ImageConfig,
    command: &Command,
    most_open_files: u64,
) -> Result<Value, RuntimeError> {
    let own = command.env.iter().map(|(name, value)| format!("{name}={value}"));
    let env: Vec<String> = environment(order, image).into_iter().chain(own).collect();
    process(order, image, most_open_files, &command.words, &env)
}

fn process(
    order: &StartRequest,
    image: &ImageConfig,
    most_open_files: u64,
    arguments: &[String],
    env: &[String],
) -> Result<Value, RuntimeError> {
    let app = &*order.app;
    let (uid, gid) = user(&image.user)?;
    let working_dir = if image.working_dir.is_empty() { "/" } else { &image.working_dir };
    let mut limits = Vec::new();
    limits.extend(app.limits.open_files.map(|files| limit("RLIMIT_NOFILE", files.min(most_open_files))));
    limits.extend(app.limits.file_size.map(|size| limit("RLIMIT_FSIZE", size)));
    limits.extend(app.limits.cpu_seconds.map(|seconds| limit("RLIMIT_CPU", seconds)));
    Ok(json!({
        "user": { "uid": uid, "gid": gid },
        "args": arguments,
        "env": env,
        "cwd": working_dir,
        "capabilities": {
            "bounding": CAPABILITIES,
            "effective": if uid == 0 { CAPABILITIES.as_slice() } else { &[] },
            "permitted": if uid == 0 { CAPABILITIES.as_slice() } else { &[] },
        },
        "rlimits": limits,
        "noNewPrivileges": true,
        // When the host itself runs out of memory, instances end before whoever serves them does.
        "oomScoreAdj": OOM_SCORE,
    }))
}

fn mount(destination: &str, kind: &str, source: &str, options: &[&str]) -> Value {
    json!({ "destination": destination, "type": kind, "source": source, "options": options })
}

fn limit(kind: &str, value: u64) -> Value {
    json!({ "type": kind, "soft": value, "hard": value })
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
fn environment(order: &StartRequest, image: &ImageConfig) -> Vec<String> {
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::instance::{InstanceId, TemplateName};
    use crate::template::ResourceLimits;

    fn specification(limits: ResourceLimits) -> Value {
        let id = InstanceId::random(&TemplateName::new("shop").unwrap());
        let app = Arc::new(App { command: vec!["app".to_owned()], limits, ..App::default() });
        let order = StartRequest {
            url: String::new(),
            host: String::new(),
            id,
            app,
            revision: 1,
            files: Vec::new(),
            to_be_frozen: false,
        };
        let place = Place {
            network: Path::new("/proc/1/fd/3"),
            devices: Path::new("/dev"),
            criu: Path::new("/criu.conf"),
            most_open_files: 1024,
            cgroup: "/try-it-now/shop",
        };
        write(&order, &ImageConfig::default(), &place).unwrap()
    }

    /// The files of cgroup v2 that runc writes for a specification, and what. Panics at what v2 has no file for: runc
    /// would refuse it or leave it out.
    fn on_v2(specification: &Value) -> BTreeMap<&'static str, String> {
        let linux = &specification["linux"];
        let path = linux["cgroupsPath"].as_str().unwrap();
        // With colons it would be a slice of systemd's.
        assert!(path.starts_with('/') && !path.contains(':'), "{path}");
        let mut files = BTreeMap::new();
        for (controller, settings) in linux["resources"].as_object().unwrap() {
            let number = |name: &str| settings[name].as_u64().unwrap();
            let names: Vec<&str> =
                settings.as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect();
            match (controller.as_str(), names.as_slice()) {
                ("memory", ["limit", "swap"]) => {
                    files.insert("memory.max", number("limit").to_string());
                    // In the specification, as on v1, it is memory and swap together.
                    files.insert("memory.swap.max", (number("swap") - number("limit")).to_string());
                }
                ("pids", ["limit"]) => _ = files.insert("pids.max", number("limit").to_string()),
                ("cpu", []) => {}
                ("cpu", ["period", "quota"]) => {
                    // The kernel takes nothing shorter.
                    assert!(number("quota") >= 1000);
                    files.insert("cpu.max", format!("{} {}", number("quota"), number("period")));
                }
                // A program in the kernel there: a list that denies all that it does not name.
                ("devices", []) => {
                    let rules = settings.as_array().unwrap();
                    assert_eq!(rules[0], json!({ "allow": false, "access": "rwm" }));
                    assert!(rules[1..].iter().all(|rule| rule["allow"] == true && rule["major"].is_u64()));
                }
                other => panic!("{other:?}"),
            }
        }
        files
    }

    #[test]
    fn limits_hold_on_cgroup_v2_too() {
        let expected = |files: &[(&'static str, &str)]| -> BTreeMap<&'static str, String> {
            files.iter().map(|(file, value)| (*file, (*value).to_owned())).collect()
        };
        let own = ResourceLimits {
            memory: Some(64 << 20),
            pids: Some(24),
            millicpus: Some(10),
            ..ResourceLimits::default()
        };
        assert_eq!(
            on_v2(&specification(own)),
            expected(&[
                ("memory.max", "67108864"),
                ("memory.swap.max", "0"),
                ("pids.max", "24"),
                ("cpu.max", "1000 100000"),
            ])
        );
        assert_eq!(
            on_v2(&specification(ResourceLimits::default())),
            expected(&[("memory.max", "1073741824"), ("memory.swap.max", "0"), ("pids.max", "512")])
        );
    }

    #[test]
    fn an_instance_gains_no_rights_and_ends_before_its_server_does() {
        let process = &specification(ResourceLimits::default())["process"];
        assert_eq!(process["noNewPrivileges"], true);
        assert!(process["oomScoreAdj"].as_i64().unwrap() > 0);
        let bounding = process["capabilities"]["bounding"].as_array().unwrap();
        for taken in ["CAP_SYS_ADMIN", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_SYS_PTRACE", "CAP_MKNOD"] {
            assert!(!bounding.contains(&taken.into()), "{taken}");
        }
    }
}
