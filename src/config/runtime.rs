//! What runs instances, from the environment.

use std::net::Ipv4Addr;
#[cfg(feature = "runtime-none")]
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::env::Variables;
use super::units::{SIZE_RULE, parse_size};
use crate::runtime::LoginFile;
use crate::template::Image;
pub use crate::template::egress::EgressSettings;
use crate::template::egress::Ipv4Network;

/// Most bytes that the address of a socket has room for.
const LONGEST_SOCKET: usize = 107;

/// Which runtime, and what each of them needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Runtime {
    /// Which one.
    pub mode: RuntimeMode,
    /// The ports for instances on this host; never empty.
    pub ports: RangeInclusive<u16>,
    /// containerd's socket, an absolute path.
    pub containerd_address: PathBuf,
    /// The logins for registries; `None` when neither REGISTRY_AUTH_FILE nor HOME says where they are.
    pub logins: Option<LoginFile>,
    /// Whether containers are restored from checkpoints where the host can do it.
    pub criu_enabled: bool,
    /// Most bytes of memory that copies of checkpoints share (`SHARED_MEMORY_MAX`); `None` leaves it to the runtime.
    pub shared_memory: Option<u64>,
    /// How templates with `egress` are let out.
    pub outside: EgressSettings,
    /// Where instances that are records only are all said to listen (`CONTAINER_NONE_ENDPOINT`); `None` gives
    /// each an address of its own.
    #[cfg(feature = "runtime-none")]
    pub none_endpoint: Option<SocketAddr>,
}

/// The runtimes that this build has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuntimeMode {
    /// An instance is a child process.
    Process,
    /// An instance is a container.
    Containerd,
    /// An instance is a record only.
    #[cfg(feature = "runtime-none")]
    None,
}

impl Runtime {
    pub(super) fn read(env: &mut Variables<'_>) -> Self {
        let mode = env.get("CONTAINER_MODE", mode);
        let start = env.number("CONTAINER_PORT_RANGE_START", 1, 65_535).unwrap_or(32_000) as u16;
        let end = env.number("CONTAINER_PORT_RANGE_END", 1, 65_535).unwrap_or(32_999) as u16;
        if start > end {
            env.wrong(
                "CONTAINER_PORT_RANGE_START",
                format!("{start} is beyond CONTAINER_PORT_RANGE_END, which is {end}"),
                "set both so that the range holds a port",
            );
        }
        let yes_or_no = [("true", true), ("false", false), ("1", true), ("0", false)];
        Self {
            mode: mode.unwrap_or(RuntimeMode::Process),
            ports: start..=end,
            containerd_address: containerd_address(env),
            logins: logins(env),
            criu_enabled: env.word("CRIU_ENABLED", &yes_or_no).unwrap_or(true),
            shared_memory: env.get("SHARED_MEMORY_MAX", |text| {
                parse_size(text).ok_or_else(|| format!("{SIZE_RULE}, or 0"))
            }),
            outside: EgressSettings {
                range: env.get("EGRESS_RANGE", range).unwrap_or(EgressSettings::default().range),
                resolvers: env.list("EGRESS_DNS", resolver).filter(|resolvers| !resolvers.is_empty()),
                refresh: env
                    .duration("EGRESS_REFRESH", Duration::from_secs(1))
                    .unwrap_or(EgressSettings::default().refresh),
            },
            #[cfg(feature = "runtime-none")]
            none_endpoint: env.get("CONTAINER_NONE_ENDPOINT", |text| {
                text.parse().map_err(|_| "write an address and a port")
            }),
        }
    }
}

pub(super) fn containerd_address(env: &mut Variables<'_>) -> PathBuf {
    env.get("CONTAINERD_ADDRESS", socket).unwrap_or_else(|| "/run/containerd/containerd.sock".into())
}

