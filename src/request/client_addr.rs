//! The address of the client that sent a request.

use std::net::{IpAddr, Ipv6Addr};

use http::{HeaderMap, HeaderName, header};

use crate::config::TrustedProxies;
use crate::instance::Visitor;

/// The IPv6 networks beyond the /64 by which a client counts: the bits of the prefix, and how many times each limit its
/// clients may use together. A household usually gets a /56 and a site a /48, so that one client has many /64s.
const WIDE_NETWORKS: [(u32, u32); 2] = [(56, 4), (48, 16)];

/// The client that sent a request, according to the connection and to trusted proxies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientAddr {
    /// The client's address.
    pub address: IpAddr,
    /// Whether the client's connection uses TLS.
    pub is_secure: bool,
    /// Whether the connection is from loopback: from a program on this host, which may be a proxy.
    pub is_loopback: bool,
}

/// The addresses through which a request came, the client's first.
pub const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// The scheme that the client used.
pub const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The fields that proxies add. A request with one of them comes through a proxy, whatever the field says.
const PROXY_FIELDS: [HeaderName; 8] = [
    FORWARDED_FOR,
    FORWARDED_PROTO,
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-forwarded-port"),
    HeaderName::from_static("x-forwarded-server"),
    HeaderName::from_static("x-real-ip"),
    header::FORWARDED,
    header::VIA,
];

impl ClientAddr {
    /// Finds the client behind `peer`. Forwarded headers are used only if `peer` is a trusted proxy. Their addresses
    /// are read from the right: the first that is no trusted proxy is the client.
    pub fn of(peer: IpAddr, is_secure: bool, headers: &HeaderMap, trusted: &TrustedProxies) -> Self {
        let peer = peer.to_canonical();
        let is_loopback = peer.is_loopback();
        if !trusted.contains(peer) {
            return Self { address: peer, is_secure, is_loopback };
        }
        let mut address = peer;
        for hop in forwarded_chain(headers).into_iter().rev() {
            // Any client could have written the entries left of an unreadable one.
            let Some(hop) = hop else { break };
            address = hop;
            if !trusted.contains(hop) {
                break;
            }
        }
        let is_secure =
            match headers.get_all(FORWARDED_PROTO).iter().next_back().and_then(|v| v.to_str().ok()) {
                Some(protocols) => {
                    protocols.rsplit(',').next().is_some_and(|p| p.trim().eq_ignore_ascii_case("https"))
                }
                None => is_secure,
            };
        Self { address, is_secure, is_loopback }
    }

    /// Returns the networks by which limits count the client, see [`visitor_at`].
    pub fn visitor(&self) -> Visitor {
        visitor_at(self.address)
    }
}

/// Returns the networks by which limits count the client at an address: a whole IPv4 address, or the /64, the /56 and the /48 of
/// an IPv6 address.
pub fn visitor_at(address: IpAddr) -> Visitor {
    match address {
        IpAddr::V4(v4) => Visitor::new(v4.to_string()),
        IpAddr::V6(v6) => {
            let network = |prefix: u32| {
                let base = Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << (128 - prefix)));
                format!("{base}/{prefix}")
            };
            let narrowest = Visitor::new(network(64));
            WIDE_NETWORKS
                .into_iter()
                .fold(narrowest, |visitor, (prefix, factor)| visitor.within(factor, &network(prefix)))
        }
    }
}

/// Returns whether a proxy has added a field to a request, whatever the field says.
pub fn has_proxy_fields(headers: &HeaderMap) -> bool {
    PROXY_FIELDS.iter().any(|name| headers.contains_key(name))
}

/// Returns what counts as one client: a whole IPv4 address, or the /64 of an IPv6 address.
pub fn client_network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
        v4 => v4,
    }
}

/// Returns all entries of `X-Forwarded-For` from left to right; `None` for an unreadable one.
fn forwarded_chain(headers: &HeaderMap) -> Vec<Option<IpAddr>> {
    headers
        .get_all(FORWARDED_FOR)
        .iter()
        .flat_map(|value| match value.to_str() {
            Ok(text) => text.split(',').map(|entry| parse_address(entry.trim())).collect(),
            Err(_) => vec![None],
        })
        .collect()
}

/// Parses an address, also with a port or in brackets, as some proxies write it.
fn parse_address(entry: &str) -> Option<IpAddr> {
    let bare = entry.strip_prefix('[').and_then(|e| e.strip_suffix(']')).unwrap_or(entry);
    let address = match bare.parse::<IpAddr>() {
        Ok(address) => address,
        Err(_) => entry.parse::<std::net::SocketAddr>().ok()?.ip(),
    };
    Some(address.to_canonical())
}

