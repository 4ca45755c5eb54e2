//! How to reach MariaDB, and how the names there begin.

use std::time::Duration;

use crate::instance::NodeId;
use crate::template::Secret;

/// Whether connections to MariaDB are encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tls {
    /// Encrypted where MariaDB offers it, with whatever certificate.
    Prefer,
    /// Encrypted, with a certificate for the configured host that this system trusts.
    Verify,
    /// Not encrypted.
    Off,
}

/// The settings of [`MariaDb`](super::MariaDb).
#[derive(Debug, Clone)]
pub struct Settings {
    /// A host name or an address.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The user that makes databases and users.
    pub user: String,
    /// Its password.
    pub password: Option<Secret>,
    /// Whether connections are encrypted.
    pub tls: Tls,
    /// What each generated name begins with: 1 to 20 lower-case letters, digits and underscores.
    pub prefix: String,
    /// The node whose databases these are.
    pub node: NodeId,
    /// Longest time for one statement.
    pub statement_deadline: Duration,
}

impl Settings {
    /// The usual longest time for one statement.
    pub const STATEMENT_DEADLINE: Duration = Duration::from_secs(60);

    /// Returns host and port, for errors.
    pub(super) fn address(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}
