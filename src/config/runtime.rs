//! The settings of the runtime, from the environment.

use std::net::Ipv4Addr;
#[cfg(feature = "runtime-none")]
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::engine::EngineSockets;
use super::env::{SettingKind, Variables};
use super::socket::socket;
use super::template_app::MAX_PIDS;
use super::units::parse_size;
use crate::runtime::{LoginFile, UserNamespaces};
use crate::template::ImageRef;

use crate::template::egress::{EgressSettings, Ipv4Network, is_name};

/// The least bytes of memory and the fewest processes of all instances together, which one small app needs.
const MIN_INSTANCES_MEMORY: u64 = 64 << 20;
const MIN_INSTANCES_PIDS: u64 = 16;

/// Which runtime runs instances, and the settings of all runtimes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeSettings {
    /// The chosen runtime.
    pub mode: RuntimeMode,
    /// The ports of instances on this host; never empty.
    pub ports: RangeInclusive<u16>,
    /// containerd's socket, an absolute path.
    pub containerd_address: PathBuf,
    /// Where the sockets of Docker and Podman may be.
    pub engine_sockets: EngineSockets,
    /// The file with logins for registries; `None` when no variable says where it is.
    pub registry_logins: Option<LoginFile>,
    /// Host and port of the database server, if one is configured.
    pub database_server: Option<(String, u16)>,
    /// Whether instances are restored from checkpoints, where the host supports that.
    pub criu_enabled: bool,
    /// Whether the changes of cgroups of the whole host are made fast until it is booted again.
    pub fast_cgroup_changes: bool,
    /// Whether each instance has user ids of its own.
    pub user_namespaces: UserNamespaces,
    /// The most bytes of memory that all checkpoints may share with their instances; `None` leaves the limit to the
    /// runtime.
    pub shared_memory_max: Option<u64>,
    /// Bytes of memory that all instances of this node together may use; `None` leaves the limit to the runtime.
    pub instances_memory: Option<u64>,
    /// Processes and threads that all instances of this node together may have; `None` leaves the limit to the runtime.
    pub instances_pids: Option<u64>,
    /// How instances of templates with `egress` are connected to the internet.
    pub egress: EgressSettings,
    /// The endpoint of all instances of the mode `none` (`CONTAINER_NONE_ENDPOINT`); `None` gives each instance its own
    /// address.
    #[cfg(feature = "runtime-none")]
    pub none_endpoint: Option<SocketAddr>,
}

/// The runtimes of this build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuntimeMode {
    /// An instance is a child process.
    Process,
    /// An instance is a container of containerd.
    Containerd,
    /// An instance is a container of Docker.
    Docker,
    /// An instance is a container of Podman.
    Podman,
    /// An instance is a record without a process.
    #[cfg(feature = "runtime-none")]
    None,
}

impl RuntimeMode {
    /// Returns the name in `CONTAINER_MODE`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Containerd => "containerd",
            Self::Docker => "docker",
            Self::Podman => "podman",
            #[cfg(feature = "runtime-none")]
            Self::None => "none",
        }
    }

    /// Returns whether instances are containers, made from images.
    pub fn has_containers(self) -> bool {
        self == Self::Containerd || self.is_engine()
    }

    /// Returns whether instances are containers of Docker or Podman.
    pub fn is_engine(self) -> bool {
        matches!(self, Self::Docker | Self::Podman)
    }
}

