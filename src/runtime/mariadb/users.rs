//! One database with one user, both of the same name.

use super::connection::Connection;
use super::connections::Connections;
use super::quoting::{PlainPassword, grant_pattern, identifier};
use crate::runtime::{DatabaseError, DatabaseName};
use crate::template::Secret;

/// Makes a database and its user. The user may connect from everywhere: where an app connects from is not known before.
pub(super) async fn create_user(
    connection: &mut Connection,
    name: &DatabaseName,
    password: &Secret,
    max_connections: u32,
) -> Result<(), DatabaseError> {
    let operation = format!("create the database {}", name.0);
    let Some(password) = PlainPassword::new(password.reveal()) else {
        let why = "its password is not made of letters and digits".to_owned();
        return Err(DatabaseError::Failed { operation, why });
    };
    let (password, quoted, pattern) = (password.literal(), identifier(&name.0), grant_pattern(&name.0));
    for statement in [
        format!("CREATE DATABASE {quoted} CHARACTER SET utf8mb4"),
        format!(
            "CREATE USER {quoted}@`%` IDENTIFIED BY {password} WITH MAX_USER_CONNECTIONS {max_connections}"
        ),
        format!("GRANT ALL PRIVILEGES ON {pattern}.* TO {quoted}@`%`"),
    ] {
        connection.run(&operation, &statement).await?;
    }
    Ok(())
}

/// Drops a user and its database, and ends the user's connections, after all drops that were begun before. It succeeds
/// where there is neither.
pub(super) async fn drop_user_and_database(
    connections: &Connections,
    name: &DatabaseName,
) -> Result<(), DatabaseError> {
    let _one_at_a_time = connections.begin_drop().await;
    let mut connection = connections.open().await?;
    let (operation, quoted) = (format!("drop the database {}", name.0), identifier(&name.0));
    // The user first: from then on no app connects.
    connection.run(&operation, &format!("DROP USER IF EXISTS {quoted}@`%`")).await?;
    // A connection with an open transaction would hold up the drop. Without the right to end it, the drop is tried all
    // the same.
    let _ = connection.run(&operation, &format!("KILL HARD CONNECTION USER {quoted}")).await;
    connection.run(&operation, &format!("DROP DATABASE IF EXISTS {quoted}")).await?;
    connections.keep(connection);
    Ok(())
}
