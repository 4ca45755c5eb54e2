//! What the runtime is told at its start.

use std::ffi::OsString;
use std::path::PathBuf;

use super::super::LoginFile;
use super::Watcher;
use crate::instance::NodeId;
use crate::template::egress::EgressSettings;

/// What a containerd runtime needs to know.
#[derive(Debug, Clone)]
pub struct Settings {
    /// containerd's socket.
    pub address: PathBuf,
    /// The node's folder for containers. Nobody else may use it, which the caller ensures by a lock.
    pub folder: PathBuf,
    /// Who we are.
    pub node: NodeId,
    /// The logins for registries, read at each pull; `None` pulls without.
    pub logins: Option<LoginFile>,
    /// Whether instances may be restored from checkpoints. Where the host cannot do that, all starts are cold.
    pub criu: bool,
    /// Most bytes of memory that all copies of checkpoints share, whoever uses it; 0 has each copy have its own.
    pub shared_memory: u64,
    /// Where `nft` is looked for, as in `PATH`; `None` means this process's own.
    pub path: Option<OsString>,
    /// The program of this server, which calls [`internal_command`] before all else; `None` has runc restore instances.
    pub program: Option<PathBuf>,
    /// How instances are let out whose template wants it.
    pub outside: EgressSettings,
    /// Who is told of each step. Nobody, unless faults are tried.
    pub watcher: Watcher,
}

impl Settings {
    /// With everything else as usual.
    pub fn new(address: PathBuf, folder: PathBuf, node: NodeId) -> Self {
        Self {
            address,
            folder,
            node,
            logins: None,
            criu: true,
            shared_memory: a_quarter_of_the_memory(),
            path: None,
            program: None,
            outside: EgressSettings::default(),
            watcher: Watcher::default(),
        }
    }
}

/// Bytes: what copies may share where nobody said.
pub fn a_quarter_of_the_memory() -> u64 {
    let host = rustix::system::sysinfo();
    host.totalram.saturating_mul(u64::from(host.mem_unit)) / 4
}
