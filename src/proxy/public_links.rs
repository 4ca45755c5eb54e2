//! Links in an app's response that name the instance's own host with the app's own port or scheme. An app knows only
//! where it listens, not where visitors reach it. Pure.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::config::Scheme;

/// The headers whose value is a link, or ends with one.
const LINK_HEADERS: [HeaderName; 3] = [header::LOCATION, header::CONTENT_LOCATION, header::REFRESH];

/// Where an app listens, and where visitors reach it.
#[derive(Debug, Clone, Copy)]
pub(super) struct InstanceOrigin<'a> {
    /// The host name of the instance, without a port.
    pub(super) host: &'a str,
    /// The port on which the app listens.
    pub(super) inner_port: u16,
    /// The host and port that visitors use.
    pub(super) public_authority: &'a str,
    /// The scheme that visitors use.
    pub(super) public_scheme: Scheme,
}

/// Returns whether a response has a header with a link.
pub(super) fn has_links(headers: &HeaderMap) -> bool {
    LINK_HEADERS.iter().any(|name| headers.contains_key(name))
}

impl InstanceOrigin<'_> {
    /// Returns the links of a response that are to be replaced, each with its new value. A link is replaced if it names
    /// the instance's host and the app's port, or if it names that host without TLS although visitors use TLS.
    pub(super) fn replaced_links(&self, headers: &HeaderMap) -> Vec<(HeaderName, HeaderValue)> {
        let links = LINK_HEADERS.iter().filter_map(|name| {
            let value = headers.get(name)?.to_str().ok()?;
            let start = if *name == header::REFRESH { refresh_link(value)? } else { 0 };
            let (before, link) = value.split_at(start);
            let replaced = format!("{before}{}", self.public_link(link)?);
            Some((name.clone(), HeaderValue::from_str(&replaced).ok()?))
        });
        links.collect()
    }

    /// Returns a link with the public scheme and authority; `None` if it stays as it is.
    fn public_link(&self, link: &str) -> Option<String> {
        let (scheme, rest) = match link.strip_prefix("//") {
            // The scheme is that of the page, which is the public one.
            Some(rest) => (None, rest),
            None => {
                let (scheme, rest) = link.split_once("://")?;
                let schemes = [Scheme::Http, Scheme::Https];
                let scheme = schemes.into_iter().find(|known| known.as_str().eq_ignore_ascii_case(scheme))?;
                (Some(scheme), rest)
            }
        };
        let end = rest.find(['/', '?', '#', '"', '\'']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let (host, port) = match authority.split_once(':') {
            Some((host, port)) => (host, port.parse().ok()?),
            None => (authority, scheme.unwrap_or(self.public_scheme).default_port()),
        };
        if !host.eq_ignore_ascii_case(self.host) {
            return None;
        }
        let is_public = authority.eq_ignore_ascii_case(self.public_authority)
            && scheme.is_none_or(|scheme| scheme == self.public_scheme);
        let is_downgrade = scheme == Some(Scheme::Http) && self.public_scheme == Scheme::Https;
        if is_public || port != self.inner_port && !is_downgrade {
            return None;
        }
        let scheme = scheme.map_or(String::new(), |_| format!("{}:", self.public_scheme));
        Some(format!("{scheme}//{}{path}", self.public_authority))
    }
}

/// Returns where the link of a `Refresh` header begins, as in `5; url=/next`.
fn refresh_link(value: &str) -> Option<usize> {
    let name = value.to_ascii_lowercase().find("url=")?;
    let start = name + "url=".len();
    let quote = value[start..].starts_with(['"', '\'']);
    Some(start + usize::from(quote))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DEV: InstanceOrigin<'_> = InstanceOrigin {
        host: "shop-1.localhost",
        inner_port: 32_293,
        public_authority: "shop-1.localhost:8080",
        public_scheme: Scheme::Http,
    };
    const TLS: InstanceOrigin<'_> = InstanceOrigin {
        host: "shop-1.demo.test",
        inner_port: 80,
        public_authority: "shop-1.demo.test",
        public_scheme: Scheme::Https,
    };

    fn link(origin: InstanceOrigin<'_>, link: &str) -> String {
        origin.public_link(link).unwrap_or_else(|| link.to_owned())
    }

    #[test]
    fn a_link_to_the_inner_port_or_scheme_becomes_public() {
        for (origin, inner, public) in [
            (DEV, "http://shop-1.localhost:32293/dir/", "http://shop-1.localhost:8080/dir/"),
            (DEV, "http://SHOP-1.localhost:32293", "http://shop-1.localhost:8080"),
            (DEV, "//shop-1.localhost:32293/a?b=http://x:1", "//shop-1.localhost:8080/a?b=http://x:1"),
            (DEV, "https://shop-1.localhost:32293?q", "http://shop-1.localhost:8080?q"),
            (TLS, "http://shop-1.demo.test/dir/", "https://shop-1.demo.test/dir/"),
            (TLS, "http://shop-1.demo.test:80/dir/", "https://shop-1.demo.test/dir/"),
            (TLS, "https://shop-1.demo.test:80/", "https://shop-1.demo.test/"),
            (TLS, "http://shop-1.demo.test:9000/x", "https://shop-1.demo.test/x"),
        ] {
            assert_eq!(link(origin, inner), public, "{inner}");
        }
    }

    #[test]
    fn every_other_link_stays() {
        for (origin, kept) in [
            (DEV, "/dir/"),
            (DEV, "dir/?to=http://shop-1.localhost:32293/"),
            (DEV, "http://shop-1.localhost:8080/"),
            (DEV, "http://shop-1.localhost/"),
            (DEV, "https://shop-1.localhost:8443/"),
            (DEV, "http://shop-2.localhost:32293/"),
            (DEV, "http://localhost:32293/"),
            (DEV, "http://a@shop-1.localhost:32293/"),
            (DEV, "ftp://shop-1.localhost:32293/"),
            (DEV, "mailto:shop-1.localhost:32293"),
            (DEV, ""),
            (TLS, "https://shop-1.demo.test/"),
            (TLS, "//shop-1.demo.test/"),
            (TLS, "http://demo.test/"),
        ] {
            assert_eq!(link(origin, kept), kept, "{kept}");
        }
    }

    #[test]
    fn all_headers_with_links_are_rewritten() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("location", "http://shop-1.localhost:32293/a"),
            ("content-location", "//shop-1.localhost:32293/b"),
            ("refresh", "5; URL='http://shop-1.localhost:32293/c'"),
            ("link", "<http://shop-1.localhost:32293/d>"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        let replaced = DEV.replaced_links(&headers);
        let values: Vec<_> = replaced.iter().map(|(_, value)| value.to_str().unwrap()).collect();
        let expected = [
            "http://shop-1.localhost:8080/a",
            "//shop-1.localhost:8080/b",
            "5; URL='http://shop-1.localhost:8080/c'",
        ];
        assert_eq!(values, expected);
    }

    proptest! {
        #![proptest_config(crate::proptest_config())]

        #[test]
        fn a_public_link_is_replaced_at_most_once(
            scheme in "(http:|https:|HTTP:|)", host in "(shop-1.localhost|x.localhost)",
            port in "(|:32293|:8080|:|:99999)", path in "[/?#\"' -~]{0,12}",
        ) {
            let first = link(DEV, &format!("{scheme}//{host}{port}{path}"));
            prop_assert_eq!(link(DEV, &first), first.clone());
        }
    }
}
