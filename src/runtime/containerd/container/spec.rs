//! Specifications of containers and of commands in them, as runc takes them. Pure.
//!
//! A container has a user namespace with a range of ids of its own. Where the host cannot do that, uid 0 in a container
//! is uid 0 of the host, and what holds it are the capabilities, seccomp, `no_new_privs` and the other namespaces.
//!
//! A change here that old checkpoints must not be restored with needs a new format number in `checkpoint/manifest.rs`.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use super::{masked_paths, seccomp};
use crate::runtime::container_defaults::{CAPABILITIES, DEFAULT_OPEN_FILES, DEFAULT_PIDS, OOM_SCORE_ADJ};
use crate::runtime::containerd::checkpoint::randomness::node_script;
use crate::runtime::containerd::checkpoint::restore::{LINK_NAME, SET_UP_COMMAND, SET_UP_RESTORED_COMMAND};
use crate::runtime::containerd::host::id_ranges::{IDS, IdRange};
use crate::runtime::containerd::host::shared_accounts::AccountLimits;
use crate::runtime::image::{ContainerUser, ImageConfig};
use crate::runtime::{ExecCommand, RuntimeError, StartRequest};
use crate::template::App;

/// Longest time of the hook that has the network set up.
const SET_UP_SECONDS: u32 = 25;
/// Limit of a core dump. It goes where `kernel.core_pattern` of the host says, which may be a program that runs as the
/// host's root. Only the limit 1 keeps the kernel from starting that, and no file fits in it either.
const CORE_BYTES: u64 = 1;

/// Options of the pseudo-terminals. Each instance has terminals of its own: in shared ones it could open those of
/// others. All instances together are limited by the host's `kernel.pty.max`, so each has a maximum. 5 is the group of
/// terminals in every distribution.
const PTS_OPTIONS: [&str; 7] =
    ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5", "max=16"];

/// Size of `/dev/shm` under a runtime handler: Docker's default.
const HANDLER_SHM_SIZE: &str = "size=64m";

/// Period of the processor limit, in microseconds.
const CPU_PERIOD_MICROS: u64 = 100_000;

/// Where a container's user and network namespaces come from.
#[derive(Debug)]
pub(super) enum Walls<'a> {
    /// This network namespace, and no user namespace.
    Host { network: &'a Path },
    /// A user namespace with these ids and a network namespace inside it, both made with the container.
    Own {
        ids: IdRange,
        /// The program that has the network set up.
        program: &'a Path,
        /// The instance's folder.
        folder: &'a Path,
        is_restored: bool,
    },
}

/// Paths and limits of this host that go into a specification.
#[derive(Debug)]
pub(super) struct HostPaths<'a> {
    /// The user and network namespaces.
    pub(super) walls: Walls<'a>,
    /// The folder that becomes the container's `/dev`.
    pub(crate) devices: &'a Path,
    /// The folder of the instance's disk that becomes the container's `/dev/shm`.
    pub(super) shm: &'a Path,
    /// CRIU's configuration file.
    pub(crate) criu_config: &'a Path,
    /// Open files that this host allows to a process. Without `CAP_SYS_RESOURCE` limits can only be lowered, by runc
    /// and CRIU too.
    pub(super) max_open_files: u64,
    /// The AppArmor profile of the processes; `None` without AppArmor.
    pub(super) apparmor: Option<&'static str>,
    /// What one user of the instance may use of what is counted for all, if it has a user namespace.
    pub(super) accounts: Option<AccountLimits>,
    /// The cgroup, as a path below the root of each hierarchy.
    pub(crate) cgroup: &'a str,
}

