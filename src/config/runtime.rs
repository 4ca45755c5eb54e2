//! What runs instances, from the environment.

#[cfg(feature = "runtime-none")]
use std::net::SocketAddr;
use std::ops::RangeInclusive;

use super::env::Variables;

/// Which runtime, and the ports that it may give out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Runtime {
    /// Which one.
    pub mode: RuntimeMode,
    /// The ports for instances on this host; never empty.
    pub ports: RangeInclusive<u16>,
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
    /// An instance is a record only.
    #[cfg(feature = "runtime-none")]
    None,
}

impl Runtime {
    pub(super) fn read(env: &mut Variables<'_>) -> Self {
        let wanted = env.text("CONTAINER_MODE");
        let mode = env.get("CONTAINER_MODE", mode);
        // Where the mode is at fault, an image is one less thing to unset.
        if env.text("CONTAINER_IMAGE").is_some() && (mode.is_some() || wanted.is_none()) {
            env.wrong(
                "CONTAINER_IMAGE",
                "an image needs containers, which this build cannot run yet",
                "unset it, and describe the app by its command in a file of templates (serve --config FILE)",
            );
        }
        let start = env.number("CONTAINER_PORT_RANGE_START", 1, 65_535).unwrap_or(32_000) as u16;
        let end = env.number("CONTAINER_PORT_RANGE_END", 1, 65_535).unwrap_or(32_999) as u16;
        if start > end {
            env.wrong(
                "CONTAINER_PORT_RANGE_START",
                format!("{start} is beyond CONTAINER_PORT_RANGE_END, which is {end}"),
                "set both so that the range holds a port",
            );
        }
        Self {
            mode: mode.unwrap_or(RuntimeMode::Process),
            ports: start..=end,
            #[cfg(feature = "runtime-none")]
            none_endpoint: env.get("CONTAINER_NONE_ENDPOINT", |text| {
                text.parse().map_err(|_| "write an address and a port")
            }),
        }
    }
}

fn mode(text: &str) -> Result<RuntimeMode, &'static str> {
    match text {
        "process" => Ok(RuntimeMode::Process),
        #[cfg(feature = "runtime-none")]
        "none" => Ok(RuntimeMode::None),
        "containerd" => Err("this build has no containerd runtime yet: set process or unset it"),
        "docker" | "podman" => Err(
            "images run under containerd in place of docker and podman, which this build cannot do yet: until it \
             can, set process and describe the app by its command in a file of templates (serve --config FILE)",
        ),
        _ => Err("set process or unset it"),
    }
}
