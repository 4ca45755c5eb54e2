//! How to find a Valkey, and what is ours in it.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::clock::Clock;
use crate::instance::NodeId;

/// Longest time of one call, unless [`Settings`] say otherwise.
pub const DEADLINE: Duration = Duration::from_secs(1);

/// Route events kept for followers that lag behind, unless [`Settings`] say otherwise.
pub const ROUTE_EVENTS: usize = 65_536;

/// How long a store that came back waits for nodes that were there, unless [`Settings`] say otherwise.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// How to find a Valkey, and what is ours in it.
#[derive(Clone)]
pub struct Settings {
    /// Of the one server, or of some of the Sentinels or of the cluster's servers.
    pub addresses: Vec<Address>,
    /// What is at those addresses.
    pub mode: Mode,
    /// Who we are there; `None` is the default user.
    pub username: Option<String>,
    /// The password.
    pub password: Option<String>,
    /// The number of the database; 0 on a cluster.
    pub db: i64,
    /// Whether to speak TLS, with the certificates that this system trusts.
    pub tls: bool,
    /// What all keys begin with: a hash tag, so that they lie together.
    pub prefix: String,
    /// Longest time of one call, a new connection included.
    pub deadline: Duration,
    /// Whose time it is: `None` is Valkey's own. Only tests have another.
    pub clock: Option<Clock>,
    /// Route events kept for followers that lag behind.
    pub route_events: usize,
    /// Whose store it is. No two servers have the same.
    pub node: NodeId,
    /// How long a store that came back waits for nodes that were there before it went away.
    pub patience: Duration,
}

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A host and a port.
    Tcp(String, u16),
    /// A socket in the file system of this host.
    Unix(PathBuf),
}

/// What is at the addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// One server.
    Single,
    /// Sentinels, which know the server in charge.
    Sentinel {
        /// The name that they know it by.
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

/// One server of this host at the usual port, without a password, our usual keys, and a node that nobody knows.
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
            deadline: DEADLINE,
            clock: None,
            route_events: ROUTE_EVENTS,
            node: NodeId::random(),
            patience: PATIENCE,
        }
    }
}
