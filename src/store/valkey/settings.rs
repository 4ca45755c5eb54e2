//! Where Valkey is, how to log in, and which of its keys belong to this cluster.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::clock::Clock;
use crate::instance::NodeId;

/// Default of [`Settings::call_timeout`].
pub const CALL_TIMEOUT: Duration = Duration::from_secs(1);

/// Default of [`Settings::max_route_events`].
pub const MAX_ROUTE_EVENTS: usize = 65_536;

/// Default of [`Settings::recovery_timeout`].
pub const RECOVERY_TIMEOUT: Duration = Duration::from_secs(5);

/// The settings of a [`ValkeyStore`](super::ValkeyStore).
///
/// The default is one server on this host at the usual port, without a password, with the usual keys and a random node.
#[derive(Clone)]
pub struct Settings {
    /// The address of the one server, or addresses of some Sentinels or of some servers of the cluster.
    pub addresses: Vec<Address>,
    /// What listens at those addresses.
    pub mode: Mode,
    /// The user; `None` is Valkey's default user.
    pub username: Option<String>,
    /// The password of that user.
    pub password: Option<String>,
    /// The number of the database; 0 on a cluster.
    pub db: i64,
    /// Whether to speak TLS, with the certificates that this system trusts.
    pub tls: bool,
    /// What all keys begin with: a hash tag, so that a cluster keeps them on one server.
    pub prefix: String,
    /// Longest time of one call, including the time to connect.
    pub call_timeout: Duration,
    /// The clock of the scripts: [`Clock::Shared`], which heartbeats align with that of the cluster, or that of a test.
    /// `None` is Valkey's own, with the difference that heartbeats of other nodes have found.
    pub clock: Option<Clock>,
    /// Route events kept for followers that lag behind.
    pub max_route_events: usize,
    /// The node that uses the store. No two servers have the same name.
    pub node: NodeId,
    /// How long a recovery waits without a new report for nodes that have not reported yet.
    pub recovery_timeout: Duration,
}

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A host and a port.
    Tcp(String, u16),
    /// A socket in the file system of this host.
    Unix(PathBuf),
}

/// What listens at the addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// One server.
    Single,
    /// Sentinels, which know the primary server.
    Sentinel {
        /// The name by which the Sentinels know the service.
        service: String,
    },
    /// A cluster.
    Cluster,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { addresses, mode, db, tls, prefix, .. } = self;
        write!(f, "{mode:?} {addresses:?}, database {db}, tls {tls}, keys {prefix}")
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            addresses: vec![Address::Tcp("127.0.0.1".to_owned(), 6379)],
            mode: Mode::Single,
            username: None,
            password: None,
            db: 0,
            tls: false,
            prefix: "{try-it-now}".to_owned(),
            call_timeout: CALL_TIMEOUT,
            clock: None,
            max_route_events: MAX_ROUTE_EVENTS,
            node: NodeId::random(),
            recovery_timeout: RECOVERY_TIMEOUT,
        }
    }
}
