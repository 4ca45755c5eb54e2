//! The headers of forwarded messages: what an app gets of a visitor's request, and what a visitor gets of an app's
//! response.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use pingora_core::Result;
use pingora_http::RequestHeader;

use super::Proxy;
use super::public_links::{InstanceOrigin, has_links};
use super::routes::Route;
use super::target::Target;
use crate::api::INSTANCE_TOKEN_HEADER;
use crate::clock::Clock;
use crate::cluster::HOP_HEADER;
use crate::config::Scheme;
use crate::request::{
    FORWARDED_FOR, FORWARDED_PROTO, Peer, RequestContext, RequestId, authority, forwarded_for,
};

/// The deadline of the instance's lease, RFC 3339. An app may show a countdown.
const EXPIRES_AT: HeaderName = HeaderName::from_static("x-demo-expires-at");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

const CLEAR_SITE_DATA: HeaderName = HeaderName::from_static("clear-site-data");

/// The headers that keep an instance's address private.
pub(super) const PRIVACY_HEADERS: [(HeaderName, HeaderValue); 2] = [
    (header::REFERRER_POLICY, HeaderValue::from_static("same-origin")),
    (HeaderName::from_static("x-robots-tag"), HeaderValue::from_static("noindex")),
];

/// Headers that concern one connection only (RFC 9110, section 7.6.1). `Transfer-Encoding` is not among them: the
/// engines frame the body. `Trailer` is, because both leave trailers out.
const HOP_BY_HOP: [&str; 7] = [
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "http2-settings",
    "trailer",
];

/// Headers besides `X-Forwarded-*` in which proxies forward what they know of a request. Apps believe them.
const FORWARDED: [&str; 8] = [
    "forwarded",
    "x-real-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-original-forwarded-for",
    "true-client-ip",
    "cf-connecting-ip",
    "fastly-client-ip",
];

/// The headers that the proxy sets in a request to an app, or to the node that runs the app.
pub(super) struct ForwardedHeaders {
    set: Vec<(HeaderName, HeaderValue)>,
    /// Whether a trusted proxy sent the request, whose other headers of forwarding pass.
    is_trusted: bool,
}

impl Proxy {
    /// Returns the headers that replace what the client sent under the same names. An app gets the same headers
    /// whichever node the visitor connects to: a node that forwards a request is not listed as a proxy.
    ///
    /// A node that forwards a request adds up to six headers, so a request at the limit of headers is refused (431) by
    /// the next node.
    pub(super) fn forwarded_headers(&self, head: &Parts, context: &RequestContext<'_>) -> ForwardedHeaders {
        let (Peer { address, is_secure }, provenance) = (context.peer, &context.provenance);
        let headers = &head.headers;
        let is_trusted = provenance.is_trusted() || self.0.trusted_proxies.contains(address.to_canonical());
        let trusted_value = |name: &HeaderName| headers.get(name).filter(|_| is_trusted).cloned();
        let scheme = HeaderValue::from_static(if is_secure { Scheme::Https } else { Scheme::Http }.as_str());
        let host = authority(&head.uri, headers).and_then(|host| HeaderValue::from_str(host).ok());
        let mut forwarded = vec![
            (FORWARDED_PROTO, trusted_value(&FORWARDED_PROTO).unwrap_or(scheme)),
            (RequestId::HEADER, context.id.to_header_value()),
        ];
        // The node that forwarded the request has added the visitor's address already.
        let from_node = headers.get(FORWARDED_FOR).filter(|_| provenance.is_trusted()).cloned();
        let extended =
            || HeaderValue::from_str(&forwarded_for(address, headers, &self.0.trusted_proxies)).ok();
        if let Some(value) = from_node.or_else(extended) {
            forwarded.push((FORWARDED_FOR, value));
        }
        if let Some(host) = trusted_value(&FORWARDED_HOST).or(host) {
            forwarded.push((FORWARDED_HOST, host));
        }
        ForwardedHeaders { set: forwarded, is_trusted }
    }

