//! Seeds: a dump is loaded once into a database of its own, from which the tables of each new instance are copied.
//!
//! **Trap.** `CREATE TABLE ... LIKE` copies no foreign keys. So each table is made by the statement that `SHOW CREATE
//! TABLE` gives. Views, triggers, routines, events and sequences are not copied at all: where a seed has any, or a table
//! of an unusual kind, each instance's database is loaded from the dump instead.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use ring::digest;
use tokio::fs::File;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::sync::{Mutex, RwLock};

use super::connection::{Connection, Login};
use super::connections::Connections;
use super::copy::{CopyConnections, SeedTable};
use super::names::OwnNames;
use super::quoting::identifier;
use super::settings::Settings;
use super::statements::StatementSplitter;
use super::users::{create_user, drop_user_and_database};
use crate::runtime::{DatabaseError, DatabaseName};
use crate::template::{Secret, random_hex};

/// What MariaDB answers to a statement that says nothing, such as a comment for another version.
const EMPTY_QUERY: &str = "ERROR 42000 (1065)";

/// A seed whose database is complete.
#[derive(Debug)]
pub(super) struct Seed {
    name: DatabaseName,
    path: PathBuf,
    /// The largest first; `None` where the tables cannot be copied, so that the dump is loaded for each instance.
    tables: Option<Vec<SeedTable>>,
}

/// The state of a file when it was read.
type FileState = (SystemTime, u64);

/// A seed of which others wait while it is being loaded.
type SeedSlot = Arc<Mutex<Option<(FileState, Arc<Seed>)>>>;

/// The seeds of this process, by the path of their file. A seed that an earlier process left is loaded again: it may be
/// incomplete.
#[derive(Debug, Default)]
pub(super) struct Seeds {
    slots: parking_lot::Mutex<HashMap<PathBuf, SeedSlot>>,
    /// Locked for reading while a seed is being loaded, and for writing while unused ones are dropped.
    loading: RwLock<()>,
    copy_connections: CopyConnections,
}

impl Seeds {
    /// Returns the seed that a file holds now. It is loaded if it has changed or was never loaded; others wait meanwhile.
    pub(super) async fn prepare(
        &self,
        connections: &Connections,
        names: &OwnNames,
        path: &Path,
    ) -> Result<Arc<Seed>, DatabaseError> {
        let slot = self.slots.lock().entry(path.to_owned()).or_default().clone();
        let mut slot = slot.lock().await;
        let (state, content) = read_state(path).await?;
        if let Some((_, seed)) = slot.as_ref().filter(|(known, _)| *known == state) {
            return Ok(seed.clone());
        }
        let name = names.of_seed(digest_of(path, content).await?.as_ref());
        let _loading = self.loading.read().await;
        let seed = Arc::new(load_seed(connections, name, path).await?);
        *slot = Some((state, seed.clone()));
        Ok(seed)
    }

    /// Drops these databases and users, but for those of seeds that are in use. While a seed is being loaded, no seed is
    /// dropped. Returns the number of names that were dropped.
    pub(super) async fn drop_unused(
        &self,
        connections: &Connections,
        unused: Vec<DatabaseName>,
    ) -> Result<usize, DatabaseError> {
        // Held to the end, so that no seed is loaded meanwhile into a database that is about to be dropped.
        let not_loading = self.loading.try_write().ok();
        let in_use = not_loading.as_ref().and_then(|_| self.in_use());
        let is_unused = |name: &&DatabaseName| match OwnNames::is_of_seed(name) {
            true => in_use.as_ref().is_some_and(|in_use| !in_use.contains(name)),
            false => true,
        };
        let mut dropped = 0;
        for name in unused.iter().filter(is_unused) {
            drop_user_and_database(connections, name).await?;
            dropped += 1;
        }
        Ok(dropped)
    }

    /// Returns the databases of all seeds in use; `None` while one of the seeds is being looked at.
    fn in_use(&self) -> Option<Vec<DatabaseName>> {
        let slots: Vec<SeedSlot> = self.slots.lock().values().cloned().collect();
        let mut in_use = Vec::new();
        for slot in slots {
            in_use.extend(slot.try_lock().ok()?.as_ref().map(|(_, seed)| seed.name.clone()));
        }
        Some(in_use)
    }

    /// Fills the database of an instance, which is empty. `owner` is the instance's own login.
    pub(super) async fn copy(
        &self,
        seed: &Seed,
        connections: &Connections,
        connection: &mut Connection,
        database: &DatabaseName,
        owner: &Login<'_>,
    ) -> Result<(), DatabaseError> {
        match &seed.tables {
            Some(tables) => {
                self.copy_connections.copy(connections, connection, (&seed.name, database), tables).await
            }
            None => load_dump(connections.settings(), owner, &seed.path).await,
        }
    }

    /// Forgets a seed whose database could not be copied, so that it is loaded again.
    pub(super) fn forget(&self, seed: &Seed) {
        self.slots.lock().remove(&seed.path);
    }

    /// Forgets all seeds, so that their databases are no longer in use.
    pub(super) fn forget_all(&self) {
        self.slots.lock().clear();
    }
}

async fn read_state(path: &Path) -> Result<(FileState, File), DatabaseError> {
    let opened = async {
        let file = File::open(path).await?;
        let metadata = file.metadata().await?;
        Ok::<_, std::io::Error>(((metadata.modified()?, metadata.len()), file))
    };
    opened.await.map_err(|error| unreadable(path, &error))
}

fn unreadable(path: &Path, error: &std::io::Error) -> DatabaseError {
    let why =
        format!("{error}; write the path of a dump that this server may read, relative to the template file");
    DatabaseError::Seed { path: path.to_owned(), why }
}

