//! Where the sockets of container engines may be, from the environment.

use std::path::PathBuf;

use super::env::Variables;
use super::socket::socket;

/// The sockets of an engine that runs as root.
const DOCKER_SOCKET: &str = "/run/docker.sock";
const PODMAN_SOCKET: &str = "/run/podman/podman.sock";

/// Where the engines' sockets may be. The first that answers counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineSockets {
    /// Docker's.
    pub docker: Vec<PathBuf>,
    /// Podman's.
    pub podman: Vec<PathBuf>,
}

impl EngineSockets {
    /// Reads the variables that the engines' own tools read, else lists the usual places: the engine of root first, then
    /// that of the user. A value that this server cannot use is an error only where that engine is needed.
    pub(super) fn read(env: &mut Variables<'_>, needs_docker: bool, needs_podman: bool) -> Self {
        let named_docker = named(env, "DOCKER_HOST", needs_docker);
        let named_podman = named(env, "CONTAINER_HOST", needs_podman);
        let user = env.text("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|folder| folder.is_absolute());
        let home = env.text("HOME").map(PathBuf::from);
        let usual = |root: &str, of_user: &str, of_home: Option<&str>| {
            let user = user.as_ref().map(|folder| folder.join(of_user));
            let home = home.as_ref().zip(of_home).map(|(folder, path)| folder.join(path));
            [Some(PathBuf::from(root)), user, home].into_iter().flatten().collect::<Vec<_>>()
        };
        Self {
            docker: named_docker
                .unwrap_or_else(|| usual(DOCKER_SOCKET, "docker.sock", Some(".docker/run/docker.sock"))),
            podman: named_podman.unwrap_or_else(|| usual(PODMAN_SOCKET, "podman/podman.sock", None)),
        }
    }
}

/// Returns the socket that a variable names.
fn named(env: &mut Variables<'_>, name: &'static str, is_needed: bool) -> Option<Vec<PathBuf>> {
    let text = env.text(name)?;
    match socket(text) {
        Ok(path) => Some(vec![path]),
        Err(_) if is_needed => {
            let remedy =
                "the engine must run on this host: write unix:// and the absolute path of its socket";
            env.report_value(name, text, remedy);
            None
        }
        Err(_) => None,
    }
}
