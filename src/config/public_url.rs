//! The addresses that visitors see.

use std::fmt::{self, Write as _};
use std::net::IpAddr;
use std::str::FromStr;

use crate::instance::InstanceId;

/// Longest base domain in bytes: an instance's label and a dot go in front, and a host name has at most 253.
const MAX_BASE_DOMAIN: usize = 253 - 63 - 1;

/// How a visitor's browser talks to the one port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// In the clear.
    Http,
    /// Over TLS.
    Https,
}

/// Where visitors find the server: with what is in front of it, this need not be where it listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicUrl {
    /// How they ask.
    pub scheme: Scheme,
    /// The port that they ask; 0 until [`PublicAddress::bound`] when the server listens on a port of the system's
    /// choice.
    pub port: u16,
    /// The host of the front page, as it stands in a URL.
    pub home: String,
    /// The host name under which instances have theirs.
    pub base_domain: String,
}

/// An `http` or `https` URL without a path, as in `PUBLIC_URL`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) scheme: Scheme,
    pub(super) host: String,
    pub(super) port: u16,
}

impl Scheme {
    /// Its name in a URL.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// The port that a URL need not name.
    pub fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl PublicUrl {
    /// Takes the port that the server got when it asked for any. A public port that is known already stays.
    pub fn bound(&mut self, port: u16) {
        if self.port == 0 {
            self.port = port;
        }
    }

    /// The address of an instance, a slash at its end.
    pub fn instance_url(&self, id: &InstanceId) -> String {
        // Every acquire asks for it.
        let mut url = String::with_capacity(128);
        url.push_str(self.scheme.as_str());
        for part in ["://", id.as_str(), ".", &self.base_domain] {
            url.push_str(part);
        }
        if self.port != self.scheme.default_port() {
            let _ = write!(url, ":{}", self.port);
        }
        url.push('/');
        url
    }

    /// The host in that address, without a port.
    pub fn instance_host(&self, id: &InstanceId) -> String {
        format!("{id}.{}", self.base_domain)
    }

    /// The host in that address with the port that it names, as it stands in a request's `Host`.
    pub fn instance_authority(&self, id: &InstanceId) -> String {
        self.authority(&self.instance_host(id))
    }

    /// The address of the front page, a slash at its end.
    pub fn home_url(&self) -> String {
        self.url(&self.home)
    }

    fn url(&self, host: &str) -> String {
        format!("{}://{}/", self.scheme, self.authority(host))
    }

    fn authority(&self, host: &str) -> String {
        match self.port {
            port if port == self.scheme.default_port() => host.to_owned(),
            port => format!("{host}:{port}"),
        }
    }
}

impl FromStr for Origin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let right = || "write a URL without a path, such as https://demo.example.com".to_owned();
        let (scheme, rest) = text.split_once("://").ok_or_else(right)?;
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => return Err(right()),
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        // The colons inside an IPv6 address end with its bracket.
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, Some(port)),
            _ => (authority, None),
        };
        let port = match port {
            None => scheme.default_port(),
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
                digits.parse().ok().filter(|port| *port != 0).ok_or_else(right)?
            }
            Some(_) => return Err(right()),
        };
        let bracketed = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        let host = match bracketed {
            Some(v6) => format!("[{}]", v6.parse::<std::net::Ipv6Addr>().map_err(|_| right())?),
            None => host_or_ipv4(host).ok_or_else(right)?,
        };
        Ok(Self { scheme, host, port })
    }
}

fn host_or_ipv4(text: &str) -> Option<String> {
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V4(v4)) => Some(v4.to_string()),
        Ok(IpAddr::V6(_)) => None,
        Err(_) => host_name(text),
    }
}

/// Reads a host name: DNS labels of letters, digits, dashes and underscores, in lower case without the last dot.
/// An IP address is none, nor is a name that browsers would take for one (its last label is a number).
pub(super) fn host_name(text: &str) -> Option<String> {
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    let last = name.rsplit('.').next().unwrap_or("");
    let numeric = last.bytes().all(|b| b.is_ascii_digit()) || last.starts_with("0x");
    (name.len() <= 253 && name.split('.').all(label) && !numeric).then_some(name)
}

