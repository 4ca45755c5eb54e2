//! The removal of all databases of nodes (`try-it-now clean`).

use std::collections::HashSet;

use super::{MariaDb, Settings};
use crate::instance::NodeId;
use crate::runtime::{DatabaseError, Databases};

/// The databases that were not dropped.
#[derive(Debug)]
pub struct RemainingDatabases {
    /// What their names begin with: one text for each node.
    pub prefixes: Vec<String>,
    /// Why those of the first of these nodes were not dropped.
    pub reason: DatabaseError,
}

/// Drops all databases and users of these nodes, whose instances have ended. Returns how many names there were, and what
/// could not be dropped. Once MariaDB does not answer, it is asked no more.
pub async fn drop_all(settings: &Settings, nodes: &[NodeId]) -> (usize, Option<RemainingDatabases>) {
    let (mut dropped, mut remaining) = (0, None::<RemainingDatabases>);
    let server = MariaDb::new(settings.clone());
    for node in nodes {
        let databases = server.with_node(node);
        let prefix = databases.names.start().to_owned();
        if let Some(RemainingDatabases { prefixes, reason: DatabaseError::Unreachable { .. } }) =
            &mut remaining
        {
            prefixes.push(prefix);
            continue;
        }
        match drop_all_of(&databases).await {
            Ok(count) => dropped += count,
            Err(reason) => {
                let first = RemainingDatabases { prefixes: Vec::new(), reason };
                remaining.get_or_insert(first).prefixes.push(prefix);
            }
        }
    }
    server.connections.close_idle().await;
    (dropped, remaining)
}

async fn drop_all_of(databases: &MariaDb) -> Result<usize, DatabaseError> {
    databases.drop_unowned(databases.list().await?, &HashSet::new()).await
}
