//! The settings of this node in its cluster, from the environment.

use std::time::Duration;

use super::env::{SettingKind, Variables};
use crate::template::Secret;
use crate::template::node_secret::is_strong;

/// How long a node may send no heartbeat unless the operator says otherwise.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);
/// The shortest timeout. A node sends a heartbeat each second, so a shorter silence means nothing.
const MIN_TIMEOUT: Duration = Duration::from_secs(2);
/// The fewest characters of a secret. A shorter secret could be guessed even though it is stretched.
const MIN_SECRET_LENGTH: usize = 16;
/// How to make a secret that is not stretched.
const SECRET_REMEDY: &str =
    "use the output of `openssl rand -base64 32`, the same for all servers, or unset it";
const ADDRESS_RULE: &str = "write host:port, where the other servers reach this one";

/// How the other nodes of the cluster see this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeSettings {
    /// Where the other nodes reach this one, `host:port`; `None` is where it listens.
    pub address: Option<String>,
    /// The secret that all nodes share; `None` is a random one that the store keeps.
    pub secret: Option<Secret>,
    /// How long a node may send no heartbeat before its instances end.
    pub timeout: Duration,
}

/// Reads the settings. `is_clustered` is whether nodes share a store, so that the secret has a use.
pub(super) fn read(env: &mut Variables<'_>, is_clustered: bool, warnings: &mut Vec<String>) -> NodeSettings {
    let secret = env.secret("NODE_SECRET");
    if secret.is_some_and(|text| text.len() < MIN_SECRET_LENGTH) {
        let problem = format!("it has fewer than {MIN_SECRET_LENGTH} characters");
        env.report("NODE_SECRET", problem, SECRET_REMEDY);
    } else if is_clustered && secret.is_some_and(|text| !is_strong(text)) {
        warnings.push(format!(
            "NODE_SECRET may be guessed, so it is stretched by scrypt at each start, which takes 128 MiB of memory; \
             {SECRET_REMEDY}"
        ));
    }
    NodeSettings {
        address: env.value_if_set("NODE_ADDR", SettingKind::Text, None, address),
        secret: secret.map(Secret::new),
        timeout: env.duration("NODE_TIMEOUT", DEFAULT_TIMEOUT, MIN_TIMEOUT),
    }
}

fn address(text: &str) -> Result<String, &'static str> {
    let (host, port) = text.rsplit_once(':').ok_or(ADDRESS_RULE)?;
    port.parse::<u16>().ok().filter(|port| *port != 0).ok_or(ADDRESS_RULE)?;
    let bare = match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').filter(|v6| v6.parse::<std::net::Ipv6Addr>().is_ok()),
        None => Some(host).filter(|host| !host.contains([':', '/', '@', ' ', '[', ']'])),
    };
    match bare {
        Some(host) if !host.is_empty() => Ok(text.to_owned()),
        _ => Err(ADDRESS_RULE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::env::Environment;

    fn node(pairs: &[(&str, &str)]) -> Result<NodeSettings, String> {
        node_and_warnings(pairs, true).map(|(read, _)| read)
    }

    fn node_and_warnings(
        pairs: &[(&str, &str)],
        is_clustered: bool,
    ) -> Result<(NodeSettings, Vec<String>), String> {
        let env: Environment = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let mut env = Variables::new(&env);
        let mut warnings = Vec::new();
        let read = read(&mut env, is_clustered, &mut warnings);
        env.errors.into_result((read, warnings)).map_err(|errors| errors.to_string())
    }

    #[test]
    fn by_default_a_node_is_reached_where_it_listens_and_times_out_after_five_seconds() {
        assert_eq!(
            node(&[]),
            Ok(NodeSettings { address: None, secret: None, timeout: Duration::from_secs(5) })
        );
    }

    #[test]
    fn an_address_has_a_host_and_a_port() {
        for right in ["a:1", "192.0.2.1:8080", "[::1]:80", "web-1.internal:65535"] {
            assert_eq!(node(&[("NODE_ADDR", right)]).unwrap().address.as_deref(), Some(right));
        }
        for wrong in ["a", ":1", "a:0", "a:b", "::1:80", "http://a:1", "a:1/b", "[a]:1"] {
            assert!(node(&[("NODE_ADDR", wrong)]).unwrap_err().starts_with("NODE_ADDR: "), "{wrong}");
        }
    }

    #[test]
    fn a_secret_is_long_and_not_shown_and_a_timeout_is_longer_than_the_heartbeat_interval() {
        let read = node(&[("NODE_SECRET", "0123456789abcdef"), ("NODE_TIMEOUT", "2s")]).unwrap();
        assert!(read.secret.is_some() && !format!("{read:?}").contains("0123"));
        let short = node(&[("NODE_SECRET", "0123456789abcde")]).unwrap_err();
        assert!(short.contains("fewer than 16") && !short.contains("0123"), "{short}");
        assert!(node(&[("NODE_TIMEOUT", "1s")]).unwrap_err().contains("at least 2s"));
    }

    #[test]
    fn a_secret_that_may_be_guessed_causes_a_warning_with_a_remedy_where_it_is_used() {
        let warnings = |secret, is_clustered| {
            node_and_warnings(&[("NODE_SECRET", secret)], is_clustered).unwrap().1.join("\n")
        };
        let guessable = "a-company-name-2026";
        let warning = warnings(guessable, true);
        assert!(warning.contains("NODE_SECRET") && warning.contains("openssl rand -base64 32"), "{warning}");
        assert!(!warning.contains(guessable));
        assert_eq!(warnings(guessable, false), "");
        assert_eq!(warnings("q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJA=", true), "");
    }
}