/// Reads the host name under which instances have theirs.
pub(super) fn base_domain(text: &str) -> Result<String, String> {
    host_name(text).filter(|name| name.len() <= MAX_BASE_DOMAIN).ok_or_else(|| {
        format!(
            "write a host name of at most {MAX_BASE_DOMAIN} characters without scheme and port, such as \
             demo.example.com"
        )
    })
}

/// Reads the host of a request that the API answers: a name or an IP address (IPv6 without brackets).
pub(super) fn api_host(text: &str) -> Result<String, String> {
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
    match bare.parse::<IpAddr>() {
        Ok(address) => Ok(address.to_string()),
        Err(_) => host_name(text).ok_or_else(|| {
            "write host names without scheme and port, separated by commas, such as try.example.com"
                .to_owned()
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(scheme: Scheme, port: u16) -> PublicUrl {
        PublicUrl {
            scheme,
            port,
            home: "try.example.com".to_owned(),
            base_domain: "demo.example.com".to_owned(),
        }
    }

    #[test]
    fn an_address_omits_the_default_port_and_only_that() {
        let id = InstanceId::parse("shop-aaaaaaaaaaaaaaaa").unwrap();
        for (address, url) in [
            (at(Scheme::Http, 80), "http://shop-aaaaaaaaaaaaaaaa.demo.example.com/"),
            (at(Scheme::Https, 443), "https://shop-aaaaaaaaaaaaaaaa.demo.example.com/"),
            (at(Scheme::Http, 8080), "http://shop-aaaaaaaaaaaaaaaa.demo.example.com:8080/"),
            (at(Scheme::Https, 80), "https://shop-aaaaaaaaaaaaaaaa.demo.example.com:80/"),
        ] {
            assert_eq!(address.instance_url(&id), url);
            assert_eq!(format!("{}://{}/", address.scheme, address.instance_authority(&id)), url);
        }
        assert_eq!(at(Scheme::Https, 443).home_url(), "https://try.example.com/");
    }

    #[test]
    fn the_bound_port_fills_in_only_a_port_that_is_not_known() {
        let mut any = at(Scheme::Http, 0);
        any.bound(40_000);
        assert_eq!(any.port, 40_000);
        any.bound(50_000);
        assert_eq!(any.port, 40_000);
    }

    #[test]
    fn origins_are_read() {
        for (text, scheme, host, port) in [
            ("http://localhost:8080", Scheme::Http, "localhost", 8080),
            ("HTTPS://Demo.Example.com/", Scheme::Https, "demo.example.com", 443),
            ("http://127.0.0.1", Scheme::Http, "127.0.0.1", 80),
            ("http://[::1]:81", Scheme::Http, "[::1]", 81),
            ("http://[::1]", Scheme::Http, "[::1]", 80),
        ] {
            assert_eq!(text.parse(), Ok(Origin { scheme, host: host.to_owned(), port }), "{text}");
        }
    }

    #[test]
    fn what_is_no_origin_is_refused() {
        for text in [
            "",
            "demo.example.com",
            "ftp://a.example",
            "http://",
            "http:///",
            "http://a.example/path",
            "http://a.example//",
            "http://a.example?q",
            "http://a.example#f",
            "http://user@a.example",
            "http://a.example:",
            "http://a.example:0",
            "http://a.example:65536",
            "http://a.example:+80",
            "http://::1",
            "http://[::1",
            "http://a b",
        ] {
            assert!(text.parse::<Origin>().is_err(), "{text}");
        }
    }

    #[test]
    fn host_names_are_canonical_and_no_addresses() {
        assert_eq!(host_name("Demo.Example.COM."), Some("demo.example.com".to_owned()));
        assert_eq!(host_name("localhost"), Some("localhost".to_owned()));
        for text in
            ["", ".", "a..b", "-a.b", "a-.b", "10.0.0.1", "1.2", "a.0x7f", "a b", "a:80", "ä.example", "*.a"]
        {
            assert_eq!(host_name(text), None, "{text}");
        }
        let long = ["a".repeat(63), "b".repeat(63), "c".repeat(62)].join(".");
        assert!(host_name(&long).is_some() && base_domain(&long).is_err());
        assert_eq!(api_host("[::1]"), Ok("::1".to_owned()));
    }

    proptest! {
        #[test]
        fn no_text_makes_reading_panic(text in "\\PC{0,60}|https?://[\\[\\]:/a1.]{0,20}") {
            let _ = text.parse::<Origin>();
            let _ = (base_domain(&text), api_host(&text));
        }
    }
}
