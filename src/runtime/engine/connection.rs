//! Finds the engine's socket and agrees with the engine on a version of its API.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bollard::{API_DEFAULT_VERSION, ClientVersion, Docker};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::failure::EngineContext;
use super::settings::{EngineKind, Reach};
use crate::runtime::RuntimeError;

/// The oldest version of the API: that of Docker 20.10 and of Podman 4.
const OLDEST_API: (usize, usize) = (1, 41);
/// Longest time until a socket accepts a connection, and until the engine says what it is.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// Longest time until the engine begins to answer a request.
const ANSWER_DEADLINE: Duration = Duration::from_secs(60);

/// An engine that answers.
#[derive(Debug, Clone)]
pub(super) struct Connection {
    pub(super) docker: Docker,
    pub(super) socket: PathBuf,
    /// The engine's process, if this server can see it.
    pub(super) process: Option<i32>,
    pub(super) is_rootless: bool,
    /// Whether a container sees a mounted file with the owner and the rights that the file has here: the engine maps no
    /// users, and gives files no labels, as SELinux demands.
    pub(super) mounts_files_as_they_are: bool,
    version: String,
}

/// What an engine says about itself, for the operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineSurvey {
    /// The socket at which it answers.
    pub socket: PathBuf,
    /// Its version.
    pub version: String,
    /// The version of the API that both sides speak.
    pub api: String,
    /// Whether it runs without root.
    pub is_rootless: bool,
    /// How this server would reach apps.
    pub reach: Reach,
    /// Where its containers' files lie, such as `overlay2`.
    pub storage: String,
    /// Whether it is Docker with the image store of containerd.
    pub has_containerd_images: bool,
}

impl Connection {
    /// Connects to the first socket that answers.
    ///
    /// # Errors
    /// None answers, or the engine is too old. The text says what to do.
    pub(super) async fn open(kind: EngineKind, sockets: &[PathBuf]) -> Result<Self, RuntimeError> {
        let mut refusals = Vec::new();
        for socket in sockets {
            match timeout(CONNECT_DEADLINE, UnixStream::connect(socket)).await {
                Ok(Ok(stream)) => {
                    let pid = stream.peer_cred().ok().and_then(|peer| peer.pid()).filter(|pid| *pid > 0);
                    drop(stream);
                    return Self::agree(kind, socket, pid).await;
                }
                Ok(Err(error)) => refusals.push((socket.as_path(), error)),
                Err(_) => refusals.push((socket.as_path(), io::ErrorKind::TimedOut.into())),
            }
        }
        Err(RuntimeError::Io {
            operation: format!("reach {}", kind.title()),
            source: describe(kind, &refusals),
        })
    }

    /// Agrees on a version of the API.
    async fn agree(kind: EngineKind, socket: &Path, process: Option<i32>) -> Result<Self, RuntimeError> {
        let operation = || format!("talk to {} at {}", kind.title(), socket.display());
        let path = socket.display().to_string();
        let docker = Docker::connect_with_unix(&path, CONNECT_DEADLINE.as_secs(), API_DEFAULT_VERSION);
        let docker = docker.engine_context(operation)?.negotiate_version().await.engine_context(operation)?;
        let version = docker.version().await.engine_context(operation)?.version.unwrap_or_default();
        let spoken = docker.client_version();
        if (spoken.major_version, spoken.minor_version) < OLDEST_API {
            return Err(RuntimeError::Start(too_old(kind, &version, &spoken)));
        }
        let info = docker.info().await.engine_context(operation)?;
        let options = info.security_options.unwrap_or_default();
        let has = |name: &str| options.iter().any(|option| option.contains(name));
        let is_rootless = has("rootless");
        let mounts_files_as_they_are = !is_rootless && !has("userns") && !has("selinux");
        let docker = docker.with_timeout(ANSWER_DEADLINE);
        Ok(Self {
            docker,
            socket: socket.to_owned(),
            process,
            is_rootless,
            mounts_files_as_they_are,
            version,
        })
    }

    /// Returns how this server reaches apps: inside their network namespaces where it may enter those.
    pub(super) fn reach(&self) -> Reach {
        let may_enter = !self.is_rootless && self.process.is_some() && may_enter_namespaces();
        if may_enter { Reach::Namespace } else { Reach::Published }
    }
}

/// Returns what the first engine that answers says about itself, and changes nothing.
///
/// # Errors
/// No engine answers, or it is too old. The text says what to do.
pub async fn survey(kind: EngineKind, sockets: &[PathBuf]) -> Result<EngineSurvey, RuntimeError> {
    let connection = Connection::open(kind, sockets).await?;
    let info = connection.docker.info().await.engine_context(|| format!("ask {}", kind.title()))?;
    let status = info.driver_status.unwrap_or_default();
    let has_containerd_images = status.iter().flatten().any(|text| text.contains("containerd.snapshotter"));
    let api = connection.docker.client_version();
    Ok(EngineSurvey {
        version: connection.version.clone(),
        api: format!("{}.{}", api.major_version, api.minor_version),
        is_rootless: connection.is_rootless,
        reach: connection.reach(),
        storage: info.driver.unwrap_or_default(),
        has_containerd_images,
        socket: connection.socket,
    })
}

