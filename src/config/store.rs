//! The settings of the store, from the environment: a Valkey that all nodes share, or by default the embedded store.

use std::convert::Infallible;
use std::path::PathBuf;

use super::env::{SettingKind, Variables};
use crate::template::Secret;

const ADDRESS_RULE: &str =
    "write host:port, or unix: and the absolute path of a socket; several with commas between";

/// How to reach the Valkey that all nodes share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValkeySettings {
    /// The address of the one server, or of some Sentinels, or of some servers of the cluster. At least one.
    pub addresses: Vec<ValkeyAddress>,
    /// What is at the addresses.
    pub mode: ValkeyMode,
    /// The user name; `None` is the default user.
    pub username: Option<String>,
    /// The password.
    pub password: Option<Secret>,
    /// The number of the database. Always 0 with a cluster.
    pub db: u16,
    /// Whether to use TLS, with the certificates that this system trusts.
    pub tls: bool,
}

/// Where a Valkey listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ValkeyAddress {
    /// A host and a port.
    Tcp(String, u16),
    /// A Unix socket on this host, an absolute path.
    Unix(PathBuf),
}

/// What is at the addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ValkeyMode {
    /// One server.
    Single,
    /// Sentinels, which know the primary server by this service name.
    Sentinel(String),
    /// The servers of a cluster.
    Cluster,
}

/// Returns the Valkey to use; `None` means the embedded store.
pub(super) fn read(env: &mut Variables<'_>) -> Option<ValkeySettings> {
    #[derive(Clone, Copy, PartialEq)]
    enum Kind {
        Single,
        Sentinel,
        Cluster,
    }
    let kinds = [("single", Kind::Single), ("sentinel", Kind::Sentinel), ("cluster", Kind::Cluster)];
    // All are read without an address too, so that an invalid value shows when it is written.
    let kind = env.word("VALKEY_MODE", "single", &kinds);
    let db = env.number("VALKEY_DB", 0, 0..=65_535) as u16;
    let tls = env.word("VALKEY_TLS", "false", &[("true", true), ("false", false)]);
    let service = env.value("VALKEY_SENTINEL_SERVICE", SettingKind::Text, "mymaster", |name| {
        Ok::<_, Infallible>(name.to_owned())
    });
    let username = env.text("VALKEY_USERNAME").map(str::to_owned);
    let password = env.secret("VALKEY_PASSWORD").map(Secret::new);
    let addresses = env.list_if_set("VALKEY_ADDR", None, address)?;
    if addresses.is_empty() {
        return None;
    }
    if kind == Kind::Single && addresses.len() > 1 {
        env.report(
            "VALKEY_ADDR",
            "it names several servers",
            "set VALKEY_MODE=sentinel or cluster, or name one",
        );
    }
    if kind != Kind::Single && addresses.iter().any(|address| matches!(address, ValkeyAddress::Unix(_))) {
        env.report("VALKEY_ADDR", "a socket of this host is one server", "write host:port");
    }
    if kind == Kind::Cluster && db != 0 {
        env.report("VALKEY_DB", "a cluster has no database but 0", "unset it");
    }
    let mode = match kind {
        Kind::Single => ValkeyMode::Single,
        Kind::Sentinel => ValkeyMode::Sentinel(service),
        Kind::Cluster => ValkeyMode::Cluster,
    };
    Some(ValkeySettings { addresses, mode, username, password, db, tls })
}

fn address(text: &str) -> Result<ValkeyAddress, &'static str> {
    if let Some(path) = text.strip_prefix("unix:") {
        return if path.starts_with('/') { Ok(ValkeyAddress::Unix(path.into())) } else { Err(ADDRESS_RULE) };
    }
    let (host, port) = text.rsplit_once(':').ok_or(ADDRESS_RULE)?;
    let port = port.parse().ok().filter(|port| *port != 0).ok_or(ADDRESS_RULE)?;
    let bare = match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').filter(|v6| v6.parse::<std::net::Ipv6Addr>().is_ok()),
        None => Some(host).filter(|host| !host.contains([':', '/', '@', ' '])),
    };
    match bare {
        Some(host) if !host.is_empty() => Ok(ValkeyAddress::Tcp(host.to_owned(), port)),
        _ => Err(ADDRESS_RULE),
    }
}

#[cfg(test)]
mod tests {
    use super::super::env::Environment;
    use super::*;

    fn store(pairs: &[(&str, &str)]) -> Result<Option<ValkeySettings>, String> {
        let env: Environment = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let mut env = Variables::new(&env);
        let read = read(&mut env);
        env.errors.into_result(read).map_err(|errors| errors.to_string())
    }

    #[test]
    fn without_an_address_the_store_is_embedded() {
        assert_eq!(store(&[("VALKEY_ADDR", ""), ("VALKEY_DB", "3")]), Ok(None));
    }

    #[test]
    fn addresses_are_hosts_with_ports_or_a_socket() {
        let tcp = |host: &str, port| ValkeyAddress::Tcp(host.to_owned(), port);
        let three = store(&[("VALKEY_ADDR", "a:1, 192.0.2.1:2,[::1]:3"), ("VALKEY_MODE", "cluster")]);
        let three = three.unwrap().unwrap();
        assert_eq!(three.addresses, [tcp("a", 1), tcp("192.0.2.1", 2), tcp("::1", 3)]);
        assert_eq!(three.mode, ValkeyMode::Cluster);
        let socket = store(&[("VALKEY_ADDR", "unix:/run/valkey.sock")]).unwrap().unwrap();
        assert_eq!(socket.addresses, [ValkeyAddress::Unix("/run/valkey.sock".into())]);
        for wrong in ["a", "a:0", "a:b", ":1", "::1:1", "redis://a:1", "user@a:1", "unix:run"] {
            assert!(store(&[("VALKEY_ADDR", wrong)]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_impossible_combination_is_refused_with_the_reason() {
        let wrong = |pairs: &[(&str, &str)]| store(pairs).unwrap_err();
        assert!(wrong(&[("VALKEY_ADDR", "a:1,b:1")]).contains("it names several servers"));
        let cluster = [("VALKEY_ADDR", "a:1"), ("VALKEY_MODE", "cluster"), ("VALKEY_DB", "2")];
        assert!(wrong(&cluster).contains("a cluster has no database but 0"));
        let socket = [("VALKEY_ADDR", "unix:/a"), ("VALKEY_MODE", "sentinel")];
        assert!(wrong(&socket).contains("one server"));
        assert!(wrong(&[("VALKEY_MODE", "many")]).contains("VALKEY_MODE"));
    }

    #[test]
    fn sentinels_are_asked_for_a_service_and_the_password_is_not_shown() {
        let all = [
            ("VALKEY_ADDR", "a:26379"),
            ("VALKEY_MODE", "sentinel"),
            ("VALKEY_PASSWORD", "hunter2"),
            ("VALKEY_TLS", "true"),
        ];
        let read = store(&all).unwrap().unwrap();
        assert_eq!(read.mode, ValkeyMode::Sentinel("mymaster".to_owned()));
        assert!(read.tls && !format!("{read:?}").contains("hunter2"));
    }
}
