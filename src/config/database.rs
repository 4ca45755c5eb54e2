//! The settings of the MariaDB on which instances have their databases, from the environment.

use super::env::{SettingKind, Variables};
use crate::template::Secret;

/// Most characters of what the names begin with: with all that follows, a name stays below the 64 that MariaDB allows.
const MAX_PREFIX: usize = 20;
const DEFAULT_PORT: u64 = 3306;
const DEFAULT_PREFIX: &str = "tryitnow";

/// Whether connections to MariaDB are encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DatabaseTls {
    /// Encrypted where MariaDB offers it, with whatever certificate.
    Prefer,
    /// Encrypted, with a certificate for the configured host that this system trusts.
    Verify,
    /// Not encrypted.
    Off,
}

/// The MariaDB on which instances have their databases.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseSettings {
    /// A host name or an address, as apps get it too.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The user that makes databases and users.
    pub user: String,
    /// Its password.
    pub password: Option<Secret>,
    /// Whether connections of this server are encrypted. Apps decide for themselves.
    pub tls: DatabaseTls,
    /// What the name of each database and user begins with: lower-case letters, digits and underscores.
    pub prefix: String,
}

/// Returns the MariaDB to use; `None` means that instances have no databases.
pub(super) fn read(env: &mut Variables<'_>) -> Option<DatabaseSettings> {
    // All are read without a host too, so that an invalid value shows when it is written.
    let host = env.value_if_set("PS_DB_HOST", SettingKind::Text, None, host);
    let port = env.number("PS_DB_PORT", DEFAULT_PORT, 1..=65_535) as u16;
    let prefix = env.value("PS_DB_NAME", SettingKind::Text, DEFAULT_PREFIX, prefix);
    let user = env.text("PS_DB_USER").map(str::to_owned);
    let password = env.secret("PS_DB_PASSWORD").map(Secret::new);
    let words = [("prefer", DatabaseTls::Prefer), ("verify", DatabaseTls::Verify), ("off", DatabaseTls::Off)];
    let tls = env.word("PS_DB_TLS", "prefer", &words);
    let host = host?;
    let Some(user) = user else {
        env.report("PS_DB_USER", "it is missing", "name a user of MariaDB that may make databases and users");
        return None;
    };
    Some(DatabaseSettings { host, port, user, password, tls, prefix })
}

fn host(text: &str) -> Result<String, &'static str> {
    let is_host = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    if text.bytes().all(is_host) || text.parse::<std::net::Ipv6Addr>().is_ok() {
        Ok(text.to_owned())
    } else {
        Err("write a host name or an address, without a port")
    }
}

fn prefix(text: &str) -> Result<String, String> {
    let is_valid = text.len() <= MAX_PREFIX
        && !text.starts_with('_')
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    // MariaDB lets every user into databases with names like `test_...`.
    if is_valid && text != "test" && !text.starts_with("test_") {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "write 1 to {MAX_PREFIX} lower-case letters, digits and underscores, and no \"test\" first"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::super::env::Environment;
    use super::*;

    fn database(pairs: &[(&str, &str)]) -> Result<Option<DatabaseSettings>, String> {
        let env: Environment = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let mut env = Variables::new(&env);
        let read = read(&mut env);
        env.errors.into_result(read).map_err(|errors| errors.to_string())
    }

    #[test]
    fn without_a_host_there_are_no_databases() {
        assert_eq!(database(&[("PS_DB_USER", "a"), ("PS_DB_PASSWORD", "b")]), Ok(None));
    }

    #[test]
    fn a_host_and_a_user_suffice() {
        let read = database(&[("PS_DB_HOST", "db"), ("PS_DB_USER", "root")]).unwrap().unwrap();
        assert_eq!((read.host.as_str(), read.port, read.prefix.as_str()), ("db", 3306, "tryitnow"));
        assert_eq!((read.tls, read.password), (DatabaseTls::Prefer, None));
        let six =
            database(&[("PS_DB_HOST", "::1"), ("PS_DB_USER", "root"), ("PS_DB_NAME", "shop_2")]).unwrap();
        assert_eq!(six.map(|read| read.prefix).as_deref(), Some("shop_2"));
    }

    #[test]
    fn a_missing_user_and_names_that_no_database_may_begin_with_are_refused() {
        assert!(database(&[("PS_DB_HOST", "db")]).unwrap_err().starts_with("PS_DB_USER: it is missing"));
        for name in ["test", "test_a", "_a", "A", "a`b", "a%", "ä", "a;DROP", "aaaaaaaaaaaaaaaaaaaaa"] {
            let refused = database(&[("PS_DB_NAME", name)]).unwrap_err();
            assert!(refused.contains("lower-case letters, digits"), "{refused}");
        }
        for host in ["db:3306", "a b", "a'b", "http://db", "a/b"] {
            assert!(database(&[("PS_DB_HOST", host)]).unwrap_err().contains("without a port"), "{host}");
        }
    }
}