    /// Returns the links in a response of a route's app that become public, each with its new value. The node that runs
    /// the app does it.
    pub(super) fn replaced_links(
        &self,
        headers: &HeaderMap,
        route: &Route,
        target: &Target,
    ) -> Vec<(HeaderName, HeaderValue)> {
        if !matches!(target, Target::App) || !has_links(headers) {
            return Vec::new();
        }
        let public_url = &self.0.public_url;
        let origin = InstanceOrigin {
            host: &public_url.instance_host(route.id()),
            inner_port: route.endpoint().port(),
            public_authority: &public_url.instance_authority(route.id()),
            public_scheme: public_url.scheme,
        };
        origin.replaced_links(headers)
    }
}

impl ForwardedHeaders {
    /// Returns whether a header of the client's request, by its name in lower case, is removed or replaced.
    pub(super) fn removes(&self, name: &str) -> bool {
        is_removed_from_request(name, self.is_trusted) || self.set.iter().any(|(set, _)| set == name)
    }

    /// Returns the headers that are set.
    pub(super) fn set(&self) -> &[(HeaderName, HeaderValue)] {
        &self.set
    }

    /// Adds the header that depends on the target: the deadline for an app, the hop header for another node.
    pub(super) fn for_target(mut self, route: &Route, target: &Target, clock: &Clock) -> Self {
        match target {
            Target::App => {
                if let Ok(value) = HeaderValue::from_str(&clock.shown(route.deadline()).rfc3339()) {
                    self.set.push((EXPIRES_AT, value));
                }
            }
            Target::Node { hop, .. } => self.set.push((HOP_HEADER, hop.clone())),
        }
        self
    }
}

/// Returns whether a header of a client's request is removed: because the app must not get it. `is_trusted` says
/// whether a trusted proxy sent the request.
fn is_removed_from_request(name: &str, is_trusted: bool) -> bool {
    !is_trusted && (name.starts_with("x-forwarded-") || FORWARDED.contains(&name))
        || HOP_BY_HOP.contains(&name)
        || API_KEY == name
        || INSTANCE_TOKEN_HEADER == name
        || EXPIRES_AT == name
        || HOP_HEADER == name
}

/// Returns whether a header of an app's response concerns one connection only, by its name in lower case. No upgrade
/// is carried but that of a handshake, and a visitor who took up the offer would get none.
pub(super) fn is_removed_from_response(name: &str) -> bool {
    HOP_BY_HOP.contains(&name) || header::UPGRADE == name
}

/// Turns the head of a visitor's request into the head that the upstream gets. Pingora has removed `Connection` and the
/// headers that it names.
///
/// # Errors
/// Pingora cannot represent a header.
pub(super) fn rewrite_request(request: &mut RequestHeader, forwarded: &ForwardedHeaders) -> Result<()> {
    let is_removed = |name: &&HeaderName| is_removed_from_request(name.as_str(), forwarded.is_trusted);
    let removed: Vec<HeaderName> = request.headers.keys().filter(is_removed).cloned().collect();
    for name in &removed {
        request.remove_header(name);
    }
    if let Some(cookies) = joined_cookies(&request.headers) {
        request.insert_header(header::COOKIE, cookies)?;
    }
    for (name, value) in &forwarded.set {
        request.insert_header(name, value)?;
    }
    Ok(())
}

/// Turns the headers of a visitor's WebSocket handshake into those that the upstream gets.
pub(super) fn rewrite_handshake(headers: &mut HeaderMap, forwarded: &ForwardedHeaders) {
    let removed: Vec<HeaderName> = headers
        .keys()
        .filter(|name| is_removed_from_request(name.as_str(), forwarded.is_trusted))
        .cloned()
        .chain(named_by_connection(headers))
        .collect();
    for name in removed {
        headers.remove(name);
    }
    if let Some(cookies) = joined_cookies(headers) {
        headers.insert(header::COOKIE, cookies);
    }
    for (name, value) in &forwarded.set {
        headers.insert(name, value.clone());
    }
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
}

