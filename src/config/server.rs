//! The settings of the one port, from the environment.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::env::{SettingKind, Variables};
use super::public_url::{Origin, PublicUrl, Scheme, api_host, base_domain};
use super::trusted_proxies::{TrustedNetwork, TrustedProxies};

const MILLISECOND: Duration = Duration::from_millis(1);

/// How the server listens, and under which addresses visitors reach it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerSettings {
    /// The address to listen on. With port 0 the system chooses the port.
    pub listen: SocketAddr,
    /// The addresses that visitors see.
    pub public: PublicUrl,
    /// The host names and addresses, apart from the base domain, `localhost` and IP addresses, that the API
    /// answers: lower case, no port, IPv6 without brackets.
    pub api_hosts: BTreeSet<String>,
    /// The other sites whose pages may acquire instances for their visitors.
    pub button_origins: Vec<Origin>,
    /// The instances of one template that a visitor may acquire in an hour without a proof of work; `None` asks for no
    /// proof.
    pub proof_of_work_above: Option<u32>,
    /// The files for TLS; `None` serves without TLS.
    pub tls: Option<TlsFiles>,
    /// The peers whose forwarding headers are believed.
    pub trusted_proxies: TrustedProxies,
    /// The longest time for the body of an API request to arrive.
    pub read_timeout: Duration,
    /// The longest time for an API response to be sent. Event streams are exempt.
    pub write_timeout: Duration,
    /// The most connections at a time.
    pub max_connections: usize,
    /// The most requests in flight of one client.
    pub max_requests_per_client: usize,
    /// The most requests in flight for one instance.
    pub max_requests_per_instance: usize,
    /// The most bytes of messages that the server holds for all clients together.
    pub max_buffered_bytes: usize,
    /// The most connections of one client at a time.
    pub max_connections_per_client: usize,
    /// What carries HTTP/1.1 to the instances of this node.
    pub http1_engine: Http1Engine,
    /// How long requests in flight may take to finish when the server shuts down.
    pub shutdown_grace: Duration,
}

/// What carries HTTP/1.1 to the instances of this node. The other engine carries all else in either case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Http1Engine {
    /// The forwarder of this server.
    Forwarder,
    /// Pingora.
    Pingora,
}

/// The PEM files of a certificate chain and its private key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The chain, with the server's own certificate first.
    pub cert: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

impl ServerSettings {
    pub(super) fn read(env: &mut Variables<'_>, warnings: &mut Vec<String>) -> Self {
        let host = env.value("SERVER_HOST", SettingKind::Text, "0.0.0.0", listen_address);
        let port = env.number("SERVER_PORT", 8080, 0..=65_535) as u16;
        let tls = tls(env);
        let base_domain = env.value("BASE_DOMAIN", SettingKind::Text, "localhost", base_domain);
        let mut api_hosts: BTreeSet<String> =
            env.list_if_set("API_HOSTS", None, api_host).unwrap_or_default().into_iter().collect();
        let public = match env.value_if_set("PUBLIC_URL", SettingKind::Text, None, str::parse::<Origin>) {
            None => {
                let scheme = if tls.is_some() { Scheme::Https } else { Scheme::Http };
                PublicUrl { scheme, port, home_host: base_domain.clone(), base_domain }
            }
            Some(Origin { scheme, host, port }) => {
                if !env.is_set("BASE_DOMAIN") && host != "localhost" {
                    warnings.push(format!(
                        "PUBLIC_URL names {host} and BASE_DOMAIN is not set: instances get names under localhost, \
                         which only this machine reaches"
                    ));
                }
                // The front page's own URL must lead to it.
                api_hosts.extend(api_host(&host));
                PublicUrl { scheme, port, home_host: host, base_domain }
            }
        };
        let timeout = Duration::from_secs(30);
        let button_origins =
            env.list_if_set("BUTTON_ORIGINS", None, str::parse::<Origin>).unwrap_or_default();
        Self {
            listen: SocketAddr::new(host, port),
            public,
            api_hosts,
            button_origins,
            proof_of_work_above: env
                .number_if_set("PROOF_OF_WORK_ABOVE", None, 1..=u32::MAX.into())
                .map(|number| number as u32),
            tls,
            trusted_proxies: trusted_proxies(env),
            read_timeout: env.duration("SERVER_READ_TIMEOUT", timeout, MILLISECOND),
            write_timeout: env.duration("SERVER_WRITE_TIMEOUT", timeout, MILLISECOND),
            max_connections: env.number("MAX_CONNECTIONS", 10_000, 1..=1_000_000) as usize,
            max_requests_per_client: env.number("MAX_REQUESTS_PER_CLIENT", 256, 1..=1_000_000) as usize,
            max_requests_per_instance: env.number("MAX_REQUESTS_PER_INSTANCE", 512, 1..=1_000_000) as usize,
            max_buffered_bytes: usize::try_from(env.size("MAX_BUFFERED_BYTES", "512M")).unwrap_or(usize::MAX),
            max_connections_per_client: env.number("MAX_CONNECTIONS_PER_CLIENT", 256, 1..=1_000_000) as usize,
            http1_engine: env.word(
                "HTTP1_ENGINE",
                "forwarder",
                &[("forwarder", Http1Engine::Forwarder), ("pingora", Http1Engine::Pingora)],
            ),
            shutdown_grace: env.duration("SHUTDOWN_GRACE", timeout, Duration::ZERO),
        }
    }
}

/// Reads the list of trusted proxies. Unlike other settings it may be empty: then no proxy is trusted. An operator who
/// writes nothing there must not get the default, which trusts this host.
fn trusted_proxies(env: &mut Variables<'_>) -> TrustedProxies {
    const NAME: &str = "TRUSTED_PROXIES";
    let list = env.list(NAME, "127.0.0.1,::1", str::parse::<TrustedNetwork>);
    TrustedProxies(if env.is_set_empty(NAME) { Vec::new() } else { list })
}

fn listen_address(text: &str) -> Result<IpAddr, &'static str> {
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
    if bare.eq_ignore_ascii_case("localhost") {
        return Ok(Ipv4Addr::LOCALHOST.into());
    }
    bare.parse().map_err(
        |_| "write the IP address to listen on: 0.0.0.0, ::, 127.0.0.1 or another one of this machine",
    )
}

fn tls(env: &mut Variables<'_>) -> Option<TlsFiles> {
    const REMEDY: &str = "set both, or neither to serve without TLS";
    match (env.text("TLS_CERT"), env.text("TLS_KEY")) {
        (None, None) => None,
        (Some(cert), Some(key)) => Some(TlsFiles { cert: cert.into(), key: key.into() }),
        (Some(_), None) => {
            env.report("TLS_KEY", "it is not set, but TLS_CERT is", REMEDY);
            None
        }
        (None, Some(_)) => {
            env.report("TLS_CERT", "it is not set, but TLS_KEY is", REMEDY);
            None
        }
    }
}