async fn digest_of(path: &Path, mut file: File) -> Result<digest::Digest, DatabaseError> {
    let mut context = digest::Context::new(&digest::SHA256);
    // Two files with the same content are two seeds.
    context.update(path.as_os_str().as_encoded_bytes());
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer).await {
            Ok(0) => return Ok(context.finish()),
            Ok(length) => context.update(&buffer[..length]),
            Err(error) => return Err(unreadable(path, &error)),
        }
    }
}

/// Loads a dump into a database of its own, with a user that has rights on nothing else.
async fn load_seed(
    connections: &Connections,
    name: DatabaseName,
    path: &Path,
) -> Result<Seed, DatabaseError> {
    drop_user_and_database(connections, &name).await?;
    let random = random_hex::<16>().map_err(|error| unreadable(path, &error))?;
    let password = Secret::new(random);
    let mut connection = connections.open().await?;
    create_user(&mut connection, &name, &password, 1).await?;
    let login = Login { user: &name.0, password: Some(&password), database: Some(&name.0) };
    let loaded = load_dump(connections.settings(), &login, path).await;
    if loaded.is_err() {
        drop_user_and_database(connections, &name).await?;
    }
    loaded?;
    connection.run("drop the user of the seed", &format!("DROP USER {}", identifier(&name.0))).await?;
    let tables = copyable_tables(&mut connection, &name).await?;
    connections.keep(connection);
    match &tables {
        Some(tables) => tracing::info!(seed = %path.display(), tables = tables.len(), "seed loaded"),
        None => tracing::info!(
            seed = %path.display(),
            "seed loaded; it has more than plain tables, so each database is loaded from the dump, which is slower"
        ),
    }
    Ok(Seed { name, path: path.to_owned(), tables })
}

/// Runs the statements of a dump.
async fn load_dump(settings: &Settings, login: &Login<'_>, path: &Path) -> Result<(), DatabaseError> {
    let mut connection = Connection::open_as(settings, login).await?;
    let (_, file) = read_state(path).await?;
    let (mut lines, mut line, mut number) = (BufReader::with_capacity(1 << 16, file), Vec::new(), 0_usize);
    let mut splitter = StatementSplitter::new();
    loop {
        line.clear();
        let length = lines.read_until(b'\n', &mut line).await.map_err(|error| unreadable(path, &error))?;
        number += 1;
        let statements = match length {
            0 => std::mem::replace(&mut splitter, StatementSplitter::new()).finish().into_iter().collect(),
            _ => splitter.read_line(&line),
        };
        for statement in statements {
            if let Err(error) = connection.run_bytes("run a statement", &statement).await
                && !error.to_string().contains(EMPTY_QUERY)
            {
                let why = format!(
                    "line {number}: {error}; dump one database, without its name (`mariadb-dump NAME`) and without DEFINER"
                );
                return Err(DatabaseError::Seed { path: path.to_owned(), why });
            }
        }
        if length == 0 {
            break;
        }
    }
    connection.close().await;
    Ok(())
}

/// Returns what is needed to copy all tables, the largest first; `None` if the database has anything else, or a table of
/// an unusual kind.
async fn copyable_tables(
    connection: &mut Connection,
    database: &DatabaseName,
) -> Result<Option<Vec<SeedTable>>, DatabaseError> {
    const OPERATION: &str = "read the tables of the seed";
    const OTHERS: &str = "SELECT \
        (SELECT COUNT(*) FROM information_schema.TRIGGERS WHERE TRIGGER_SCHEMA = ?) + \
        (SELECT COUNT(*) FROM information_schema.ROUTINES WHERE ROUTINE_SCHEMA = ?) + \
        (SELECT COUNT(*) FROM information_schema.EVENTS WHERE EVENT_SCHEMA = ?) + \
        (SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_SCHEMA = ? \
            AND (TABLE_TYPE <> 'BASE TABLE' OR ENGINE NOT IN ('InnoDB', 'Aria', 'MyISAM')))";
    const COLUMNS: &str = "SELECT TABLE_NAME, COLUMN_NAME \
        FROM information_schema.TABLES JOIN information_schema.COLUMNS USING (TABLE_SCHEMA, TABLE_NAME) \
        WHERE TABLE_SCHEMA = ? AND IS_GENERATED = 'NEVER' \
        ORDER BY DATA_LENGTH + INDEX_LENGTH DESC, TABLE_NAME, ORDINAL_POSITION";
    let name = database.0.as_str();
    let others: Vec<i64> = connection.rows(OPERATION, OTHERS, (name, name, name, name)).await?;
    if others != [0] {
        return Ok(None);
    }
    connection.run(OPERATION, &format!("USE {}", identifier(name))).await?;
    let mut tables: Vec<(String, Vec<String>)> = Vec::new();
    for (table, column) in connection.rows::<(String, String)>(OPERATION, COLUMNS, (name,)).await? {
        match tables.last_mut().filter(|(last, _)| *last == table) {
            Some((_, columns)) => columns.push(identifier(&column)),
            None => tables.push((table, vec![identifier(&column)])),
        }
    }
    let mut copyable = Vec::with_capacity(tables.len());
    for (table, columns) in tables {
        let name = identifier(&table);
        let shown = connection.rows_of_text(OPERATION, &format!("SHOW CREATE TABLE {name}")).await?;
        let Some::<(String, String)>((_, create)) = shown.into_iter().next() else { return Ok(None) };
        copyable.push(SeedTable { name, create, columns: columns.join(", ") });
    }
    Ok(Some(copyable))
}