/// Returns the `X-Forwarded-For` to send upstream: the chain as received if `peer` is trusted, else no entry of it;
/// then `peer` itself.
pub fn forwarded_for(peer: IpAddr, headers: &HeaderMap, trusted: &TrustedProxies) -> String {
    let peer = peer.to_canonical();
    let mut chain = String::new();
    if trusted.contains(peer) {
        for value in headers.get_all(FORWARDED_FOR).iter().filter_map(|v| v.to_str().ok()) {
            chain.push_str(value.trim());
            chain.push_str(", ");
        }
    }
    chain.push_str(&peer.to_string());
    chain
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;

    fn trusted() -> TrustedProxies {
        TrustedProxies(vec!["127.0.0.1".parse().unwrap(), "10.0.0.0/8".parse().unwrap()])
    }
    fn headers(lines: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(FORWARDED_FOR, HeaderValue::from_str(line).unwrap());
        }
        headers
    }
    fn client(peer: &str, lines: &[&str]) -> String {
        ClientAddr::of(peer.parse().unwrap(), false, &headers(lines), &trusted()).address.to_string()
    }

    #[test]
    fn the_header_of_an_untrusted_client_is_ignored() {
        assert_eq!(client("203.0.113.9", &["1.2.3.4"]), "203.0.113.9");
    }

    #[test]
    fn the_chain_is_read_from_the_right_past_trusted_proxies_only() {
        assert_eq!(client("127.0.0.1", &["6.6.6.6, 1.2.3.4, 10.1.1.1"]), "1.2.3.4");
        assert_eq!(client("127.0.0.1", &["6.6.6.6", "1.2.3.4:5555"]), "1.2.3.4");
        assert_eq!(client("::ffff:127.0.0.1", &["[2001:db8::1]"]), "2001:db8::1");
        assert_eq!(client("127.0.0.1", &[]), "127.0.0.1");
        assert_eq!(client("127.0.0.1", &["1.2.3.4, nonsense, 10.1.1.1"]), "10.1.1.1");
    }

    #[test]
    fn a_connection_from_loopback_is_one_and_a_request_with_any_field_of_a_proxy_came_through_one() {
        for trusted in [trusted(), TrustedProxies(vec![])] {
            let is_loopback = |peer: &str| {
                ClientAddr::of(peer.parse().unwrap(), false, &HeaderMap::new(), &trusted).is_loopback
            };
            for peer in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
                assert!(is_loopback(peer), "{peer}");
            }
            for peer in ["203.0.113.9", "10.0.0.1", "2001:db8::1"] {
                assert!(!is_loopback(peer), "{peer}");
            }
        }
        assert!(!has_proxy_fields(&HeaderMap::new()));
        for name in PROXY_FIELDS {
            let headers = HeaderMap::from_iter([(name, HeaderValue::from_static("127.0.0.1"))]);
            assert!(has_proxy_fields(&headers), "{headers:?}");
        }
    }

    #[test]
    fn an_ipv6_client_counts_by_its_networks() {
        let text = |a: &str| {
            let client = ClientAddr { address: a.parse().unwrap(), is_secure: false, is_loopback: false };
            client.visitor().as_str().to_owned()
        };
        let networks = "2001:db8:1:2ff::/64,4*2001:db8:1:200::/56,16*2001:db8:1::/48";
        assert_eq!(text("2001:db8:1:2ff:3:4:5:6"), networks);
        assert_eq!(text("2001:db8:1:2ff:ffff::1"), networks);
        assert_eq!(text("2001:db8:1:3ff::1"), "2001:db8:1:3ff::/64,4*2001:db8:1:300::/56,16*2001:db8:1::/48");
        assert_eq!(text("192.0.2.7"), "192.0.2.7");
    }

    #[test]
    fn the_chain_of_an_untrusted_client_is_not_sent_upstream() {
        let lines = headers(&["6.6.6.6"]);
        assert_eq!(forwarded_for("203.0.113.9".parse().unwrap(), &lines, &trusted()), "203.0.113.9");
        assert_eq!(forwarded_for("10.0.0.1".parse().unwrap(), &lines, &trusted()), "6.6.6.6, 10.0.0.1");
    }

    proptest! {
        #![proptest_config(crate::proptest_config())]

        #[test]
        fn no_header_causes_a_panic_or_makes_an_untrusted_client_trusted(line in "[ -~]{0,60}") {
            prop_assert_eq!(client("203.0.113.9", &[&line]), "203.0.113.9");
            let _ = client("127.0.0.1", &[&line]);
        }
    }
}
