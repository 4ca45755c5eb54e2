//! The routing rule: which host a request names, and what answers for it.

use std::borrow::Cow;
use std::collections::HashSet;
use std::net::IpAddr;

use http::{HeaderMap, Uri, Version, header};

/// What answers a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination<'a> {
    /// The API and the pages.
    Api,
    /// The instance with this label (lower-case). There may be no such instance.
    Instance(Cow<'a, str>),
    /// This server does not answer for the host: 421.
    Unknown,
    /// The request names no host, several, or a malformed one: 400.
    Invalid,
}

impl Destination<'_> {
    /// Returns the same destination, which borrows nothing of the request.
    pub fn into_owned(self) -> Destination<'static> {
        match self {
            Destination::Api => Destination::Api,
            Destination::Instance(label) => Destination::Instance(label.into_owned().into()),
            Destination::Unknown => Destination::Unknown,
            Destination::Invalid => Destination::Invalid,
        }
    }
}

/// The hosts that this server answers for.
#[derive(Debug, Clone)]
pub struct Hosts {
    /// The base domain with a dot in front.
    suffix: String,
    api_hosts: HashSet<String>,
}

impl Hosts {
    /// Instances have hosts below `base_domain`. The API answers for `base_domain` itself, `localhost`, IP addresses
    /// and `api_hosts`. All arguments are in lower case.
    pub fn new(base_domain: &str, api_hosts: impl IntoIterator<Item = String>) -> Self {
        let mut api_hosts: HashSet<String> = api_hosts.into_iter().collect();
        api_hosts.insert(base_domain.to_owned());
        api_hosts.insert("localhost".to_owned());
        Self { suffix: format!(".{base_domain}"), api_hosts }
    }

    /// Decides what answers a request. This is the only routing rule: each engine calls it on its own parse of the
    /// head. A request of HTTP/1.0 that names no host, as the health checks of load balancers do, is for the API.
    pub fn destination_of_head<'a>(
        &self,
        version: Version,
        uri: &'a Uri,
        headers: &'a HeaderMap,
    ) -> Destination<'a> {
        if version == Version::HTTP_10 && uri.authority().is_none() && !headers.contains_key(header::HOST) {
            return Destination::Api;
        }
        self.destination(uri, headers)
    }

    /// Decides the same for a checked head of HTTP/1, by its host as the client wrote it, which may be empty.
    pub fn destination_of_http1<'a>(&self, host: &'a str) -> Destination<'a> {
        if host.is_empty() { Destination::Api } else { self.destination_of(host) }
    }

    /// Decides what answers a request that must name a host.
    pub fn destination<'a>(&self, uri: &'a Uri, headers: &'a HeaderMap) -> Destination<'a> {
        authority(uri, headers).map_or(Destination::Invalid, |host| self.destination_of(host))
    }

    /// Decides what answers for a host as the client wrote it, with or without a port.
    pub fn destination_of<'a>(&self, host: &'a str) -> Destination<'a> {
        let Some(host) = canonical_host(host) else { return Destination::Invalid };
        if self.api_hosts.contains(&*host) {
            return Destination::Api;
        }
        if host.ends_with(&*self.suffix) {
            let end = host.len() - self.suffix.len();
            return match host {
                _ if host[..end].contains('.') => Destination::Unknown,
                Cow::Borrowed(host) => Destination::Instance(host[..end].into()),
                Cow::Owned(mut host) => {
                    host.truncate(end);
                    Destination::Instance(host.into())
                }
            };
        }
        if is_address(&host) { Destination::Api } else { Destination::Unknown }
    }
}

fn is_address(host: &str) -> bool {
    let inner = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    inner.parse::<IpAddr>().is_ok()
}

/// Returns the one host that a request names: `:authority` or the absolute-form target, else `Host`. Returns `None` if
/// the request names no host, several, or two that differ.
pub fn authority<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Option<&'a str> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (_, Some(_)) => return None,
        (Some(host), None) => Some(host.to_str().ok()?),
        (None, None) => None,
    };
    match (uri.authority().map(|a| a.as_str()), host) {
        (Some(a), Some(h)) if !same_host(a, h) => None,
        (Some(a), _) => Some(a),
        (None, host) => host,
    }
}

fn same_host(a: &str, b: &str) -> bool {
    match (canonical_host(a), canonical_host(b)) {
        (Some(a), Some(b)) => a == b,
        _ => false,
    }
}

