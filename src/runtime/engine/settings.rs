//! Settings of the engine runtime.

use std::path::PathBuf;

use crate::instance::NodeId;
use crate::runtime::LoginFile;

/// A container engine. Both speak the API of Docker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineKind {
    /// Docker.
    Docker,
    /// Podman.
    Podman,
}

/// How the server connects to apps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// The server makes its sockets in the container's network namespace.
    Namespace,
    /// The engine publishes a port of 127.0.0.1 for each container.
    Published,
}

/// Settings of an engine runtime.
#[derive(Debug, Clone)]
pub struct EngineSettings {
    /// The engine.
    pub kind: EngineKind,
    /// Where its socket may be. The first one that answers is used.
    pub sockets: Vec<PathBuf>,
    /// The node's id. No other server may use it, which the caller ensures by a lock.
    pub node: NodeId,
    /// The file with logins for registries, which is read at each pull; `None` pulls without logins.
    pub logins: Option<LoginFile>,
    /// The folder for files that containers mount. It may not exist yet, and belongs to this runtime alone.
    pub files_dir: PathBuf,
    /// How apps are reached; `None` lets the host and the engine decide.
    pub reach: Option<Reach>,
}

impl EngineKind {
    /// Returns the name in `CONTAINER_MODE` and `/health`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Podman => "podman",
        }
    }

    /// Returns the name for people.
    pub fn title(self) -> &'static str {
        match self {
            Self::Docker => "Docker",
            Self::Podman => "Podman",
        }
    }

    /// Returns the variable that names its socket.
    pub(super) fn variable(self) -> &'static str {
        match self {
            Self::Docker => "DOCKER_HOST",
            Self::Podman => "CONTAINER_HOST",
        }
    }
}