/// Returns the specification of an instance's container.
///
/// # Errors
/// No command is given, the image does not know the user, or the port is not clear.
pub(super) fn container_spec(
    request: &StartRequest,
    image: &ImageConfig,
    host: &HostPaths<'_>,
) -> Result<Value, RuntimeError> {
    let app = &*request.app;
    let memory = app.limits.container_memory();
    let user = user(app, image)?;
    let (arguments, env) = (arguments(app, image)?, environment(request, image, &user, image.port(app)?));
    let process = process(request, image, &user, host.max_open_files, host.apparmor, &arguments, &env);
    let process = limit_accounts(process, host.accounts);
    let mut specification = json!({
        "ociVersion": "1.1.0",
        "process": process,
        "root": { "path": "rootfs" },
        "hostname": "instance",
        // Each mount makes a restore slower, so there are only those that apps need. A tmpfs costs 10 ms, because CRIU
        // has tar unpack it, empty or not. So `/dev/shm` is a folder of the disk, which is a tmpfs already, and of
        // folders of `/proc` only the files are masked.
        "mounts": [
            mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
            // Not `noexec`: shared memory is a private mapping of files there, and it may hold code, such as that of a
            // just-in-time compiler. There are no programs in it.
            mount("/dev", "bind", &host.devices.display().to_string(), &["bind", "ro", "nosuid"]),
            mount("/dev/pts", "devpts", "devpts", &PTS_OPTIONS),
            shm(app, host.shm),
        ],
        "annotations": { "org.criu.config": host.criu_config },
        "linux": {
            "namespaces": namespaces(request, &host.walls),
            "cgroupsPath": host.cgroup,
            "resources": {
                "devices": devices(),
                "memory": { "limit": memory, "swap": memory },
                "pids": { "limit": app.limits.pids.unwrap_or(DEFAULT_PIDS) },
                "cpu": cpu(app),
            },
            "seccomp": seccomp::filter(request.will_be_baked),
            "maskedPaths": masked_paths::masked_paths(Path::new("/proc")),
            "readonlyPaths": [
                "/proc/acpi", "/proc/asound", "/proc/bus", "/proc/fs", "/proc/irq", "/proc/scsi", "/proc/sys",
                "/proc/sysrq-trigger",
            ],
        },
    });
    add_walls(&mut specification, &host.walls);
    Ok(specification)
}

/// Adds what makes the container's user and network namespaces, if they are its own.
fn add_walls(specification: &mut Value, walls: &Walls<'_>) {
    let Walls::Own { ids, program, folder, is_restored } = walls else { return };
    let command = if *is_restored { SET_UP_RESTORED_COMMAND } else { SET_UP_COMMAND };
    let mapping = json!([{ "containerID": 0, "hostID": ids.first(), "size": IDS }]);
    specification["linux"]["uidMappings"] = mapping.clone();
    specification["linux"]["gidMappings"] = mapping;
    specification["hooks"] = json!({
        "createRuntime": [{
            "path": program,
            "args": [LINK_NAME, command, folder],
            "timeout": SET_UP_SECONDS,
        }],
    });
}

/// Returns the namespaces of a container. The root of its cgroup namespace is the container's cgroup: the place of the
/// cgroup on the host is not visible.
///
/// # Traps
/// An instance that is frozen has no cgroup namespace: CRIU would take the cgroups of threads for others than those of
/// their processes, and could not restore a child process with threads. Restored instances get the namespace from
/// `checkpoint/restore`; the first one of a checkpoint, which runc restores, has none.
fn namespaces(request: &StartRequest, walls: &Walls<'_>) -> Value {
    let kinds =
        ["pid", "ipc", "uts", "mount"].into_iter().chain((!request.will_be_baked).then_some("cgroup"));
    let mut namespaces: Vec<Value> = kinds.map(|kind| json!({ "type": kind })).collect();
    match walls {
        Walls::Host { network } => namespaces.push(json!({ "type": "network", "path": network })),
        Walls::Own { .. } => namespaces.extend([json!({ "type": "network" }), json!({ "type": "user" })]),
    }
    namespaces.into()
}

