//! Checks who may say in a forwarded field (`X-Forwarded-For`) which address a visitor has.
//!
//! A proxy in front of the server must replace the field that a visitor sent, or add the visitor's address at its end.
//! A proxy that forwards the field as it came lets each visitor choose an address, and with it a rate limit. So the
//! doctor sends a request with an invented address through the public URL, and asks the server which one it saw.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::check_result::CheckResult;
use crate::config::{Origin, RuntimeMode, Scheme, ServerSettings, TrustedProxies};
use crate::request::one_shot::{ExchangeError, exchange};

/// The path that returns the caller's address as the server sees it.
const PATH: &str = "/api/v1/client";

/// Where the request to a proxy on this host comes from. All of 127.0.0.0/8 is loopback, and proxies use its first
/// address.
const LOOPBACK_SOURCE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 198, 51, 100));

/// How long the request may take, with the lookup of the name and the handshake.
const DEADLINE: Duration = Duration::from_secs(10);

/// Returns whose forwarded fields are believed. An app of the process runtime that can be one of them is a problem.
pub(super) fn judge_trust(trusted: &TrustedProxies, mode: RuntimeMode) -> CheckResult {
    const CHECK: &str = "trusted proxies";
    let found = format!("X-Forwarded-* fields are believed from {trusted}");
    if mode == RuntimeMode::Process && trusted.has_loopback() {
        return CheckResult::warning(
            CHECK,
            format!("{found}; apps of the process runtime send from there too, and can claim any address"),
            "set TRUSTED_PROXIES to the address of the proxy, or to nothing if there is none; or CONTAINER_MODE=containerd",
        );
    }
    CheckResult::ok(CHECK, found)
}

/// Checks that no proxy on the way from `url` to the server forwards a client's own field unchanged.
pub(super) async fn check(url: &Origin, server: &ServerSettings) -> CheckResult {
    let invented = invented_address();
    let found = match timeout(DEADLINE, address_seen_at(url, server, invented)).await {
        Ok(found) => found,
        Err(_) => Err(NotSeen::Failed(format!("no answer within {} s", DEADLINE.as_secs()))),
    };
    judge(&text(url), invented, found)
}

/// Why the doctor did not learn which address the server saw.
enum NotSeen {
    /// The URL leads to the server itself, which believes this machine by design.
    NoProxy,
    /// There is no answer, or not the server's.
    Failed(String),
}

/// Returns a random address of a network for documentation, which no client has.
fn invented_address() -> IpAddr {
    let mut last = [0];
    // Without randomness the address is a fixed one, which serves as well unless the answer comes from a cache.
    let _ = getrandom::fill(&mut last);
    Ipv4Addr::new(198, 51, 100, last[0]).into()
}

/// Sends a request to `url` that claims to come from `invented`. Returns the address that the server saw.
async fn address_seen_at(url: &Origin, server: &ServerSettings, invented: IpAddr) -> Result<IpAddr, NotSeen> {
    let failed = |error: ExchangeError| NotSeen::Failed(error.to_string());
    if url.port == 0 {
        return Err(NotSeen::NoProxy);
    }
    let host = url.host.trim_start_matches('[').trim_end_matches(']');
    let addresses: Vec<_> =
        lookup_host((host, url.port)).await.map_err(|error| failed(error.into()))?.collect();
    if url.port == server.listen.port() && addresses.iter().any(|address| address.ip().is_loopback()) {
        return Err(NotSeen::NoProxy);
    }
    let request = Request::get(format!("{PATH}?{invented}"))
        .header("host", format!("{}:{}", url.host, url.port))
        .header("x-forwarded-for", invented.to_string())
        .body(Full::<Bytes>::default())
        .map_err(|error| failed(error.into()))?;
    let stream = connect(&addresses).await.map_err(|error| failed(error.into()))?;
    let own = stream.local_addr().map_err(|error| failed(error.into()))?.ip();
    if server.trusted_proxies.contains(own) {
        let why =
            format!("this machine ({own}) is a trusted proxy itself, so run doctor --url on another one");
        return Err(NotSeen::Failed(why));
    }
    let response = match url.scheme {
        Scheme::Http => exchange(stream, request).await,
        Scheme::Https => match encrypt(stream, host).await {
            Ok(stream) => exchange(stream, request).await,
            Err(error) => Err(error),
        },
    }
    .map_err(failed)?;
    if response.status() != StatusCode::OK {
        return Err(NotSeen::Failed(format!("{PATH} was answered with {}", response.status().as_u16())));
    }
    let answer = serde_json::from_slice::<serde_json::Value>(response.body()).unwrap_or_default();
    let address = answer["address"].as_str().and_then(|address| address.parse().ok());
    address.ok_or_else(|| NotSeen::Failed(format!("{PATH} was not answered by this program")))
}

