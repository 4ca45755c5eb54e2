//! The heads that an app and its visitor see of each other.

use std::net::IpAddr;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use pingora_core::Result;
use pingora_http::{RequestHeader, ResponseHeader};

use super::Proxy;
use super::routes::Route;
use super::target::Target;
use crate::cluster::{HOP, Provenance};
use crate::config::Scheme;
use crate::request::{RequestId, authority, forwarded_for};

/// The moment until which the visitor has the instance, RFC 3339: an app may show a countdown.
const EXPIRES_AT: HeaderName = HeaderName::from_static("x-demo-expires-at");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Fields that concern one connection only (RFC 9110, 7.6.1); `Transfer-Encoding` is left to the engines, which
/// frame the body.
const HOP_BY_HOP: [&str; 6] =
    ["keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authorization", "te", "http2-settings"];

/// What we tell the app of a request, or the server that runs it.
pub(super) struct Lines(Vec<(HeaderName, HeaderValue)>);

/// Who sent a request, as its connection and the servers on its way know it.
#[derive(Clone, Copy)]
pub(super) struct Sender<'a> {
    /// The other end of the connection.
    pub peer: IpAddr,
    /// Whether the connection is encrypted.
    pub secure: bool,
    /// Whether another server passed the request on.
    pub arrival: &'a Provenance,
}

impl Proxy {
    /// The fields that replace whatever a visitor claimed in their place. An app sees the same of a visitor whichever
    /// server he came to: a server that passes a request on is no proxy on his way.
    pub(super) fn forwarded(&self, head: &http::request::Parts, sender: Sender<'_>, id: &RequestId) -> Lines {
        let Sender { peer, secure, arrival } = sender;
        let headers = &head.headers;
        let trusted = arrival.is_believed() || self.0.trusted.contains(peer.to_canonical());
        let given = |name: &HeaderName| headers.get(name).filter(|_| trusted).cloned();
        let scheme = HeaderValue::from_static(if secure { Scheme::Https } else { Scheme::Http }.as_str());
        let host = authority(&head.uri, headers).and_then(|host| HeaderValue::from_str(host).ok());
        let mut lines = vec![
            (FORWARDED_PROTO, given(&FORWARDED_PROTO).unwrap_or(scheme)),
            (RequestId::HEADER, id.value()),
        ];
        let told = headers.get(FORWARDED_FOR).filter(|_| arrival.is_believed()).cloned();
        let chain = || HeaderValue::from_str(&forwarded_for(peer, headers, &self.0.trusted)).ok();
        if let Some(value) = told.or_else(chain) {
            lines.push((FORWARDED_FOR, value));
        }
        if let Some(host) = given(&FORWARDED_HOST).or(host) {
            lines.push((FORWARDED_HOST, host));
        }
        Lines(lines)
    }
}

impl Lines {
    /// With what only its receiver is told: an app until when it is the visitor's, a server that it is one who asks.
    pub(super) fn to(mut self, route: &Route, way: &Target) -> Self {
        match way {
            Target::Here => {
                if let Ok(value) = HeaderValue::from_str(&route.deadline().rfc3339()) {
                    self.0.push((EXPIRES_AT, value));
                }
            }
            Target::Node { hop, .. } => self.0.push((HOP, hop.clone())),
        }
        self
    }
}

/// Whether a field of a request is ours to write, or not for the app at all.
fn is_ours(name: &HeaderName) -> bool {
    let text = name.as_str();
    text.starts_with("x-forwarded-")
        || HOP_BY_HOP.contains(&text)
        || *name == header::FORWARDED
        || *name == API_KEY
        || *name == EXPIRES_AT
        || *name == HOP
}

/// Makes a visitor's request head into the app's, for Pingora, which has taken away `Connection` and what it names.
pub(super) fn rewrite_request(request: &mut RequestHeader, lines: &Lines) -> Result<()> {
    let unwanted: Vec<HeaderName> = request.headers.keys().filter(|name| is_ours(name)).cloned().collect();
    for name in &unwanted {
        request.remove_header(name);
    }
    for (name, value) in &lines.0 {
        request.insert_header(name, value)?;
    }
    Ok(())
}

/// The same for a WebSocket's handshake, which is on its way to become a tunnel.
pub(super) fn rewrite_handshake(headers: &mut HeaderMap, lines: &Lines) {
    let unwanted: Vec<HeaderName> =
        headers.keys().filter(|name| is_ours(name)).cloned().chain(named_by_connection(headers)).collect();
    for name in unwanted {
        headers.remove(name);
    }
    for (name, value) in &lines.0 {
        headers.insert(name, value.clone());
    }
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
}

/// The fields that `Connection` declares to be for this connection only, and itself.
pub(super) fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    let mut names: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|token| HeaderName::from_bytes(token.trim().as_bytes()).ok())
        // Fields that frame or route the message cannot be declared away.
        .filter(|name| {
            ![header::HOST, header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::UPGRADE].contains(name)
        })
        .collect();
    names.push(header::CONNECTION);
    names
}

/// Makes an app's answer head into the visitor's.
pub(super) fn clean_response(response: &mut ResponseHeader) -> Result<()> {
    let hop_by_hop: Vec<HeaderName> = named_by_connection(&response.headers)
        .into_iter()
        .chain(response.headers.keys().filter(|name| HOP_BY_HOP.contains(&name.as_str())).cloned())
        .collect();
    for name in &hop_by_hop {
        response.remove_header(name);
    }
    if response.headers.contains_key(header::SET_COOKIE) {
        let cookies = host_only_cookies(&response.headers);
        response.remove_header(&header::SET_COOKIE);
        for cookie in cookies {
            response.append_header(header::SET_COOKIE, cookie)?;
        }
    }
    Ok(())
}

/// The cookies of an answer without their `Domain`, so that each belongs to the instance's own host and one
/// instance cannot set a cookie for another.
pub(super) fn host_only_cookies(headers: &HeaderMap) -> Vec<HeaderValue> {
    headers.get_all(header::SET_COOKIE).iter().map(host_only).collect()
}

fn host_only(cookie: &HeaderValue) -> HeaderValue {
    let is_domain = |attribute: &&[u8]| {
        let name = attribute.split(|c| *c == b'=').next().unwrap_or_default();
        name.trim_ascii().eq_ignore_ascii_case(b"domain")
    };
    let parts: Vec<&[u8]> = cookie.as_bytes().split(|c| *c == b';').collect();
    // The first part is the cookie itself, which may well be called `domain`.
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

#[cfg(test)]
mod tests {
    use super::*;
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
    fn what_connection_names_goes_but_not_what_frames_the_message() {
        let mut headers = HeaderMap::new();
        headers
            .insert(header::CONNECTION, HeaderValue::from_static("close, X-Private, Host, Content-Length"));
        let names = named_by_connection(&headers);
        assert!(names.contains(&HeaderName::from_static("x-private")));
        assert!(!names.contains(&header::HOST) && !names.contains(&header::CONTENT_LENGTH));
    }

    proptest! {
        #[test]
        fn no_domain_survives(before in "[ -~]{0,20}", domain in "[dD][oO][mM][aA][iI][nN]", after in "[ -~]{0,20}") {
            let cookie = stripped(&format!("a={before}; {domain}={after}; Path=/"));
            let attributes = cookie.split(';').skip(1);
            for attribute in attributes {
                let name = attribute.split('=').next().unwrap().trim();
                prop_assert!(!name.eq_ignore_ascii_case("domain"), "{}", cookie);
            }
        }
    }
}
