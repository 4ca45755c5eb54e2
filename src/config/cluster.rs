//! This server among those that share a store.

use std::time::Duration;

use super::env::Variables;
use crate::template::Secret;

/// Nodes beat once a second; a shorter silence than this is none.
const SHORTEST: Duration = Duration::from_secs(2);
/// Fewer characters can be guessed.
const SHORTEST_SECRET: usize = 16;
const ADDRESS_RULE: &str = "write host:port, where the other servers reach this one";

/// What a server is to the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Where the others reach it, `host:port`; `None` is where it listens.
    pub address: Option<String>,
    /// What all servers share; `None` is a random one that the store keeps.
    pub secret: Option<Secret>,
    /// How long a server may be silent before what it has is over.
    pub timeout: Duration,
}

pub(super) fn read(env: &mut Variables<'_>) -> Node {
    let secret = env.text("NODE_SECRET");
    if secret.is_some_and(|text| text.len() < SHORTEST_SECRET) {
        env.wrong(
            "NODE_SECRET",
            format!("it has fewer than {SHORTEST_SECRET} characters"),
            "use a long random text, the same for all servers, or unset it",
        );
    }
    Node {
        address: env.get("NODE_ADDR", address),
        secret: secret.map(Secret::new),
        timeout: env.duration("NODE_TIMEOUT", SHORTEST).unwrap_or(Duration::from_secs(5)),
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

    fn node(pairs: &[(&str, &str)]) -> Result<Node, String> {
        let env: Environment = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let mut env = Variables::new(&env);
        let read = read(&mut env);
        env.mistakes.or(read).map_err(|mistakes| mistakes.to_string())
    }

    #[test]
    fn by_default_a_server_is_reached_where_it_listens_and_missed_after_five_seconds() {
        assert_eq!(node(&[]), Ok(Node { address: None, secret: None, timeout: Duration::from_secs(5) }));
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
    fn a_secret_is_long_and_not_shown_and_a_timeout_has_room_for_a_beat() {
        let read = node(&[("NODE_SECRET", "0123456789abcdef"), ("NODE_TIMEOUT", "2s")]).unwrap();
        assert!(read.secret.is_some() && !format!("{read:?}").contains("0123"));
        let short = node(&[("NODE_SECRET", "0123456789abcde")]).unwrap_err();
        assert!(short.contains("fewer than 16") && !short.contains("0123"), "{short}");
        assert!(node(&[("NODE_TIMEOUT", "1s")]).unwrap_err().contains("at least 2s"));
    }
}
