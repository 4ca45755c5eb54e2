//! The settings of the queue, from the environment: a NATS that all nodes share, or by default the embedded queue.

use percent_encoding::percent_decode_str;

use super::env::{SettingKind, Variables};
use crate::template::Secret;

const URL_RULE: &str = "write nats://host:port or tls://host:port, with user:password@ or token@ before the host if need be; \
                        several with commas between";

/// The port of NATS where a URL names none.
const DEFAULT_PORT: u16 = 4222;

/// The queue, and how much this node takes from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueSettings {
    /// The NATS that all nodes share; `None` means the embedded queue.
    pub nats: Option<NatsSettings>,
    /// Most jobs that this node does at a time. At least one.
    pub workers: usize,
}

/// How to reach the NATS that all nodes share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NatsSettings {
    /// Its servers, as `nats://host:port` or `tls://host:port`. At least one.
    pub servers: Vec<String>,
    /// How to log in.
    pub credentials: Option<NatsCredentials>,
    /// The name of the stream: letters, digits, dashes and underscores.
    pub stream: String,
}

/// How to log in to NATS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NatsCredentials {
    /// A name and a password.
    User(String, Secret),
    /// A token.
    Token(Secret),
}

/// Returns the queue to use. `is_clustered` is whether nodes share a store.
pub(super) fn read(env: &mut Variables<'_>, is_clustered: bool) -> QueueSettings {
    let stream = env.value("NATS_STREAM_NAME", SettingKind::Text, "PROVISIONING", stream_name);
    let workers = env.number("NATS_WORKER_COUNT", 3, 1..=10_000) as usize;
    let nats = env.secret("NATS_URL").and_then(|text| nats(env, text, stream, is_clustered));
    QueueSettings { nats, workers }
}

fn nats(env: &mut Variables<'_>, text: &str, stream: String, is_clustered: bool) -> Option<NatsSettings> {
    // The value is never shown, because it may contain a password.
    let (mut servers, mut all_credentials) = (Vec::new(), Vec::new());
    for url in text.split(',').map(str::trim).filter(|url| !url.is_empty()) {
        match server(url) {
            Some((server, credentials)) => {
                servers.push(server);
                all_credentials.extend(credentials);
            }
            None => env.report("NATS_URL", "it is no URL of NATS", URL_RULE),
        }
    }
    all_credentials.dedup();
    if all_credentials.len() > 1 {
        env.report("NATS_URL", "its servers have different credentials", "write the same in each URL");
    }
    if !is_clustered && !servers.is_empty() {
        env.report(
            "NATS_URL",
            "nodes that share no store share no work",
            "set VALKEY_ADDR too, or unset NATS_URL",
        );
    }
    let credentials = all_credentials.pop();
    (!servers.is_empty()).then_some(NatsSettings { servers, credentials, stream })
}

/// Reads one URL: returns the server without credentials, and these.
fn server(url: &str) -> Option<(String, Option<NatsCredentials>)> {
    let (scheme, rest) = url.split_once("://").unwrap_or(("nats", url));
    if !["nats", "tls"].contains(&scheme) {
        return None;
    }
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let (user_info, address) = match rest.rsplit_once('@') {
        Some((user_info, address)) => (Some(user_info), address),
        None => (None, rest),
    };
    let decoded = |text: &str| Some(percent_decode_str(text).decode_utf8().ok()?.into_owned());
    let credentials = match user_info.map(|text| (text, text.split_once(':'))) {
        None => None,
        Some((_, Some((name, password)))) => {
            Some(NatsCredentials::User(decoded(name)?, Secret::new(decoded(password)?)))
        }
        Some((token, None)) => Some(NatsCredentials::Token(Secret::new(decoded(token)?))),
    };
    let (host, port) = match address.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port.parse().ok().filter(|port| *port != 0)?),
        _ => (address, DEFAULT_PORT),
    };
    let is_host = match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').is_some_and(|v6| v6.parse::<std::net::Ipv6Addr>().is_ok()),
        None => !host.is_empty() && !host.contains([':', '/', '?', '#', ' ', ']']),
    };
    is_host.then(|| (format!("{scheme}://{host}:{port}"), credentials))
}

fn stream_name(text: &str) -> Result<String, &'static str> {
    let is_valid =
        text.len() <= 64 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if is_valid {
        Ok(text.to_owned())
    } else {
        Err("write at most 64 letters, digits, dashes and underscores")
    }
}

#[cfg(test)]
mod tests {
    use super::super::env::Environment;
    use super::*;

    fn queue(pairs: &[(&str, &str)], is_clustered: bool) -> Result<QueueSettings, String> {
        let env: Environment = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let mut env = Variables::new(&env);
        let read = read(&mut env, is_clustered);
        env.errors.into_result(read).map_err(|errors| errors.to_string())
    }

    fn nats(url: &str) -> Result<NatsSettings, String> {
        queue(&[("NATS_URL", url)], true).map(|read| read.nats.unwrap())
    }

    #[test]
    fn without_a_url_the_queue_is_embedded() {
        assert_eq!(queue(&[], false), Ok(QueueSettings { nats: None, workers: 3 }));
    }

    #[test]
    fn servers_are_urls_and_their_credentials_are_kept_apart() {
        let two = nats("nats://me:p%40ss@a:1, tls://me:p%40ss@[::1]").unwrap();
        assert_eq!(two.servers, ["nats://a:1", "tls://[::1]:4222"]);
        assert_eq!(two.credentials, Some(NatsCredentials::User("me".to_owned(), Secret::new("p@ss"))));
        assert_eq!(two.stream, "PROVISIONING");
        let token = nats("hunter2@nats").unwrap();
        assert_eq!(token.servers, ["nats://nats:4222"]);
        assert_eq!(token.credentials, Some(NatsCredentials::Token(Secret::new("hunter2"))));
        assert!(!format!("{token:?}").contains("hunter2"));
    }

    #[test]
    fn what_cannot_be_used_is_refused_without_showing_it() {
        for wrong in [
            "http://hunter2@a:1",
            "nats://hunter2@",
            "nats://hunter2@a:0",
            "nats://hunter2@a:b",
            "nats://hunter2@::1:1",
            "nats://hunter2@a/b",
            "nats://hunter2@a:1,nats://other@b:1",
        ] {
            let error = nats(wrong).unwrap_err();
            assert!(error.contains("NATS_URL") && !error.contains("hunter2"), "{error}");
        }
        let alone = queue(&[("NATS_URL", "nats://a:1")], false).unwrap_err();
        assert!(alone.contains("VALKEY_ADDR"), "{alone}");
        assert!(queue(&[("NATS_STREAM_NAME", "a.b")], true).unwrap_err().contains("NATS_STREAM_NAME"));
        assert!(queue(&[("NATS_WORKER_COUNT", "0")], true).unwrap_err().contains("NATS_WORKER_COUNT"));
    }
}
