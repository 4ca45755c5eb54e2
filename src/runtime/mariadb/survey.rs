//! What a MariaDB offers, for the doctor.

use super::connection::Connection;
use super::settings::Settings;
use crate::runtime::DatabaseError;

/// What a MariaDB offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey {
    /// Its version, such as `11.8.3-MariaDB-1`.
    pub version: String,
    /// The most connections at a time, of all users together.
    pub max_connections: u64,
    /// Whether this connection is encrypted.
    pub is_encrypted: bool,
    /// The grants of the configured user, as MariaDB shows them, without its password.
    pub grants: Vec<String>,
    /// Whether the users of the server can be listed.
    pub lists_users: bool,
    /// Whether connections without a user name are let in. Such an account hides users of the same host.
    pub has_anonymous_user: bool,
    /// Whether MariaDB locks out this host after some connections that never logged in (`max_connect_errors`). It does not
    /// count those from its own host, and none with `skip_name_resolve`.
    pub locks_out_hosts: bool,
}

/// Asks a MariaDB what it offers, and changes nothing.
///
/// # Errors
/// It does not answer.
pub async fn survey(settings: &Settings) -> Result<Survey, DatabaseError> {
    const OPERATION: &str = "ask MariaDB what it offers";
    let mut connection = Connection::open(settings).await?;
    const FACTS: &str = "SELECT VERSION(), @@GLOBAL.max_connections, \
                         @@GLOBAL.skip_name_resolve = 0 AND SUBSTRING_INDEX(USER(), '@', -1) <> 'localhost'";
    let facts: Vec<(String, u64, bool)> = connection.rows_of_text(OPERATION, FACTS).await?;
    let (version, max_connections, locks_out_hosts) = facts.into_iter().next().unwrap_or_default();
    let cipher: Vec<(String, String)> =
        connection.rows_of_text(OPERATION, "SHOW SESSION STATUS LIKE 'Ssl_cipher'").await?;
    let grants: Vec<String> = connection.rows_of_text(OPERATION, "SHOW GRANTS").await?;
    let anonymous: Result<Vec<i64>, _> =
        connection.rows_of_text(OPERATION, "SELECT COUNT(*) FROM mysql.user WHERE User = ''").await;
    connection.close().await;
    Ok(Survey {
        version,
        max_connections,
        is_encrypted: cipher.iter().any(|(_, cipher)| !cipher.is_empty()),
        grants: grants.into_iter().map(without_password).collect(),
        lists_users: anonymous.is_ok(),
        has_anonymous_user: anonymous.is_ok_and(|count| count != [0]),
        locks_out_hosts,
    })
}

/// Returns a grant without the hash of the password.
fn without_password(grant: String) -> String {
    match grant.find(" IDENTIFIED ") {
        Some(at) => grant[..at].to_owned(),
        None => grant,
    }
}