/// Returns whether this process may enter the network namespaces of others.
fn may_enter_namespaces() -> bool {
    let Ok(own) = std::fs::File::open("/proc/thread-self/ns/net") else { return false };
    // To enter the own namespace changes nothing and needs the same rights.
    rustix::process::geteuid().is_root()
        && nix::sched::setns(own, nix::sched::CloneFlags::CLONE_NEWNET).is_ok()
}

/// Returns why no socket answered, with what to do.
fn describe(kind: EngineKind, refusals: &[(&Path, io::Error)]) -> io::Error {
    let (title, variable) = (kind.title(), kind.variable());
    // A socket that exists says more than one that does not.
    let found = refusals.iter().find(|(_, error)| error.kind() != io::ErrorKind::NotFound);
    let Some((socket, error)) = found else {
        let paths: Vec<String> = refusals.iter().map(|(path, _)| path.display().to_string()).collect();
        let start = match kind {
            EngineKind::Docker => "start Docker (systemctl start docker)",
            EngineKind::Podman => {
                "start its service (systemctl start podman.socket, or podman system service --time=0)"
            }
        };
        let text = format!(
            "no socket at {}: {start}, or set {variable} to unix:// and the path of its socket",
            paths.join(", ")
        );
        return io::Error::new(io::ErrorKind::NotFound, text);
    };
    let socket = socket.display();
    let text = match error.kind() {
        io::ErrorKind::PermissionDenied => format!(
            "this user may not use {socket}: run the server as a user of the socket's group (usermod --append \
             --groups docker USER, then log in again), or set {variable} to the socket of a rootless {title}"
        ),
        io::ErrorKind::ConnectionRefused => {
            format!("{socket} exists and nothing listens there: start {title} again")
        }
        io::ErrorKind::TimedOut => format!("{socket} accepts no connection: look at the log of {title}"),
        _ => format!("{socket}: {error}"),
    };
    io::Error::new(error.kind(), text)
}

fn too_old(kind: EngineKind, version: &str, spoken: &ClientVersion) -> String {
    let newer = match kind {
        EngineKind::Docker => "Docker 20.10",
        EngineKind::Podman => "Podman 4.3",
    };
    format!(
        "{} {version} speaks version {}.{} of the API, and {}.{} is the oldest that works: install {newer} or newer",
        kind.title(),
        spoken.major_version,
        spoken.minor_version,
        OLDEST_API.0,
        OLDEST_API.1
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_why_no_socket_answers_has_a_remedy() {
        let (a, b) = (Path::new("/a.sock"), Path::new("/b.sock"));
        let missing = || io::Error::from(io::ErrorKind::NotFound);
        let denied = || io::Error::from(io::ErrorKind::PermissionDenied);
        let text = |kind, refusals: &[_]| describe(kind, refusals).to_string();
        let none = text(EngineKind::Docker, &[(a, missing()), (b, missing())]);
        assert!(none.contains("/a.sock, /b.sock") && none.contains("DOCKER_HOST"), "{none}");
        let podman = text(EngineKind::Podman, &[(a, missing())]);
        assert!(podman.contains("podman.socket") && podman.contains("CONTAINER_HOST"), "{podman}");
        // The one that exists is named, not the one before it.
        let denied = text(EngineKind::Docker, &[(a, missing()), (b, denied())]);
        assert!(denied.contains("/b.sock") && denied.contains("--groups docker"), "{denied}");
        let refused = text(EngineKind::Docker, &[(a, io::ErrorKind::ConnectionRefused.into())]);
        assert!(refused.contains("nothing listens there"), "{refused}");
    }

    #[tokio::test]
    async fn an_engine_that_is_away_is_an_error_that_names_the_places() {
        let nowhere = [PathBuf::from("/nowhere/docker.sock")];
        let error = Connection::open(EngineKind::Docker, &nowhere).await.unwrap_err().to_string();
        assert!(error.contains("/nowhere/docker.sock"), "{error}");
    }

    #[test]
    fn an_old_engine_is_refused_by_its_versions() {
        let spoken = ClientVersion { major_version: 1, minor_version: 40 };
        let text = too_old(EngineKind::Docker, "19.03", &spoken);
        assert!(text.contains("19.03") && text.contains("1.40") && text.contains("Docker 20.10"), "{text}");
    }
}