/// Connects to the first address that accepts, IPv4 first. To a loopback address it connects from one that is
/// unlikely to be a trusted proxy: what a client says of itself at the end of the chain counts only if the proxy adds
/// an address that is not trusted.
async fn connect(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut outcome = Err(io::ErrorKind::NotFound.into());
    let (v4, v6): (Vec<_>, Vec<_>) = addresses.iter().partition(|address| address.is_ipv4());
    for address in v4.into_iter().chain(v6) {
        outcome = match address {
            SocketAddr::V4(v4) if v4.ip().is_loopback() => {
                let socket = TcpSocket::new_v4()?;
                socket.bind((LOOPBACK_SOURCE, 0).into())?;
                socket.connect(address).await
            }
            _ => TcpStream::connect(address).await,
        };
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

async fn encrypt(
    stream: TcpStream,
    host: &str,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, ExchangeError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(host.to_owned())?;
    Ok(TlsConnector::from(Arc::new(config)).connect(name, stream).await?)
}

fn text(url: &Origin) -> String {
    format!("{}://{}:{}", url.scheme, url.host, url.port)
}

fn judge(url: &str, invented: IpAddr, found: Result<IpAddr, NotSeen>) -> CheckResult {
    const CHECK: &str = "forwarded fields";
    match found {
        Ok(seen) if seen == invented => CheckResult::missing(
            CHECK,
            true,
            format!(
                "a proxy on the way from {url} forwards the X-Forwarded-For of visitors unchanged, so each can choose an address"
            ),
            "have the outermost proxy replace the field: in nginx proxy_set_header X-Forwarded-For $remote_addr; in \
             HAProxy http-request set-header x-forwarded-for %[src]; Caddy and Traefik do so by default",
        ),
        Ok(seen) => CheckResult::ok(
            CHECK,
            format!("an invented X-Forwarded-For is not believed through {url}: the server saw {seen}"),
        ),
        Err(NotSeen::NoProxy) => CheckResult::ok(
            CHECK,
            format!("not checked: {url} is this server itself; name the proxy with PUBLIC_URL or --url"),
        ),
        Err(NotSeen::Failed(why)) => CheckResult::warning(
            CHECK,
            format!("not checked through {url}: {why}"),
            "start the server, and run doctor where PUBLIC_URL leads to it, or name another way with --url",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::Verdict;

    #[test]
    fn apps_that_may_claim_any_address_are_a_problem_of_the_process_runtime_only() {
        let trusted =
            |list: &[&str]| TrustedProxies(list.iter().map(|network| network.parse().unwrap()).collect());
        for list in [&["::1"][..], &["127.0.0.1"], &["0.0.0.0/0"], &["127.0.0.8/30"]] {
            let judged = judge_trust(&trusted(list), RuntimeMode::Process);
            assert_eq!(judged.verdict, Verdict::Warning, "{list:?}");
            assert!(judged.found.contains(list[0]), "{judged:?}");
            assert_eq!(judge_trust(&trusted(list), RuntimeMode::Containerd).verdict, Verdict::Ok);
        }
        assert_eq!(
            judge_trust(&trusted(&["10.0.0.1", "fd00::/8"]), RuntimeMode::Process).verdict,
            Verdict::Ok
        );
        let nobody = judge_trust(&trusted(&[]), RuntimeMode::Process);
        assert!(nobody.verdict == Verdict::Ok && nobody.found.ends_with("from no proxy"), "{nobody:?}");
    }

    #[test]
    fn only_the_invented_address_shows_a_proxy_that_forwards_fields_unchanged() {
        let invented = invented_address();
        let verdict = |found| judge("http://a:80", invented, found).verdict;
        assert_eq!(verdict(Ok(invented)), Verdict::Failed);
        assert_eq!(verdict(Ok(Ipv4Addr::LOCALHOST.into())), Verdict::Ok);
        assert_eq!(verdict(Err(NotSeen::NoProxy)), Verdict::Ok);
        assert_eq!(verdict(Err(NotSeen::Failed("refused".to_owned()))), Verdict::Warning);
    }
}