/// Returns one line for all lines of cookies, as HTTP/1.1 requires (RFC 9113, section 8.2.3: HTTP/2 clients send each
/// cookie on a line of its own); `None` if there is one line at most.
pub(super) fn joined_cookies(headers: &HeaderMap) -> Option<HeaderValue> {
    let lines: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    (lines.len() > 1).then(|| HeaderValue::from_bytes(&lines.join(&b"; "[..])).ok()).flatten()
}

/// Returns the number of header fields of a request. All lines of cookies count as one.
pub(super) fn field_count(headers: &HeaderMap) -> usize {
    headers.len() - headers.get_all(header::COOKIE).iter().count().saturating_sub(1)
}

/// Returns `Connection`, and the headers that it declares to concern this connection only.
pub(super) fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    let mut names: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|token| HeaderName::from_bytes(token.trim().as_bytes()).ok())
        // Headers that frame or route the message stay, whatever a client declares.
        .filter(|name| {
            ![header::HOST, header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::UPGRADE].contains(name)
        })
        .collect();
    names.push(header::CONNECTION);
    names
}

/// Gives a response on an instance's host the headers that keep its address private, unless it has them. A reader of
/// the address in a `Referer`, or in the results of a search, could open the app.
pub(super) fn add_privacy_headers(headers: &mut HeaderMap) {
    for (name, value) in PRIVACY_HEADERS {
        headers.entry(name).or_insert(value);
    }
}

/// Returns the headers by which a response would have an effect on other hosts of the site, each with the values that
/// replace its own.
pub(super) fn confined_fields(headers: &HeaderMap) -> Vec<(HeaderName, Vec<HeaderValue>)> {
    let mut replaced = Vec::new();
    if headers.contains_key(header::SET_COOKIE) {
        // Without `Domain`, a cookie belongs to the instance's own host.
        let cookies = headers.get_all(header::SET_COOKIE).iter().map(host_only).collect();
        replaced.push((header::SET_COOKIE, cookies));
    }
    if headers.contains_key(CLEAR_SITE_DATA) {
        replaced.push((CLEAR_SITE_DATA, without_cookies(headers).into_iter().collect()));
    }
    replaced
}

/// Returns `Clear-Site-Data` without the cookies, which a browser clears on every host of the site, the front page's
/// too; `None` if nothing remains.
fn without_cookies(headers: &HeaderMap) -> Option<HeaderValue> {
    let lines = headers.get_all(CLEAR_SITE_DATA).iter().filter_map(|line| line.to_str().ok());
    let mut kinds: Vec<&str> = lines.flat_map(|line| line.split(',')).map(str::trim).collect();
    if kinds.iter().any(|kind| kind.trim_matches('"') == "*") {
        kinds = vec![r#""cache""#, r#""storage""#, r#""executionContexts""#];
    }
    kinds.retain(|kind| !kind.trim_matches('"').eq_ignore_ascii_case("cookies"));
    HeaderValue::from_str(&kinds.join(", ")).ok().filter(|kept| !kept.is_empty())
}

fn host_only(cookie: &HeaderValue) -> HeaderValue {
    let is_domain = |attribute: &&[u8]| {
        let name = attribute.split(|c| *c == b'=').next().unwrap_or_default();
        name.trim_ascii().eq_ignore_ascii_case(b"domain")
    };
    let parts: Vec<&[u8]> = cookie.as_bytes().split(|c| *c == b';').collect();
    // The first part is the cookie's name and value; a cookie may be named `domain`.
    if !parts.iter().skip(1).any(is_domain) {
        return cookie.clone();
    }
    let kept: Vec<&[u8]> = parts
        .iter()
        .enumerate()
        .filter(|(index, part)| *index == 0 || !is_domain(part))
        .map(|(_, part)| *part)
        .collect();
    HeaderValue::from_bytes(&kept.join(&b';')).unwrap_or_else(|_| cookie.clone())
}

/// Returns whether a response is an event stream.
pub(super) fn is_event_stream(headers: &HeaderMap) -> bool {
    let media_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    media_type.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("text/event-stream"))
}