/// The file that the operator names, else docker's.
fn logins(env: &Variables<'_>) -> Option<LoginFile> {
    let named = env.text("REGISTRY_AUTH_FILE").map(|path| LoginFile { path: path.into(), named: true });
    named.or_else(|| {
        let folder = env.text("DOCKER_CONFIG").map(PathBuf::from);
        let folder = folder.or_else(|| Some(Path::new(env.text("HOME")?).join(".docker")))?;
        Some(LoginFile { path: folder.join("config.json"), named: false })
    })
}

/// Whether instances are containers; `None` when CONTAINER_MODE is a mistake, and nothing follows from it.
pub(super) fn containers(env: &Variables<'_>) -> Option<bool> {
    match env.text("CONTAINER_MODE").map(mode) {
        None => Some(false),
        Some(Ok(mode)) => Some(mode == RuntimeMode::Containerd),
        Some(Err(_)) => None,
    }
}

/// The image of the one template of a server without a file (`has_file`).
pub(super) fn image(
    env: &mut Variables<'_>,
    containers: Option<bool>,
    has_file: bool,
    warnings: &mut Vec<String>,
) -> Option<Image> {
    const NAME: &str = "CONTAINER_IMAGE";
    match (containers?, env.text(NAME).is_some()) {
        (false, false) => {}
        (true, false) if has_file => {}
        (false, true) => {
            env.wrong(NAME, "an image needs containers", "set CONTAINER_MODE=containerd, or unset it");
        }
        (true, false) => env.wrong(
            NAME,
            "it is not set, and no file of templates names an image to run",
            "set it, or describe the apps in a file (serve --config FILE)",
        ),
        (true, true) => {
            let image = env.get(NAME, |text| match Image::parse(text, Path::new("")) {
                Ok(Image::Tar(path)) if !path.is_absolute() => Err("write oci: and an absolute path"),
                read => read,
            });
            if !has_file {
                return image;
            }
            warnings.push(format!("{NAME} is ignored: the file of templates says what to run"));
        }
    }
    None
}

/// Smallest and largest size of the range for instances, in bits of the network.
const RANGE_BITS: RangeInclusive<u8> = 9..=28;

fn range(text: &str) -> Result<Ipv4Network, &'static str> {
    const RULE: &str = "write a private range of IPv4 that nothing else on this host uses, from /9 to /28, such as \
                        10.213.0.0/16";
    let (base, bits) = text.split_once('/').ok_or(RULE)?;
    let base: Ipv4Addr = base.parse().map_err(|_| RULE)?;
    let bits = bits.parse().ok().filter(|bits| RANGE_BITS.contains(bits)).ok_or(RULE)?;
    let network = Ipv4Network::around(base, bits);
    let fine =
        base.is_private() && network.at(0) == base && network.at(network.size() as u32 - 1).is_private();
    fine.then_some(network).ok_or(RULE)
}

fn resolver(text: &str) -> Result<Ipv4Addr, &'static str> {
    const RULE: &str = "write IPv4 addresses of resolvers with commas between, none of this host's own";
    let address: Ipv4Addr = text.parse().map_err(|_| RULE)?;
    let fine = !address.is_loopback() && !address.is_unspecified() && !address.is_multicast();
    fine.then_some(address).ok_or(RULE)
}

fn mode(text: &str) -> Result<RuntimeMode, &'static str> {
    match text {
        "process" => Ok(RuntimeMode::Process),
        "containerd" => Ok(RuntimeMode::Containerd),
        #[cfg(feature = "runtime-none")]
        "none" => Ok(RuntimeMode::None),
        "docker" | "podman" => {
            Err("images run under containerd in place of docker and podman: set containerd, \
                                    and CONTAINERD_ADDRESS to its socket (docker brings one)")
        }
        _ => Err("set process or containerd, or unset it"),
    }
}

fn socket(text: &str) -> Result<PathBuf, &'static str> {
    let path = text.strip_prefix("unix://").unwrap_or(text);
    let fine = path.starts_with('/') && path.len() <= LONGEST_SOCKET && !path.contains('\0');
    fine.then(|| PathBuf::from(path)).ok_or(
        "write the absolute path of its socket, of at most 107 bytes, with or without unix:// before it",
    )
}
