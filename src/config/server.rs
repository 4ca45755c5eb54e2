//! The one port, from the environment.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::env::Variables;
use super::public_url::{Origin, PublicUrl, Scheme, api_host, base_domain};
use super::trusted_proxies::{IpNet, TrustedProxies};

const MILLISECOND: Duration = Duration::from_millis(1);

/// How the server listens and what it calls itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Where to listen; port 0 is one of the system's choice.
    pub listen: SocketAddr,
    /// Where visitors find it.
    pub public: PublicUrl,
    /// The host names and addresses, apart from the base domain, `localhost` and IP addresses, that the API
    /// answers: lower case, no port, IPv6 without brackets.
    pub api_hosts: BTreeSet<String>,
    /// Serve over TLS with these, in the clear without.
    pub tls: Option<TlsFiles>,
    /// Whose forwarding headers are believed.
    pub trusted_proxies: TrustedProxies,
    /// Longest time for the body of an API request to come in.
    pub read_timeout: Duration,
    /// Longest time for an API response to go out. Live streams are exempt.
    pub write_timeout: Duration,
    /// Most connections at a time.
    pub max_connections: usize,
    /// Time for requests in flight to finish when the server is told to stop.
    pub shutdown_grace: Duration,
}

/// A certificate chain and its private key, both PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The chain, the server's own certificate first.
    pub cert: PathBuf,
    /// The key.
    pub key: PathBuf,
}

impl Server {
    pub(super) fn read(env: &mut Variables<'_>, warnings: &mut Vec<String>) -> Self {
        let host = env.get("SERVER_HOST", listen_address).unwrap_or(Ipv4Addr::UNSPECIFIED.into());
        let port = env.number("SERVER_PORT", 0, 65_535).map_or(8080, |n| n as u16);
        let tls = tls(env);
        let base_domain = env.get("BASE_DOMAIN", base_domain).unwrap_or_else(|| "localhost".to_owned());
        let mut api_hosts: BTreeSet<String> =
            env.list("API_HOSTS", api_host).unwrap_or_default().into_iter().collect();
        let public = match env.get("PUBLIC_URL", str::parse::<Origin>) {
            None => {
                let scheme = if tls.is_some() { Scheme::Https } else { Scheme::Http };
                PublicUrl { scheme, port, home: base_domain.clone(), base_domain }
            }
            Some(Origin { scheme, host, port }) => {
                if env.text("BASE_DOMAIN").is_none() && host != "localhost" {
                    warnings.push(format!(
                        "PUBLIC_URL names {host} and BASE_DOMAIN is not set: instances get names under localhost, \
                         which only this machine reaches"
                    ));
                }
                // The address that we print has to lead to the front page.
                api_hosts.extend(api_host(&host));
                PublicUrl { scheme, port, home: host, base_domain }
            }
        };
        let second = |n| Duration::from_secs(n);
        let local = || ["127.0.0.1", "::1"].map(|ip| ip.parse().expect("it is an address")).to_vec();
        Self {
            listen: SocketAddr::new(host, port),
            public,
            api_hosts,
            tls,
            trusted_proxies: TrustedProxies(
                env.list("TRUSTED_PROXIES", str::parse::<IpNet>).unwrap_or_else(local),
            ),
            read_timeout: env.duration("SERVER_READ_TIMEOUT", MILLISECOND).unwrap_or(second(30)),
            write_timeout: env.duration("SERVER_WRITE_TIMEOUT", MILLISECOND).unwrap_or(second(30)),
            max_connections: env.number("MAX_CONNECTIONS", 1, 1_000_000).map_or(10_000, |n| n as usize),
            shutdown_grace: env.duration("SHUTDOWN_GRACE", Duration::ZERO).unwrap_or(second(30)),
        }
    }
}

fn listen_address(text: &str) -> Result<IpAddr, &'static str> {
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
    if bare.eq_ignore_ascii_case("localhost") {
        return Ok(Ipv4Addr::LOCALHOST.into());
    }
    bare.parse()
        .map_err(|_| "write the IP address to listen on: 0.0.0.0, ::, 127.0.0.1 or one of this machine's")
}

fn tls(env: &mut Variables<'_>) -> Option<TlsFiles> {
    match (env.text("TLS_CERT"), env.text("TLS_KEY")) {
        (None, None) => None,
        (Some(cert), Some(key)) => Some(TlsFiles { cert: cert.into(), key: key.into() }),
        (Some(_), None) => {
            env.wrong(
                "TLS_KEY",
                "it is not set, but TLS_CERT is",
                "set both, or neither to serve in the clear",
            );
            None
        }
        (None, Some(_)) => {
            env.wrong(
                "TLS_CERT",
                "it is not set, but TLS_KEY is",
                "set both, or neither to serve in the clear",
            );
            None
        }
    }
}
