//! The URLs that visitors see: of the front page and of instances.

use std::fmt::{self, Write as _};
use std::net::IpAddr;
use std::str::FromStr;

use crate::instance::InstanceId;

/// The longest base domain, in bytes. An instance's label and a dot precede it, and a host name has at most 253 bytes.
const MAX_BASE_DOMAIN: usize = 253 - 63 - 1;

/// The scheme of the URLs that visitors see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// Without TLS.
    Http,
    /// With TLS.
    Https,
}

/// Where visitors reach the server. Behind a proxy or a load balancer this is not where the server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicUrl {
    /// The scheme.
    pub scheme: Scheme,
    /// The port; 0 until [`PublicUrl::set_bound_port`] when the system chooses the port to listen on.
    pub port: u16,
    /// The host of the front page, in the notation of a URL.
    pub home_host: String,
    /// The domain of all instances: the host name of an instance is its id, a dot and this domain.
    pub base_domain: String,
}

/// An `http` or `https` URL without a path, as in `PUBLIC_URL`: the origin of a web page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The scheme.
    pub scheme: Scheme,
    /// The host in lower case, IPv6 in brackets.
    pub host: String,
    /// The port, also where it is the scheme's own.
    pub port: u16,
}

impl Scheme {
    /// Returns the scheme in the notation of a URL.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// Returns the port of a URL that names none.
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
    /// Sets the port that the server listens on, unless the public port is known already.
    pub fn set_bound_port(&mut self, port: u16) {
        if self.port == 0 {
            self.port = port;
        }
    }

    /// Returns the URL of an instance, which ends with a slash.
    pub fn instance_url(&self, id: &InstanceId) -> String {
        // Built in place, because every acquire needs it.
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

    /// Returns the host of an instance's URL, without a port.
    pub fn instance_host(&self, id: &InstanceId) -> String {
        format!("{id}.{}", self.base_domain)
    }

    /// Returns the host of an instance's URL with the port that the URL names, in the notation of a `Host` header.
    pub fn instance_authority(&self, id: &InstanceId) -> String {
        self.authority(&self.instance_host(id))
    }

    /// Returns the origin of the front page.
    pub fn home_origin(&self) -> Origin {
        Origin { scheme: self.scheme, host: self.home_host.clone(), port: self.port }
    }

    /// Returns the URL of the front page, which ends with a slash.
    pub fn home_url(&self) -> String {
        self.url(&self.home_host)
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
        let rule = || "write a URL without a path, such as https://apps.example.com".to_owned();
        let (scheme, rest) = text.split_once("://").ok_or_else(rule)?;
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => return Err(rule()),
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        // A colon before a closing bracket is part of an IPv6 address.
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, Some(port)),
            _ => (authority, None),
        };
        let port = match port {
            None => scheme.default_port(),
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
                digits.parse().ok().filter(|port| *port != 0).ok_or_else(rule)?
            }
            Some(_) => return Err(rule()),
        };
        let bracketed = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        let host = match bracketed {
            Some(v6) => format!("[{}]", v6.parse::<std::net::Ipv6Addr>().map_err(|_| rule())?),
            None => host_or_ipv4(host).ok_or_else(rule)?,
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

/// Returns a host name in lower case and without the last dot: DNS labels of letters, digits, dashes and underscores.
/// `None` for an IP address, and for a name that browsers read as one because its last label is a number.
pub(super) fn host_name(text: &str) -> Option<String> {
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let is_label = |l: &str| {
        (1..=63).contains(&l.len())
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    let last = name.rsplit('.').next().unwrap_or("");
    let is_numeric = last.bytes().all(|b| b.is_ascii_digit()) || last.starts_with("0x");
    (name.len() <= 253 && name.split('.').all(is_label) && !is_numeric).then_some(name)
}

/// Reads the domain of all instances.
///
/// # Errors
/// The remedy: the text is no host name, or too long.
pub(super) fn base_domain(text: &str) -> Result<String, String> {
    host_name(text).filter(|name| name.len() <= MAX_BASE_DOMAIN).ok_or_else(|| {
        format!(
            "write a host name of at most {MAX_BASE_DOMAIN} characters without scheme and port, such as \
             apps.example.com"
        )
    })
}

/// Reads a host that the API answers: a name or an IP address. An IPv6 address is returned without brackets.
///
/// # Errors
/// The remedy: the text is neither.
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

    fn public_url(scheme: Scheme, port: u16) -> PublicUrl {
        PublicUrl {
            scheme,
            port,
            home_host: "try.example.com".to_owned(),
            base_domain: "apps.example.com".to_owned(),
        }
    }

    #[test]
    fn a_url_omits_the_default_port_and_no_other() {
        let id = InstanceId::parse("shop-aaaaaaaaaaaaaaaa").unwrap();
        for (public, url) in [
            (public_url(Scheme::Http, 80), "http://shop-aaaaaaaaaaaaaaaa.apps.example.com/"),
            (public_url(Scheme::Https, 443), "https://shop-aaaaaaaaaaaaaaaa.apps.example.com/"),
            (public_url(Scheme::Http, 8080), "http://shop-aaaaaaaaaaaaaaaa.apps.example.com:8080/"),
            (public_url(Scheme::Https, 80), "https://shop-aaaaaaaaaaaaaaaa.apps.example.com:80/"),
        ] {
            assert_eq!(public.instance_url(&id), url);
            assert_eq!(format!("{}://{}/", public.scheme, public.instance_authority(&id)), url);
        }
        assert_eq!(public_url(Scheme::Https, 443).home_url(), "https://try.example.com/");
    }

    #[test]
    fn the_bound_port_replaces_only_an_unknown_port() {
        let mut any = public_url(Scheme::Http, 0);
        any.set_bound_port(40_000);
        assert_eq!(any.port, 40_000);
        any.set_bound_port(50_000);
        assert_eq!(any.port, 40_000);
    }

    #[test]
    fn origins_are_read() {
        for (text, scheme, host, port) in [
            ("http://localhost:8080", Scheme::Http, "localhost", 8080),
            ("HTTPS://Apps.Example.com/", Scheme::Https, "apps.example.com", 443),
            ("http://127.0.0.1", Scheme::Http, "127.0.0.1", 80),
            ("http://[::1]:81", Scheme::Http, "[::1]", 81),
            ("http://[::1]", Scheme::Http, "[::1]", 80),
        ] {
            assert_eq!(text.parse(), Ok(Origin { scheme, host: host.to_owned(), port }), "{text}");
        }
    }

    #[test]
    fn an_invalid_origin_is_refused() {
        for text in [
            "",
            "apps.example.com",
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
    fn host_names_are_made_canonical_and_addresses_are_refused() {
        assert_eq!(host_name("Apps.Example.COM."), Some("apps.example.com".to_owned()));
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
        #![proptest_config(crate::proptest_config())]

        #[test]
        fn no_text_makes_reading_panic(text in "\\PC{0,60}|https?://[\\[\\]:/a1.]{0,20}") {
            let _ = text.parse::<Origin>();
            let _ = (base_domain(&text), api_host(&text));
        }
    }
}