impl RuntimeSettings {
    /// Reads the settings. `mode` is what [`read_mode`] returned.
    pub(super) fn read(env: &mut Variables<'_>, mode: Option<RuntimeMode>) -> Self {
        let start = env.number("CONTAINER_PORT_RANGE_START", 32_000, 1..=65_535) as u16;
        let end = env.number("CONTAINER_PORT_RANGE_END", 32_999, 1..=65_535) as u16;
        if start > end {
            env.report(
                "CONTAINER_PORT_RANGE_START",
                format!("{start} is above CONTAINER_PORT_RANGE_END, which is {end}"),
                "set both so that the range contains a port",
            );
        }
        let yes_or_no = [("true", true), ("false", false), ("1", true), ("0", false)];
        let user_namespaces = [
            ("auto", UserNamespaces::Auto),
            ("true", UserNamespaces::Required),
            ("false", UserNamespaces::Off),
            ("1", UserNamespaces::Required),
            ("0", UserNamespaces::Off),
        ];
        Self {
            mode: mode.unwrap_or(RuntimeMode::Process),
            ports: start..=end,
            containerd_address: containerd_address(env),
            engine_sockets: EngineSockets::read(
                env,
                mode == Some(RuntimeMode::Docker),
                mode == Some(RuntimeMode::Podman),
            ),
            registry_logins: registry_logins(env),
            database_server: None,
            criu_enabled: env.word("CRIU_ENABLED", "true", &yes_or_no),
            fast_cgroup_changes: env.word("FAST_CGROUP_CHANGES", "true", &yes_or_no),
            user_namespaces: env.word("USER_NAMESPACES", "auto", &user_namespaces),
            shared_memory_max: env.size_if_set("SHARED_MEMORY_MAX"),
            instances_memory: instances_memory(env),
            instances_pids: env.number_if_set("INSTANCES_PIDS", None, MIN_INSTANCES_PIDS..=MAX_PIDS),
            egress: egress(env),
            #[cfg(feature = "runtime-none")]
            none_endpoint: env.value_if_set("CONTAINER_NONE_ENDPOINT", SettingKind::Text, None, |text| {
                text.parse().map_err(|_| "write an address and a port")
            }),
        }
    }
}

/// Returns the runtime that `CONTAINER_MODE` names; `None` when the value is invalid, so that nothing follows from it.
pub(super) fn read_mode(env: &mut Variables<'_>) -> Option<RuntimeMode> {
    const NAME: &str = "CONTAINER_MODE";
    let kind = SettingKind::Word(vec!["process", "containerd", "docker", "podman"]);
    let mode = env.value_if_set(NAME, kind, Some("process".to_owned()), mode);
    mode.or((!env.is_set(NAME)).then_some(RuntimeMode::Process))
}

/// Returns the path of containerd's socket.
pub(super) fn containerd_address(env: &mut Variables<'_>) -> PathBuf {
    env.value("CONTAINERD_ADDRESS", SettingKind::Text, "/run/containerd/containerd.sock", socket)
}

/// Returns the file that the operator names, else the file of `docker login`.
fn registry_logins(env: &mut Variables<'_>) -> Option<LoginFile> {
    let named = env.text("REGISTRY_AUTH_FILE");
    let docker_config = env.text("DOCKER_CONFIG").map(PathBuf::from);
    let home = env.text("HOME").map(Path::new);
    if let Some(path) = named {
        return Some(LoginFile { path: path.into(), is_explicit: true });
    }
    let folder = docker_config.or_else(|| Some(home?.join(".docker")))?;
    Some(LoginFile { path: folder.join("config.json"), is_explicit: false })
}

fn instances_memory(env: &mut Variables<'_>) -> Option<u64> {
    env.value_if_set("INSTANCES_MEMORY", SettingKind::Size, None, |text| {
        let bytes = parse_size(text).filter(|bytes| *bytes >= MIN_INSTANCES_MEMORY);
        bytes.ok_or("write a size of at least 64M, such as 12G")
    })
}

fn egress(env: &mut Variables<'_>) -> EgressSettings {
    let default = EgressSettings::default();
    EgressSettings {
        range: env.value("EGRESS_RANGE", SettingKind::Text, &default.range.to_string(), range),
        resolvers: env.list_if_set("EGRESS_DNS", None, resolver).filter(|resolvers| !resolvers.is_empty()),
        refresh_interval: env.duration("EGRESS_REFRESH", default.refresh_interval, Duration::from_secs(1)),
        forbidden_hosts: env.list_if_set("EGRESS_FORBIDDEN", None, forbidden_host).unwrap_or_default(),
        max_packets_per_second: rate(env, "EGRESS_PACKETS_PER_SECOND", default.max_packets_per_second),
        max_connections_per_second: rate(
            env,
            "EGRESS_CONNECTIONS_PER_SECOND",
            default.max_connections_per_second,
        ),
    }
}

