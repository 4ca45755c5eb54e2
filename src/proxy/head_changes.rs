//! What becomes of the headers of an app's response, whichever engine carries it; and which headers any rule reads, for
//! heads that are edited line by line.

use http::{HeaderMap, HeaderName, HeaderValue, header};
use pingora_core::Result;
use pingora_http::ResponseHeader;

use super::headers::{PRIVACY_HEADERS, confined_fields, is_removed_from_response, named_by_connection};

/// What becomes of the headers of an app's response.
#[derive(Debug, Default)]
pub(super) struct ResponseChanges {
    /// The headers that are removed, besides those that concern one connection only.
    pub(super) removed: Vec<HeaderName>,
    /// The headers that are added after that.
    pub(super) added: Vec<(HeaderName, HeaderValue)>,
}

impl ResponseChanges {
    /// Returns the changes of a response with these headers. Those of other names than [`is_read_in_response`] accepts may
    /// be absent. `links` are those that [`Proxy::replaced_links`](super::Proxy::replaced_links) returns for it.
    pub(super) fn of(headers: &HeaderMap, links: Vec<(HeaderName, HeaderValue)>) -> Self {
        let mut changes = Self::default();
        if headers.contains_key(header::CONNECTION) {
            changes.removed = named_by_connection(headers);
        }
        for (name, values) in confined_fields(headers) {
            if changes.removed.contains(&name) {
                continue;
            }
            changes.added.extend(values.into_iter().map(|value| (name.clone(), value)));
            changes.removed.push(name);
        }
        for (name, value) in links {
            changes.removed.push(name.clone());
            changes.added.push((name, value));
        }
        for (name, value) in PRIVACY_HEADERS {
            if !headers.contains_key(&name) || changes.removed.contains(&name) {
                changes.added.push((name, value));
            }
        }
        changes
    }

    /// Returns the names of these headers of the response that are removed.
    pub(super) fn removed_from(&self, headers: &HeaderMap) -> Vec<HeaderName> {
        headers.keys().filter(|name| self.removes(name.as_str())).cloned().collect()
    }

    /// Returns whether a header of the response, by its name in lower case, is removed.
    pub(super) fn removes(&self, name: &str) -> bool {
        is_removed_from_response(name) || self.removed.iter().any(|removed| removed == name)
    }
}

/// Returns whether the value of a response's header, by its name in lower case, decides about other headers or about
/// the exchange.
pub(super) fn is_read_in_response(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "content-type"
            | "x-accel-buffering"
            | "set-cookie"
            | "clear-site-data"
            | "location"
            | "content-location"
            | "refresh"
            | "referrer-policy"
            | "x-robots-tag"
    )
}

/// Returns whether the value of a request's header, by its name in lower case, decides about other headers or about the
/// exchange.
pub(super) fn is_read_in_request(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "cookie"
            | "accept"
            | "x-request-id"
            | "x-forwarded-for"
            | "x-forwarded-proto"
            | "x-forwarded-host"
    )
}

/// Turns the head of an app's response into the head that the visitor gets. `links` are the headers that
/// [`Proxy::replaced_links`](super::Proxy::replaced_links) returns for it.
///
/// # Errors
/// Pingora cannot represent a header.
pub(super) fn rewrite_response(
    response: &mut ResponseHeader,
    links: Vec<(HeaderName, HeaderValue)>,
) -> Result<()> {
    let changes = ResponseChanges::of(&response.headers, links);
    for name in changes.removed_from(&response.headers) {
        response.remove_header(&name);
    }
    for (name, value) in changes.added {
        response.append_header(name, value)?;
    }
    Ok(())
}

/// Does to the headers of an app's response to a handshake what [`rewrite_response`] does to those of other responses.
/// A 101 keeps its `Upgrade`.
pub(super) fn rewrite_handshake_response(
    headers: &mut HeaderMap,
    is_switching: bool,
    links: Vec<(HeaderName, HeaderValue)>,
) {
    let changes = ResponseChanges::of(headers, links);
    for name in changes.removed_from(headers) {
        if !(is_switching && name == header::UPGRADE) {
            headers.remove(name);
        }
    }
    for (name, value) in changes.added {
        headers.append(name, value);
    }
}
