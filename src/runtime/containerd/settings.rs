//! Settings of the containerd runtime.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::watch;

use super::fault_points::FaultInjector;
use super::host::node_group::NodeLimitSettings;
use crate::instance::NodeId;
use crate::runtime::{LoginFile, UserNamespaces};
use crate::template::egress::EgressSettings;

/// Settings of a containerd runtime.
#[derive(Debug, Clone)]
pub struct ContainerdSettings {
    /// containerd's socket.
    pub socket: PathBuf,
    /// The node's folder for containers. No other server may use it, which the caller ensures by a lock.
    pub node_dir: PathBuf,
    /// The node's id.
    pub node: NodeId,
    /// The file with logins for registries, which is read at each pull; `None` pulls without logins.
    pub logins: Option<LoginFile>,
    /// Whether instances may be restored from checkpoints. Where the host cannot restore, all starts are cold.
    pub may_restore: bool,
    /// Most bytes that the shared memory of all checkpoints may take together; 0 gives each instance memory of its own.
    pub shared_memory_limit: u64,
    /// Longest time that CRIU may take to freeze an instance.
    pub freeze_timeout: Duration,
    /// Limits of all instances of the node together.
    pub node_limits: NodeLimitSettings,
    /// Search path in which `nft` is looked up, in the form of `PATH`; `None` uses the path of this process.
    pub search_path: Option<OsString>,
    /// This server's own program, which calls [`internal_command`](super::internal_command) before all else; `None` has
    /// runc restore instances.
    pub program: Option<PathBuf>,
    /// How instances of templates with egress reach the internet.
    pub egress: EgressSettings,
    /// Host and port of the database server that apps with a database reach; `None` where there is none.
    pub database_server: Option<(String, u16)>,
    /// Whether the changes of cgroups of the whole host are made fast until it is booted again.
    pub fast_cgroup_changes: bool,
    /// Whether each instance has a user namespace. Without [`program`](Self::program) none has one.
    pub user_namespaces: UserNamespaces,
    /// Hosts that no instance reaches, whatever its template allows: names and addresses of the store and the nodes. They
    /// change at run time.
    pub forbidden_hosts: watch::Receiver<BTreeSet<String>>,
    /// The fault injector of a test; the default injects no faults.
    pub faults: FaultInjector,
}

impl ContainerdSettings {
    /// Returns settings with defaults for everything else.
    pub fn new(socket: PathBuf, node_dir: PathBuf, node: NodeId) -> Self {
        Self {
            socket,
            node_dir,
            node,
            logins: None,
            may_restore: true,
            freeze_timeout: Duration::from_secs(240),
            shared_memory_limit: default_shared_memory_limit(),
            node_limits: NodeLimitSettings::default(),
            search_path: None,
            program: None,
            egress: EgressSettings::default(),
            database_server: None,
            fast_cgroup_changes: true,
            user_namespaces: UserNamespaces::Auto,
            forbidden_hosts: watch::channel(BTreeSet::new()).1,
            faults: FaultInjector::default(),
        }
    }
}

/// Returns the default limit of shared memory in bytes: a quarter of the host's memory.
pub fn default_shared_memory_limit() -> u64 {
    let host = rustix::system::sysinfo();
    host.totalram.saturating_mul(u64::from(host.mem_unit)) / 4
}
