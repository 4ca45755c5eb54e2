//! The tables of a seed are copied by several connections at a time.
//!
//! **Trap.** A copy mostly waits. InnoDB extends the file of a small table by one page at a time and writes each extension
//! to the disk, twice for each page: 10,000 calls of `fdatasync` for 100 tables of 500 kB. Connections that wait at the same
//! time wait for the same writes of the disk's journal.
//!
//! **Trap.** `unique_checks=0` together with `foreign_key_checks=0` selects MariaDB's bulk insertion, which sorts and builds
//! each index of each table by itself. It takes several times the processor time where tables are small, and gains
//! nothing where they are large.

use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::connection::Connection;
use super::connections::Connections;
use super::quoting::identifier;
use crate::runtime::{DatabaseError, DatabaseName};

/// The most connections that all copies of this process have beyond the first of each.
const EXTRA_CONNECTIONS: usize = 15;

/// Lets rows be copied as they are: with zeros in columns that count up, dates that are no dates, and in any order.
const COPY_MODE: &str = "SET SESSION sql_mode='NO_AUTO_VALUE_ON_ZERO', foreign_key_checks=0, unique_checks=1";

const OPERATION: &str = "copy the seed";

/// A table of a seed.
#[derive(Debug)]
pub(super) struct SeedTable {
    /// As an identifier.
    pub(super) name: String,
    /// The statement that makes it.
    pub(super) create: String,
    /// The columns that have values of their own, as identifiers with commas.
    pub(super) columns: String,
}

/// What the copies of a process share: how many connections they may open beside the first of each.
#[derive(Debug)]
pub(super) struct CopyConnections(Semaphore);

impl Default for CopyConnections {
    fn default() -> Self {
        Self(Semaphore::new(EXTRA_CONNECTIONS))
    }
}

/// One copy in progress.
struct Copy<'a> {
    seed: String,
    database: String,
    /// The tables that no connection has taken yet, in their order.
    rest: Mutex<std::slice::Iter<'a, SeedTable>>,
}

impl CopyConnections {
    /// Copies tables of a seed into a database, which is empty. `tables` has the largest first, so that all connections end
    /// at about the same time. The given connection copies in any case; others help as long as this process may open
    /// some and MariaDB accepts them.
    ///
    /// # Errors
    /// MariaDB refuses a statement, or does not answer. Some tables may have been copied; none is being copied any more.
    pub(super) async fn copy(
        &self,
        connections: &Connections,
        connection: &mut Connection,
        (seed, database): (&DatabaseName, &DatabaseName),
        tables: &[SeedTable],
    ) -> Result<(), DatabaseError> {
        let [seed, database] = [seed, database].map(|name| identifier(&name.0));
        let copy = Copy { seed, database, rest: Mutex::new(tables.iter()) };
        let permits = (1..tables.len()).map_while(|_| self.0.try_acquire().ok());
        let helpers = permits.map(|permit| copy.help(connections, permit));
        let (copied, helped) = tokio::join!(copy.run(connection), join_all(helpers));
        helped.into_iter().fold(copied, Result::and)
    }
}

impl Copy<'_> {
    /// Copies tables by a connection of its own, if MariaDB accepts one.
    async fn help(
        &self,
        connections: &Connections,
        _permit: SemaphorePermit<'_>,
    ) -> Result<(), DatabaseError> {
        let mut connection = match connections.open().await {
            Ok(connection) => connection,
            Err(error) => {
                tracing::debug!(%error, "failed to open another connection for a copy");
                return Ok(());
            }
        };
        self.run(&mut connection).await?;
        connections.keep(connection);
        Ok(())
    }

    /// Copies tables until there is none left. After a failure no connection takes another.
    async fn run(&self, connection: &mut Connection) -> Result<(), DatabaseError> {
        let copied = self.run_statements(connection).await;
        if copied.is_err() {
            *self.rest.lock() = Default::default();
        }
        copied
    }

    async fn run_statements(&self, connection: &mut Connection) -> Result<(), DatabaseError> {
        let Self { seed, database, rest } = self;
        connection.run(OPERATION, &format!("USE {database}")).await?;
        connection.run(OPERATION, COPY_MODE).await?;
        let next = || rest.lock().next();
        while let Some(SeedTable { name, create, columns }) = next() {
            connection.run(OPERATION, create).await?;
            let insert = format!("INSERT INTO {name} ({columns}) SELECT {columns} FROM {seed}.{name}");
            connection.run(OPERATION, &insert).await?;
        }
        Ok(())
    }
}