#[cfg(test)]
mod tests {
    use pingora_http::ResponseHeader;

    use super::*;
    use crate::proxy::head_changes::rewrite_response;
    use proptest::prelude::*;

    fn stripped(cookie: &str) -> String {
        host_only(&HeaderValue::from_str(cookie).unwrap()).to_str().unwrap().to_owned()
    }

    #[test]
    fn a_cookie_loses_its_domain_and_nothing_else() {
        assert_eq!(stripped("a=b; Domain=demo.test; Path=/"), "a=b; Path=/");
        assert_eq!(stripped("a=b;DOMAIN = .demo.test"), "a=b");
        assert_eq!(stripped("a=b; domain"), "a=b");
        assert_eq!(stripped("domain=x; Path=/; HttpOnly"), "domain=x; Path=/; HttpOnly");
        assert_eq!(stripped("a=b; Domain=x; Domain=y; Secure"), "a=b; Secure");
    }

    #[test]
    fn clear_site_data_clears_no_cookie_of_another_host() {
        for (sent, expected) in [
            (&[r#""cache""#][..], r#""cache""#),
            (&[r#""cache", "cookies", "storage""#], r#""cache", "storage""#),
            (&[r#""cookies""#], ""),
            (&[r#""Cookies""#, r#"cookies, "cache""#], r#""cache""#),
            (&[r#""*""#], r#""cache", "storage", "executionContexts""#),
            (&[r#""cookies", "*""#], r#""cache", "storage", "executionContexts""#),
        ] {
            let mut response = ResponseHeader::build(200, None).unwrap();
            for line in sent {
                response.append_header(CLEAR_SITE_DATA, *line).unwrap();
            }
            rewrite_response(&mut response, Vec::new()).unwrap();
            let kept = response.headers.get(CLEAR_SITE_DATA).map_or("", |kept| kept.to_str().unwrap());
            assert_eq!(kept, expected, "{sent:?}");
        }
    }

    #[test]
    fn a_response_keeps_the_instance_address_private_unless_the_app_decides_otherwise() {
        let mut response = ResponseHeader::build(200, None).unwrap();
        response.insert_header("x-robots-tag", "all").unwrap();
        rewrite_response(&mut response, Vec::new()).unwrap();
        assert_eq!(response.headers["referrer-policy"], "same-origin");
        assert_eq!(response.headers["x-robots-tag"], "all");
    }

    #[test]
    fn headers_named_by_connection_are_removed_but_not_those_that_frame_the_message() {
        let mut headers = HeaderMap::new();
        headers
            .insert(header::CONNECTION, HeaderValue::from_static("close, X-Private, Host, Content-Length"));
        let names = named_by_connection(&headers);
        assert!(names.contains(&HeaderName::from_static("x-private")));
        assert!(!names.contains(&header::HOST) && !names.contains(&header::CONTENT_LENGTH));
    }

    proptest! {
        #![proptest_config(crate::proptest_config())]

        #[test]
        fn no_cookie_keeps_a_domain(before in "[ -~]{0,20}", domain in "[dD][oO][mM][aA][iI][nN]", after in "[ -~]{0,20}") {
            let cookie = stripped(&format!("a={before}; {domain}={after}; Path=/"));
            let attributes = cookie.split(';').skip(1);
            for attribute in attributes {
                let name = attribute.split('=').next().unwrap().trim();
                prop_assert!(!name.eq_ignore_ascii_case("domain"), "{}", cookie);
            }
        }
    }
}
