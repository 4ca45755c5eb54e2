//! The connections of the configured user. One whose operation has succeeded is used again.
//!
//! **Invariants.** A connection is kept only by [`Connections::keep`], after its operation. One whose operation failed, took
//! too long or was cancelled is dropped, which closes it. A kept one logs in again before it is lent: MariaDB then rolls back,
//! removes locks and temporary tables, and forgets variables and the database in use. So nothing of one operation reaches
//! the next, and a connection that a restart of MariaDB has broken is noticed before anything depends on it.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until};

use super::connection::Connection;
use super::settings::Settings;
use crate::runtime::DatabaseError;
use crate::telemetry::task;

/// The most connections of this program that stay open without use.
pub const MAX_IDLE_CONNECTIONS: usize = 16;
/// How long a connection stays open without use.
const IDLE_TIMEOUT: Duration = Duration::from_secs(5);

/// The connections of the configured user to one MariaDB.
#[derive(Debug)]
pub(super) struct Connections {
    settings: Settings,
    idle: Arc<Mutex<Idle>>,
    /// Held by the one drop of a database in progress.
    dropping: tokio::sync::Mutex<()>,
}

/// The connections without use.
#[derive(Debug, Default)]
struct Idle {
    /// With the time since when; the most recent one last.
    connections: Vec<(Instant, Connection)>,
    /// Whether a task closes them in time. It ends when there are none.
    has_closer: bool,
}

impl Connections {
    /// Connects to nothing yet.
    pub(super) fn new(settings: Settings) -> Self {
        Self { settings, idle: Arc::default(), dropping: tokio::sync::Mutex::default() }
    }

    /// Returns how to reach MariaDB.
    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Returns a connection in the state of a new one: one that was kept, or else a new one.
    ///
    /// # Errors
    /// MariaDB does not answer, or does not let this program in.
    pub(super) async fn open(&self) -> Result<Connection, DatabaseError> {
        let kept = self.idle.lock().connections.pop();
        if let Some((_, mut connection)) = kept {
            match connection.log_in_again().await {
                Ok(()) => return Ok(connection),
                Err(why) => {
                    tracing::debug!(%why, "kept connection to MariaDB is of no use; opening another");
                    // What broke it, such as a restart, broke the others too.
                    self.idle.lock().connections.clear();
                }
            }
        }
        Connection::open(&self.settings).await
    }

    /// Keeps a connection whose operation has succeeded for the next one. It is closed if there are enough.
    pub(super) fn keep(&self, connection: Connection) {
        let mut idle = self.idle.lock();
        if idle.connections.len() == MAX_IDLE_CONNECTIONS {
            return;
        }
        idle.connections.push((Instant::now(), connection));
        if !std::mem::replace(&mut idle.has_closer, true) {
            task::spawn("close idle connections to MariaDB", close_in_time(self.idle.clone()));
        }
    }

    /// Closes the connections without use, and waits until MariaDB has noticed.
    pub(super) async fn close_idle(&self) {
        let connections = std::mem::take(&mut self.idle.lock().connections);
        close_all(connections).await;
    }

    /// Waits until no other database is being dropped by this process, and keeps others from it until the guard is
    /// dropped. Each drop of a table holds the lock of MariaDB's dictionary, for which apps wait.
    pub(super) async fn begin_drop(&self) -> impl Drop + Send {
        self.dropping.lock().await
    }
}

/// Closes each connection that was without use for [`IDLE_TIMEOUT`], until there are none.
async fn close_in_time(idle: Arc<Mutex<Idle>>) {
    loop {
        let oldest = {
            let mut idle = idle.lock();
            match idle.connections.first() {
                Some((since, _)) => *since,
                None => {
                    idle.has_closer = false;
                    return;
                }
            }
        };
        sleep_until(oldest + IDLE_TIMEOUT).await;
        let expired = {
            let connections = &mut idle.lock().connections;
            let count = connections.partition_point(|(since, _)| since.elapsed() >= IDLE_TIMEOUT);
            connections.drain(..count).collect()
        };
        close_all(expired).await;
    }
}

async fn close_all(connections: Vec<(Instant, Connection)>) {
    join_all(connections.into_iter().map(|(_, connection)| connection.close())).await;
}