/// Returns the specification of a command beside the app. It has the rights of the app and a larger environment.
///
/// # Errors
/// The image does not know the user.
pub(super) fn exec_process(
    request: &StartRequest,
    image: &ImageConfig,
    command: &ExecCommand,
    max_open_files: u64,
    apparmor: Option<&str>,
    accounts: Option<AccountLimits>,
) -> Result<Value, RuntimeError> {
    let extra = command.env.iter().map(|(name, value)| format!("{name}={value}"));
    let user = user(&request.app, image)?;
    let port = image.port(&request.app)?;
    let env: Vec<String> = environment(request, image, &user, port).into_iter().chain(extra).collect();
    let process = process(request, image, &user, max_open_files, apparmor, &command.argv, &env);
    Ok(limit_accounts(process, accounts))
}

/// Limits what a process may use of what the kernel counts for all instances with user namespaces.
fn limit_accounts(mut process: Value, accounts: Option<AccountLimits>) -> Value {
    if let (Some(accounts), Some(limits)) = (accounts, process["rlimits"].as_array_mut()) {
        limits.push(limit("RLIMIT_MSGQUEUE", accounts.message_bytes));
        limits.push(limit("RLIMIT_SIGPENDING", accounts.pending_signals));
    }
    process
}

fn process(
    request: &StartRequest,
    image: &ImageConfig,
    user: &ContainerUser,
    max_open_files: u64,
    apparmor: Option<&str>,
    arguments: &[String],
    env: &[String],
) -> Value {
    let app = &*request.app;
    let is_root = user.uid == 0;
    let working_dir = if image.working_dir.is_empty() { "/" } else { &image.working_dir };
    let mut limits = vec![limit("RLIMIT_CORE", CORE_BYTES)];
    let (soft, hard) = app.limits.open_files.map_or(DEFAULT_OPEN_FILES, |files| (files, files));
    limits.push(json!({
        "type": "RLIMIT_NOFILE",
        "soft": soft.min(max_open_files),
        "hard": hard.min(max_open_files),
    }));
    limits.extend(app.limits.file_size.map(|size| limit("RLIMIT_FSIZE", size)));
    limits.extend(app.limits.cpu_seconds.map(|seconds| limit("RLIMIT_CPU", seconds)));
    let mut process = json!({
        "user": { "uid": user.uid, "gid": user.gid, "additionalGids": user.groups },
        "args": arguments,
        "env": env,
        "cwd": working_dir,
        "capabilities": {
            "bounding": CAPABILITIES,
            "effective": if is_root { CAPABILITIES.as_slice() } else { &[] },
            "permitted": if is_root { CAPABILITIES.as_slice() } else { &[] },
        },
        "rlimits": limits,
        "noNewPrivileges": true,
        // When the host runs out of memory, instances end before the server that serves them.
        "oomScoreAdj": OOM_SCORE_ADJ,
    });
    if let Some(profile) = apparmor {
        process["apparmorProfile"] = json!(profile);
    }
    process
}

fn mount(destination: &str, kind: &str, source: &str, options: &[&str]) -> Value {
    json!({ "destination": destination, "type": kind, "source": source, "options": options })
}

/// Returns the mount of `/dev/shm`. The disk of the instance limits it; programs with an older libc look whether it is a
/// tmpfs. A runtime handler may not see mounts that the server removes later, so it makes a tmpfs of its own.
fn shm(app: &App, folder: &Path) -> Value {
    const OPTIONS: [&str; 3] = ["nosuid", "noexec", "nodev"];
    match app.runtime {
        None => mount("/dev/shm", "bind", &folder.display().to_string(), &[&["bind"], &OPTIONS[..]].concat()),
        Some(_) => {
            mount("/dev/shm", "tmpfs", "shm", &[&OPTIONS[..], &["mode=1777", HANDLER_SHM_SIZE]].concat())
        }
    }
}

fn limit(kind: &str, value: u64) -> Value {
    json!({ "type": kind, "soft": value, "hard": value })
}

