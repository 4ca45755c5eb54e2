//! The check that the page of another website does not act in a visitor's name.
//!
//! A browser sends what another site's script or form asks for, with the visitor's address, so an unsafe request from
//! there could use up the visitor's rate limit or end an instance. The app of an instance is such another site too: a
//! visitor can run any script in it.
//!
//! Browsers report the site of the page that caused a request in `Sec-Fetch-Site`, which no script can set, and older
//! ones in `Origin`. A request with neither does not come from a page.

use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};

use crate::config::Origin;
use crate::request::authority;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The websites whose pages may act for a visitor.
#[derive(Debug, Clone)]
pub struct TrustedOrigins {
    /// Where visitors find the front page, according to the configuration.
    pub home: Origin,
    /// Other sites that have a button for this server (`BUTTON_ORIGINS`).
    pub button_origins: Vec<Origin>,
}

impl TrustedOrigins {
    /// Returns whether a request must be refused: its method is unsafe, and the page of another site caused it.
    pub(super) fn is_cross_site(&self, head: &Parts) -> bool {
        if head.method.is_safe() {
            return false;
        }
        let mut origins = head.headers.get_all(header::ORIGIN).iter();
        let (origin, further) = (origins.next(), origins.next());
        if further.is_some() {
            return true;
        }
        if self.button_origin(&head.headers).is_some() {
            return false;
        }
        match head.headers.get(SEC_FETCH_SITE).map(HeaderValue::as_bytes) {
            // `none` is the address bar or a bookmark.
            Some(b"same-origin" | b"none") => false,
            Some(_) => true,
            None => origin.is_some_and(|origin| !self.is_own(origin, head)),
        }
    }

    /// Returns whether a browser asks if the script of a site with a button may send a request that is not simple, such
    /// as one with an instance's token.
    pub(super) fn is_preflight(&self, head: &Parts) -> bool {
        head.method == Method::OPTIONS
            && head.headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
            && self.button_origin(&head.headers).is_some()
    }

    /// Returns the `Origin` of a request if that is one of `BUTTON_ORIGINS`.
    pub(super) fn button_origin<'h>(&self, headers: &'h HeaderMap) -> Option<&'h HeaderValue> {
        if self.button_origins.is_empty() {
            return None;
        }
        let value = headers.get(header::ORIGIN)?;
        let origin = parse(value)?;
        self.button_origins.contains(&origin).then_some(value)
    }

    /// Returns whether an origin is the host that the request names, or the configured front page. A proxy in front of
    /// the server may change the scheme or the host, but not both.
    fn is_own(&self, origin: &HeaderValue, head: &Parts) -> bool {
        let Some(origin) = parse(origin) else { return false };
        let named = authority(&head.uri, &head.headers)
            .and_then(|authority| format!("{}://{authority}", origin.scheme.as_str()).parse().ok());
        named.as_ref() == Some(&origin) || self.home == origin
    }
}

/// Parses an `Origin` header; `None` for `null` and for schemes other than HTTP.
fn parse(value: &HeaderValue) -> Option<Origin> {
    value.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn trusted() -> TrustedOrigins {
        TrustedOrigins {
            home: "https://try.example.com".parse().unwrap(),
            button_origins: vec!["https://market.example.org".parse().unwrap()],
        }
    }

    fn is_refused(method: &str, fields: &[(&str, &str)]) -> bool {
        let mut request = Request::builder().method(method).uri("/try/shop").header("host", "localhost:8080");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        trusted().is_cross_site(&request.body(()).unwrap().into_parts().0)
    }

    #[test]
    fn programs_and_pages_of_this_server_are_accepted() {
        for fields in [
            &[][..],
            &[("sec-fetch-site", "same-origin"), ("origin", "http://localhost:8080")],
            &[("sec-fetch-site", "same-origin"), ("origin", "null")],
            &[("sec-fetch-site", "none")],
            &[("origin", "http://localhost:8080")],
            &[("origin", "https://try.example.com")],
            &[("origin", "https://market.example.org"), ("sec-fetch-site", "cross-site")],
        ] {
            for method in ["POST", "DELETE", "PUT"] {
                assert!(!is_refused(method, fields), "{method} {fields:?}");
            }
        }
    }

    #[test]
    fn pages_of_other_sites_and_of_instances_are_refused() {
        for fields in [
            &[("sec-fetch-site", "cross-site")][..],
            &[("sec-fetch-site", "same-site")],
            &[("sec-fetch-site", "anything")],
            // An instance's own host is another origin on the same site.
            &[("origin", "http://shop-aaaaaaaaaaaaaaaa.localhost:8080")],
            &[("origin", "http://localhost:8081")],
            &[("origin", "https://localhost")],
            &[("origin", "null")],
            &[("origin", "https://market.example.org.evil.example")],
            &[("origin", "http://market.example.org")],
            &[("origin", "https://market.example.org"), ("origin", "https://evil.example")],
            &[("origin", "")],
        ] {
            for method in ["POST", "DELETE", "PUT", "PATCH", "BREW"] {
                assert!(is_refused(method, fields), "{method} {fields:?}");
            }
            for method in ["GET", "HEAD", "OPTIONS"] {
                assert!(!is_refused(method, fields), "{method} {fields:?}");
            }
        }
    }
}