fn rate(env: &mut Variables<'_>, name: &'static str, default: u32) -> u32 {
    env.number(name, default.into(), 1..=1_000_000) as u32
}

fn forbidden_host(text: &str) -> Result<String, &'static str> {
    let is_valid = text.parse::<Ipv4Addr>().is_ok() || is_name(text);
    is_valid
        .then(|| text.to_ascii_lowercase())
        .ok_or("write names or IPv4 addresses with commas between them")
}

/// Returns the image of the one template of a server without a file of templates. `has_containers` is `None` when
/// `CONTAINER_MODE` is invalid.
pub(super) fn image(
    env: &mut Variables<'_>,
    has_containers: Option<bool>,
    has_file: bool,
    warnings: &mut Vec<String>,
) -> Option<ImageRef> {
    const NAME: &str = "CONTAINER_IMAGE";
    let text = env.text(NAME);
    match (has_containers?, text) {
        (false, None) => {}
        (true, None) if has_file => {}
        (false, Some(_)) => {
            env.report(
                NAME,
                "an image needs containers",
                "set CONTAINER_MODE to containerd, docker or podman, or unset it",
            );
        }
        (true, None) => env.report(
            NAME,
            "it is not set, and no file of templates names an image to run",
            "set it, or describe the apps in a file (serve --config FILE)",
        ),
        (true, Some(text)) => {
            let image = match ImageRef::parse(text, Path::new("")) {
                Ok(ImageRef::Tar(path)) if !path.is_absolute() => Err("write oci: and an absolute path"),
                parsed => parsed,
            };
            let image = image.map_err(|remedy| env.report_value(NAME, text, remedy)).ok();
            if !has_file {
                return image;
            }
            warnings.push(format!("{NAME} is ignored: the file of templates says what to run"));
        }
    }
    None
}

/// The allowed prefix lengths of the network for instances.
const RANGE_PREFIXES: RangeInclusive<u8> = 9..=28;

fn range(text: &str) -> Result<Ipv4Network, &'static str> {
    const RULE: &str = "write a private range of IPv4 that nothing else on this host uses, from /9 to /28, such as \
                        10.213.0.0/16";
    let (base, prefix) = text.split_once('/').ok_or(RULE)?;
    let base: Ipv4Addr = base.parse().map_err(|_| RULE)?;
    let prefix = prefix.parse().ok().filter(|prefix| RANGE_PREFIXES.contains(prefix)).ok_or(RULE)?;
    let network = Ipv4Network::containing(base, prefix);
    let last = network.address_at(network.address_count() as u32 - 1);
    let is_valid = base.is_private() && network.address_at(0) == base && last.is_private();
    is_valid.then_some(network).ok_or(RULE)
}

fn resolver(text: &str) -> Result<Ipv4Addr, &'static str> {
    const RULE: &str = "write IPv4 addresses of resolvers with commas between them, no address of this host";
    let address: Ipv4Addr = text.parse().map_err(|_| RULE)?;
    let is_valid = !address.is_loopback() && !address.is_unspecified() && !address.is_multicast();
    is_valid.then_some(address).ok_or(RULE)
}

fn mode(text: &str) -> Result<RuntimeMode, &'static str> {
    match text {
        "process" => Ok(RuntimeMode::Process),
        "containerd" => Ok(RuntimeMode::Containerd),
        #[cfg(feature = "runtime-none")]
        "none" => Ok(RuntimeMode::None),
        "docker" => Ok(RuntimeMode::Docker),
        "podman" => Ok(RuntimeMode::Podman),
        _ => Err("set process, containerd, docker or podman, or unset it"),
    }
}
