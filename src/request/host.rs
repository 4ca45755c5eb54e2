//! Whose host a request names.

use std::borrow::Cow;
use std::collections::HashSet;
use std::net::IpAddr;

use http::{HeaderMap, Uri, header};

/// Who answers a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination<'a> {
    /// The API and the pages.
    Api,
    /// The instance that owns this label, lower-case; there may be no such instance.
    Instance(Cow<'a, str>),
    /// Nobody here: 421.
    Unknown,
    /// The request names no host, several, or a malformed one: 400.
    Bad,
}

/// The hosts that this server answers for.
#[derive(Debug, Clone)]
pub struct Hosts {
    /// With a dot in front.
    suffix: String,
    api: HashSet<String>,
}

impl Hosts {
    /// Instances live under `base`; `base` itself, `localhost`, IP addresses and `api` are the API's. All in lower
    /// case.
    pub fn new(base: &str, api: impl IntoIterator<Item = String>) -> Self {
        let mut api: HashSet<String> = api.into_iter().collect();
        api.insert(base.to_owned());
        api.insert("localhost".to_owned());
        Self { suffix: format!(".{base}"), api }
    }

    /// The one routing decision. Every engine calls it on its own parse of a request's head.
    pub fn side<'a>(&self, uri: &'a Uri, headers: &'a HeaderMap) -> Destination<'a> {
        authority(uri, headers).map_or(Destination::Bad, |host| self.side_of(host))
    }

    /// The side of a host as written, with or without a port.
    pub fn side_of<'a>(&self, host: &'a str) -> Destination<'a> {
        let Some(host) = canonical_host(host) else { return Destination::Bad };
        if self.api.contains(&*host) {
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

/// The one host that a request names: `:authority` or the absolute-form target, else `Host`. `None` when it names
/// none, several, or two that differ.
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

/// A host in lower case without its port and trailing dot. `None` when it is malformed; userinfo is.
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
            let fine = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'.' | b'_');
            if name.is_empty() || name.len() > 253 || !name.bytes().all(fine) || name.starts_with('.') {
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
    fn each_host_has_one_side() {
        let hosts = hosts();
        for (host, side) in [
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
            ("", Destination::Bad),
            (":80", Destination::Bad),
            ("a@demo.test", Destination::Bad),
            ("demo.test:80:80", Destination::Bad),
            ("demo.test:99999", Destination::Bad),
            ("demo.test:", Destination::Bad),
            ("shop%2eabc.demo.test", Destination::Bad),
            (".demo.test", Destination::Bad),
            ("[::1", Destination::Bad),
            ("[::1]x", Destination::Bad),
            ("demo.test/", Destination::Bad),
        ] {
            assert_eq!(hosts.side_of(host), side, "{host}");
        }
    }

    #[test]
    fn a_request_that_names_two_hosts_is_bad() {
        let hosts = hosts();
        let mut headers = HeaderMap::new();
        let (path, full): (Uri, Uri) = ("/".parse().unwrap(), "http://demo.test/".parse().unwrap());
        assert_eq!(hosts.side(&path, &headers), Destination::Bad);
        assert_eq!(hosts.side(&full, &headers), Destination::Api);
        headers.append(header::HOST, HeaderValue::from_static("demo.test:80"));
        assert_eq!(hosts.side(&full, &headers), Destination::Api);
        headers.append(header::HOST, HeaderValue::from_static("demo.test:80"));
        assert_eq!(hosts.side(&path, &headers), Destination::Bad);
        headers.clear();
        headers.append(header::HOST, HeaderValue::from_static("shop-a.demo.test"));
        assert_eq!(hosts.side(&full, &headers), Destination::Bad);
    }

    proptest! {
        #[test]
        fn no_host_makes_it_panic_and_the_case_never_matters(host in "\\PC{0,60}") {
            let hosts = hosts();
            let (lower, upper) = (host.to_ascii_lowercase(), host.to_ascii_uppercase());
            prop_assert_eq!(hosts.side_of(&lower), hosts.side_of(&upper));
        }

        #[test]
        fn a_label_is_read_with_any_port_and_case(label in "[a-z0-9][a-z0-9-]{0,61}", port in 1_u16..) {
            let host = format!("{}.demo.test:{port}", label.to_uppercase());
            prop_assert_eq!(hosts().side_of(&host), if label == "www" { Destination::Api } else { Destination::Instance(label.into()) });
        }
    }
}