fn cpu(app: &App) -> Value {
    let thousandths = u64::from(app.limits.container_millicpus());
    json!({ "period": CPU_PERIOD_MICROS, "quota": thousandths * CPU_PERIOD_MICROS / 1000 })
}

/// Returns the rules for device files: only those in every container's `/dev` (`host/node_dir.rs`) are allowed.
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
            "neither the template nor the image names a command to run".to_owned(),
        ));
    }
    Ok(arguments)
}

/// Returns the environment: the image's variables, then the template's, then the promised ones, each replacing the ones
/// before it.
fn environment(request: &StartRequest, image: &ImageConfig, user: &ContainerUser, port: u16) -> Vec<String> {
    let mut variables =
        BTreeMap::from([("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")]);
    // Only an instance that may be frozen needs it, and what the image or the template says replaces it.
    variables.extend(request.will_be_baked.then_some((node_script::VARIABLE, node_script::OPTIONS)));
    variables.extend(image.env.iter().flatten().filter_map(|pair| pair.split_once('=')));
    variables.extend(request.app.env.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    // An empty value counts as none, as with runc.
    if variables.get("HOME").is_none_or(|home| home.is_empty()) {
        variables.insert("HOME", &user.home);
    }
    let port = port.to_string();
    variables.extend([
        ("HOST", "127.0.0.1"),
        ("PORT", &port),
        ("INSTANCE_ID", request.id.as_str()),
        ("INSTANCE_URL", &request.url),
        ("INSTANCE_HOST", &request.host),
    ]);
    variables.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
}

/// Returns the user and the group that own the output of an app; root if its user is not known.
pub(super) fn output_owner(app: &App, image: &ImageConfig) -> (u32, u32) {
    user(app, image).map_or((0, 0), |user| (user.uid, user.gid))
}

/// Returns the user that the template names, else the image's, as the image's own files know it.
fn user(app: &App, image: &ImageConfig) -> Result<ContainerUser, RuntimeError> {
    let (whose, user) = match &app.user {
        Some(user) => ("template", user),
        None => ("image", &image.user),
    };
    image
        .users
        .find(user)
        .map_err(|why| RuntimeError::Start(format!("cannot use the {whose}'s user `{user}`: {why}")))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::instance::{InstanceId, TemplateName};
    use crate::template::ResourceLimits;

    fn specification(limits: ResourceLimits) -> Value {
        specification_with(limits, None)
    }

    fn specification_with(limits: ResourceLimits, apparmor: Option<&'static str>) -> Value {
        let id = InstanceId::random(&TemplateName::new("shop").unwrap());
        let app = Arc::new(App { command: vec!["app".to_owned()], limits, ..App::default() });
        let request = StartRequest::new(id, String::new(), String::new(), app, 1);
        let host = HostPaths {
            walls: Walls::Host { network: Path::new("/proc/1/fd/3") },
            devices: Path::new("/dev"),
            shm: Path::new("/disk/shm"),
            criu_config: Path::new("/criu.conf"),
            max_open_files: 1024,
            apparmor,
            accounts: None,
            cgroup: "/try-it-now/shop",
        };
        container_spec(&request, &ImageConfig::default(), &host).unwrap()
    }

    /// Returns the files of cgroup v2 and the values that runc writes for a specification. Panics at settings for which
    /// v2 has no file: runc would refuse or ignore them.
    fn on_v2(specification: &Value) -> BTreeMap<&'static str, String> {
        let linux = &specification["linux"];
        let path = linux["cgroupsPath"].as_str().unwrap();
        // With colons it would be a slice of systemd.
        assert!(path.starts_with('/') && !path.contains(':'), "{path}");
        let mut files = BTreeMap::new();
        for (controller, settings) in linux["resources"].as_object().unwrap() {
            let number = |name: &str| settings[name].as_u64().unwrap();
            let names: Vec<&str> =
                settings.as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect();
            match (controller.as_str(), names.as_slice()) {
                ("memory", ["limit", "swap"]) => {
                    files.insert("memory.max", number("limit").to_string());
                    // In the specification, as on v1, the value is memory and swap together.
                    files.insert("memory.swap.max", (number("swap") - number("limit")).to_string());
                }
                ("pids", ["limit"]) => _ = files.insert("pids.max", number("limit").to_string()),
                ("cpu", ["period", "quota"]) => {
                    // The kernel takes no shorter quota.
                    assert!(number("quota") >= 1000);
                    files.insert("cpu.max", format!("{} {}", number("quota"), number("period")));
                }
                // On v2 a program in the kernel: a list that denies everything that it does not name.
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
        let limits = ResourceLimits {
            memory: Some(64 << 20),
            pids: Some(24),
            millicpus: Some(10),
            ..ResourceLimits::default()
        };
        assert_eq!(
            on_v2(&specification(limits)),
            expected(&[
                ("memory.max", "67108864"),
                ("memory.swap.max", "0"),
                ("pids.max", "24"),
                ("cpu.max", "1000 100000"),
            ])
        );
        assert_eq!(
            on_v2(&specification(ResourceLimits::default())),
            expected(&[
                ("memory.max", "1073741824"),
                ("memory.swap.max", "0"),
                ("pids.max", "512"),
                ("cpu.max", "100000 100000"),
            ])
        );
    }

    #[test]
    fn the_app_armor_profile_is_named_only_where_the_host_has_it() {
        let profile = |apparmor| {
            specification_with(ResourceLimits::default(), apparmor)["process"]["apparmorProfile"].clone()
        };
        assert_eq!(profile(Some("try-it-now-instance")), "try-it-now-instance");
        assert_eq!(profile(None), Value::Null);
    }

    #[test]
    fn no_program_of_the_host_handles_the_core_dump_of_an_instance() {
        let limits = specification(ResourceLimits::default())["process"]["rlimits"].clone();
        let files = json!({ "type": "RLIMIT_NOFILE", "soft": 1024, "hard": 1024 });
        assert_eq!(limits, json!([{ "type": "RLIMIT_CORE", "soft": 1, "hard": 1 }, files]));
    }

    #[test]
    fn node_gets_its_option_before_a_bake_unless_the_image_or_the_template_has_options() {
        let variable = |will_be_baked, image: &[&str], template: &[(&str, &str)]| {
            let env =
                template.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            let app = Arc::new(App { env, ..App::default() });
            let id = InstanceId::random(&TemplateName::new("shop").unwrap());
            let request = StartRequest::new(id, String::new(), String::new(), app, 1);
            let request = StartRequest { will_be_baked, ..request };
            let env = Some(image.iter().map(|pair| (*pair).to_owned()).collect());
            let image = ImageConfig { env, ..ImageConfig::default() };
            let all = environment(&request, &image, &image.users.find("").unwrap(), 80);
            all.into_iter().find_map(|pair| pair.strip_prefix("NODE_OPTIONS=").map(str::to_owned))
        };
        assert_eq!(variable(true, &[], &[]).as_deref(), Some(node_script::OPTIONS));
        assert_eq!(variable(false, &[], &[]), None);
        assert_eq!(variable(true, &["NODE_OPTIONS=--no-warnings"], &[]).as_deref(), Some("--no-warnings"));
        assert_eq!(variable(true, &[], &[("NODE_OPTIONS", "")]).as_deref(), Some(""));
    }

    #[test]
    fn an_instance_gains_no_rights_and_ends_before_its_server_does() {
        let process = &specification(ResourceLimits::default())["process"];
        assert_eq!(process["noNewPrivileges"], true);
        assert!(process["oomScoreAdj"].as_i64().unwrap() > 0);
        let bounding = process["capabilities"]["bounding"].as_array().unwrap();
        for absent in ["CAP_SYS_ADMIN", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_SYS_PTRACE", "CAP_MKNOD"] {
            assert!(!bounding.contains(&absent.into()), "{absent}");
        }
    }
}