/// Returns a host in lower case, without its port and trailing dot. Returns `None` if the host is malformed; a host
/// with userinfo is.
pub fn canonical_host(host: &str) -> Option<Cow<'_, str>> {
    let name = match host.strip_prefix('[') {
        Some(rest) => {
            let (inner, port) = rest.split_once(']')?;
            inner.parse::<std::net::Ipv6Addr>().ok()?;
            if !(port.is_empty() || port.strip_prefix(':').is_some_and(is_port)) {
                return None;
            }
            &host[..inner.len() + 2]
        }
        None => {
            let name = match host.split_once(':') {
                Some((name, port)) if is_port(port) => name,
                Some(_) => return None,
                None => host,
            };
            let name = name.strip_suffix('.').unwrap_or(name);
            let is_host_char = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'.' | b'_');
            if name.is_empty() || name.len() > 253 || !name.bytes().all(is_host_char) || name.starts_with('.')
            {
                return None;
            }
            name
        }
    };
    Some(if name.bytes().any(|c| c.is_ascii_uppercase()) {
        name.to_ascii_lowercase().into()
    } else {
        name.into()
    })
}

fn is_port(port: &str) -> bool {
    (1..=5).contains(&port.len()) && port.bytes().all(|c| c.is_ascii_digit()) && port.parse::<u16>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;

    fn hosts() -> Hosts {
        Hosts::new("demo.test", ["api.example.org".to_owned(), "www.demo.test".to_owned()])
    }

    #[test]
    fn each_host_has_one_destination() {
        let hosts = hosts();
        for (host, destination) in [
            ("demo.test", Destination::Api),
            ("DEMO.test.:8080", Destination::Api),
            ("localhost", Destination::Api),
            ("127.0.0.1:80", Destination::Api),
            ("[::1]:80", Destination::Api),
            ("api.example.org", Destination::Api),
            ("www.demo.test", Destination::Api),
            ("shop-abc.demo.test", Destination::Instance("shop-abc".into())),
            ("Shop-ABC.Demo.Test.:443", Destination::Instance("shop-abc".into())),
            ("a.b.demo.test", Destination::Unknown),
            ("evildemo.test", Destination::Unknown),
            ("demo.test.evil", Destination::Unknown),
            ("", Destination::Invalid),
            (":80", Destination::Invalid),
            ("a@demo.test", Destination::Invalid),
            ("demo.test:80:80", Destination::Invalid),
            ("demo.test:99999", Destination::Invalid),
            ("demo.test:", Destination::Invalid),
            ("shop%2eabc.demo.test", Destination::Invalid),
            (".demo.test", Destination::Invalid),
            ("[::1", Destination::Invalid),
            ("[::1]x", Destination::Invalid),
            ("demo.test/", Destination::Invalid),
        ] {
            assert_eq!(hosts.destination_of(host), destination, "{host}");
        }
    }

    #[test]
    fn a_request_that_names_two_hosts_is_invalid() {
        let hosts = hosts();
        let mut headers = HeaderMap::new();
        let (path, full): (Uri, Uri) = ("/".parse().unwrap(), "http://demo.test/".parse().unwrap());
        assert_eq!(hosts.destination(&path, &headers), Destination::Invalid);
        assert_eq!(hosts.destination(&full, &headers), Destination::Api);
        headers.append(header::HOST, HeaderValue::from_static("demo.test:80"));
        assert_eq!(hosts.destination(&full, &headers), Destination::Api);
        headers.append(header::HOST, HeaderValue::from_static("demo.test:80"));
        assert_eq!(hosts.destination(&path, &headers), Destination::Invalid);
        headers.clear();
        headers.append(header::HOST, HeaderValue::from_static("shop-a.demo.test"));
        assert_eq!(hosts.destination(&full, &headers), Destination::Invalid);
    }

    proptest! {
        #![proptest_config(crate::proptest_config())]

        #[test]
        fn no_host_causes_a_panic_and_the_case_never_matters(host in "\\PC{0,60}") {
            let hosts = hosts();
            let (lower, upper) = (host.to_ascii_lowercase(), host.to_ascii_uppercase());
            prop_assert_eq!(hosts.destination_of(&lower), hosts.destination_of(&upper));
        }

        #[test]
        fn a_label_is_read_with_any_port_and_case(label in "[a-z0-9][a-z0-9-]{0,61}", port in 1_u16..) {
            let host = format!("{}.demo.test:{port}", label.to_uppercase());
            prop_assert_eq!(hosts().destination_of(&host), if label == "www" { Destination::Api } else { Destination::Instance(label.into()) });
        }
    }
}
