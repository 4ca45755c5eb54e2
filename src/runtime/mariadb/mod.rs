//! A database for each instance on a MariaDB that the operator runs.
//!
//! | file | content |
//! |---|---|
//! | `mod.rs` | the implementation of [`Databases`] |
//! | `settings.rs` | how to reach MariaDB |
//! | `connection.rs` | one connection, with deadlines |
//! | `connections.rs` | the connections that are used again |
//! | `names.rs` | the generated names, which say whose a database is |
//! | `quoting.rs` | the only place where a text becomes SQL |
//! | `users.rs` | one database with its user |
//! | `seeds.rs` | the dump that is loaded once, and copied for each instance |
//! | `copy.rs` | the copy of a seed's tables, by several connections |
//! | `statements.rs` | the statements of a dump |
//! | `clean.rs` | drops everything of nodes that are cleaned |
//! | `survey.rs` | what the server offers, for the doctor |
//!
//! **Invariants.** The names on the server are generated from the node's id and the random part of an instance's id. No
//! password is stored: it is derived again from the node's secret. A database without an instance is found by its name.
//! Databases are dropped one at a time: each drop holds the lock of MariaDB's dictionary.

mod clean;
mod connection;
mod connections;
mod copy;
mod names;
mod quoting;
mod seeds;
mod settings;
mod statements;
mod survey;
mod users;

use std::collections::HashSet;
use std::sync::Arc;

use async_trait::async_trait;

use connection::Login;
use connections::Connections;
use names::OwnNames;
use seeds::Seeds;
use users::{create_user, drop_user_and_database};

use super::{DatabaseAccess, DatabaseError, DatabaseName, Databases};
use crate::instance::{InstanceId, NodeId};
use crate::template::{Database, Secret};

pub use clean::{RemainingDatabases, drop_all};
pub use connections::MAX_IDLE_CONNECTIONS;
pub use settings::{Settings, Tls};
pub use survey::{Survey, survey};

/// The databases of one node on a MariaDB.
#[derive(Debug)]
pub struct MariaDb {
    connections: Arc<Connections>,
    names: OwnNames,
    seeds: Seeds,
}

impl MariaDb {
    /// Creates the databases of a node. Nothing is asked of MariaDB yet.
    pub fn new(settings: Settings) -> Self {
        let names = OwnNames::new(&settings.prefix, &settings.node);
        Self { connections: Arc::new(Connections::new(settings)), names, seeds: Seeds::default() }
    }

    /// Returns the databases of another node, by the same connections.
    fn with_node(&self, node: &NodeId) -> Self {
        let names = OwnNames::new(&self.connections.settings().prefix, node);
        Self { connections: self.connections.clone(), names, seeds: Seeds::default() }
    }
}

#[async_trait]
impl Databases for MariaDb {
    fn is_configured(&self) -> bool {
        true
    }

    fn access(&self, id: &InstanceId) -> Option<DatabaseAccess> {
        let DatabaseName(name) = self.names.of_instance(id);
        let Settings { host, port, .. } = self.connections.settings();
        Some(DatabaseAccess { host: host.clone(), port: *port, user: name.clone(), name })
    }

    async fn create_database(
        &self,
        id: &InstanceId,
        wanted: &Database,
        password: &Secret,
    ) -> Result<(), DatabaseError> {
        let name = self.names.of_instance(id);
        let seed = match &wanted.seed {
            Some(path) => Some(self.seeds.prepare(&self.connections, &self.names, path).await?),
            None => None,
        };
        let mut connection = self.connections.open().await?;
        create_user(&mut connection, &name, password, wanted.max_connections).await?;
        if let Some(seed) = seed {
            let owner = Login { user: &name.0, password: Some(password), database: Some(&name.0) };
            let copied = self.seeds.copy(&seed, &self.connections, &mut connection, &name, &owner).await;
            if let Err(DatabaseError::Failed { .. }) = copied {
                // MariaDB may have lost the seed, or come back with older data.
                self.seeds.forget(&seed);
            }
            copied?;
        }
        self.connections.keep(connection);
        Ok(())
    }

    async fn drop_database(&self, id: &InstanceId) -> Result<(), DatabaseError> {
        drop_user_and_database(&self.connections, &self.names.of_instance(id)).await
    }

    async fn list(&self) -> Result<Vec<DatabaseName>, DatabaseError> {
        const NAMES: &str = "SELECT SCHEMA_NAME FROM information_schema.SCHEMATA WHERE LEFT(SCHEMA_NAME, ?) = ? \
            UNION SELECT User FROM mysql.user WHERE LEFT(User, ?) = ?";
        let start = self.names.start();
        let mut connection = self.connections.open().await?;
        let parameters = (start.len(), start, start.len(), start);
        let found: Vec<String> = connection.rows("list the databases", NAMES, parameters).await?;
        self.connections.keep(connection);
        Ok(found.into_iter().filter(|name| self.names.contain(name)).map(DatabaseName).collect())
    }

    async fn drop_unowned(
        &self,
        listed: Vec<DatabaseName>,
        owners: &HashSet<InstanceId>,
    ) -> Result<usize, DatabaseError> {
        let owned: HashSet<String> = owners.iter().map(|id| self.names.of_instance(id).0).collect();
        let unowned: Vec<_> = listed.into_iter().filter(|DatabaseName(name)| !owned.contains(name)).collect();
        if unowned.is_empty() {
            return Ok(0);
        }
        self.seeds.drop_unused(&self.connections, unowned).await
    }

    fn of_node(&self, node: &NodeId) -> Arc<dyn Databases> {
        Arc::new(self.with_node(node))
    }

    async fn shut_down(&self, kept: &HashSet<InstanceId>) -> Result<(), DatabaseError> {
        self.seeds.forget_all();
        let listed = self.list().await?;
        self.drop_unowned(listed, kept).await?;
        self.connections.close_idle().await;
        Ok(())
    }
}
