//! The trait that gives each instance a database of its own.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;

use crate::instance::{InstanceId, NodeId};
use crate::template::{Database, Secret};

/// How an app connects to its instance's database. The password is derived and never stored, so it is not here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseAccess {
    /// The host of the database server, as the operator configured it.
    pub host: String,
    /// The port of the database server.
    pub port: u16,
    /// The database's name: lower-case letters, digits and underscores.
    pub name: String,
    /// The user that has rights on this database alone: lower-case letters, digits and underscores.
    pub user: String,
}

/// The name that a database, a user or both have on the database server. It belongs to this node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DatabaseName(pub String);

/// Why a database could not be made, listed or dropped.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// No database server is configured.
    #[error("no database server is configured; set PS_DB_HOST, PS_DB_USER and PS_DB_PASSWORD")]
    NotConfigured,
    /// The server does not answer, or does not let this program in.
    #[error("cannot connect to MariaDB at {address}: {why}; start it, or correct the PS_DB_ variables")]
    Unreachable {
        /// Host and port.
        address: String,
        /// The reason that the system or MariaDB gave.
        why: String,
    },
    /// The server refuses, or the connection broke.
    #[error("cannot {operation}: {why}")]
    Failed {
        /// The operation: a verb and its object.
        operation: String,
        /// The reason that MariaDB gave.
        why: String,
    },
    /// The server took longer than it may.
    #[error("cannot {operation}: MariaDB did not answer in time")]
    Late {
        /// The operation: a verb and its object.
        operation: String,
    },
    /// The seed cannot be read or loaded.
    #[error("cannot load the seed {}: {why}", path.display())]
    Seed {
        /// The file of the seed.
        path: PathBuf,
        /// Where and why, with a remedy.
        why: String,
    },
}

/// Makes and drops the databases of this node's instances. Every call ends in a bounded time. All implementations with a
/// server pass the conformance suite in `tests/suites/databases.rs`.
#[async_trait]
pub trait Databases: Send + Sync + 'static {
    /// Returns whether a database server is configured.
    fn is_configured(&self) -> bool;

    /// Returns how the app of an instance will connect; `None` where no database server is configured.
    fn access(&self, id: &InstanceId) -> Option<DatabaseAccess>;

    /// Makes the database of an instance from the seed, and a user with this password and rights on it alone.
    ///
    /// # Errors
    /// The server does not answer or refuses, or the seed cannot be loaded. What was made so far remains until
    /// [`Databases::drop_database`].
    async fn create_database(
        &self,
        id: &InstanceId,
        wanted: &Database,
        password: &Secret,
    ) -> Result<(), DatabaseError>;

    /// Drops the user and the database of an instance and ends its connections. It succeeds if there is nothing to drop.
    ///
    /// # Errors
    /// The server does not answer or refuses. The call may be repeated.
    async fn drop_database(&self, id: &InstanceId) -> Result<(), DatabaseError>;

    /// Lists the names of all databases and users that this node made and that exist.
    ///
    /// # Errors
    /// The server does not answer or refuses.
    async fn list(&self) -> Result<Vec<DatabaseName>, DatabaseError>;

    /// Drops what `listed` names and no instance of `owners` has, and what no seed in use needs. Returns the number of
    /// names that were dropped.
    ///
    /// **Invariant.** `listed` is from before `owners` was collected: what is made in between is not in it.
    ///
    /// # Errors
    /// The server does not answer or refuses. The rest stays for the next call.
    async fn drop_unowned(
        &self,
        listed: Vec<DatabaseName>,
        owners: &HashSet<InstanceId>,
    ) -> Result<usize, DatabaseError>;

    /// Returns the databases of another node on the same database server.
    fn of_node(&self, node: &NodeId) -> Arc<dyn Databases>;

    /// Drops all that this node made, but for the databases of these instances, before the server process ends. Other
    /// calls are not made any more.
    ///
    /// # Errors
    /// The server does not answer or refuses. The rest stays until [`Databases::drop_unowned`] of the next process.
    async fn shut_down(&self, kept: &HashSet<InstanceId>) -> Result<(), DatabaseError>;
}

/// The implementation where no database server is configured: no instance has a database.
#[derive(Debug, Default)]
pub struct NoDatabases;

#[async_trait]
impl Databases for NoDatabases {
    fn is_configured(&self) -> bool {
        false
    }

    fn access(&self, _id: &InstanceId) -> Option<DatabaseAccess> {
        None
    }

    async fn create_database(
        &self,
        _id: &InstanceId,
        _wanted: &Database,
        _password: &Secret,
    ) -> Result<(), DatabaseError> {
        Err(DatabaseError::NotConfigured)
    }

    async fn drop_database(&self, _id: &InstanceId) -> Result<(), DatabaseError> {
        Ok(())
    }

    async fn list(&self) -> Result<Vec<DatabaseName>, DatabaseError> {
        Ok(Vec::new())
    }

    async fn drop_unowned(
        &self,
        _listed: Vec<DatabaseName>,
        _owners: &HashSet<InstanceId>,
    ) -> Result<usize, DatabaseError> {
        Ok(0)
    }

    fn of_node(&self, _node: &NodeId) -> Arc<dyn Databases> {
        Arc::new(Self)
    }

    async fn shut_down(&self, _kept: &HashSet<InstanceId>) -> Result<(), DatabaseError> {
        Ok(())
    }
}
