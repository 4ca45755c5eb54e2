//! Where this program keeps things on the host, from the environment.

use std::path::PathBuf;

use super::database::{self, DatabaseSettings};
use super::engine::EngineSockets;
use super::env::{Environment, Variables};
use super::errors::ConfigErrors;
use super::runtime;

/// The part of the settings that does not depend on what the server serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostSettings {
    /// The folder for state that outlives the process.
    pub state_dir: PathBuf,
    /// containerd's socket, an absolute path.
    pub containerd_address: PathBuf,
    /// Where the sockets of Docker and Podman may be.
    pub engine_sockets: EngineSockets,
    /// The MariaDB on which instances have their databases, if there is one.
    pub database: Option<DatabaseSettings>,
}

impl HostSettings {
    /// Reads the settings from environment variables. Errors in other variables are ignored.
    ///
    /// # Errors
    /// All errors, in the order of reading.
    pub fn load(env: &Environment) -> Result<Self, ConfigErrors> {
        let mut env = Variables::new(env);
        let host = Self {
            state_dir: state_dir(&mut env),
            containerd_address: runtime::containerd_address(&mut env),
            engine_sockets: EngineSockets::read(&mut env, false, false),
            database: database::read(&mut env),
        };
        env.errors.into_result(host)
    }
}

/// Returns `STATE_DIR`, else the user's state folder.
pub(super) fn state_dir(env: &mut Variables<'_>) -> PathBuf {
    let own = env.text("STATE_DIR");
    // The XDG specification says to ignore a relative path.
    let xdg = env.text("XDG_STATE_HOME").map(PathBuf::from).filter(|state| state.is_absolute());
    let home = env.text("HOME").map(PathBuf::from);
    let found = own
        .map(PathBuf::from)
        .or_else(|| Some(xdg?.join("try-it-now")))
        .or_else(|| Some(home?.join(".local/state/try-it-now")));
    found.unwrap_or_else(|| {
        env.report("STATE_DIR", "it is not set, nor is HOME, from which it follows", "set it to a folder");
        PathBuf::new()
    })
}
