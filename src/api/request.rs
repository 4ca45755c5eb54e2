//! A request as an endpoint sees it: its JSON body, its query parameters and what it accepts.

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, header};

use super::ApiError;
use crate::request::RequestContext;

/// Maximum length of a request's body in bytes; a longer one is refused with 413.
pub const MAX_BODY: usize = 64 * 1024;

/// A request with its whole body.
pub(super) struct ApiRequest<'a> {
    pub(super) head: &'a Parts,
    pub(super) body: Bytes,
    pub(super) context: &'a RequestContext<'a>,
}

impl ApiRequest<'_> {
    /// Returns whether another node may be queried to answer this request. A node queries for its own clients only,
    /// never for another node, so that no query travels further than one hop.
    pub(super) fn may_be_forwarded(&self) -> bool {
        self.context.provenance.may_be_forwarded()
    }
}

/// Parses the JSON body; `None` when it is empty. A body is read as JSON whatever its media type says: `curl -d` declares
/// a form. The media type protects from nothing; requests of other sites are refused by
/// [`TrustedOrigins`](super::TrustedOrigins).
///
/// # Errors
/// [`ApiError::InvalidRequest`] when the body is not the JSON that `T` needs, [`ApiError::UnsupportedMediaType`] when it
/// is no JSON and another type is declared.
pub(super) fn read_json<T: serde::de::DeserializeOwned>(
    request: &ApiRequest<'_>,
) -> Result<Option<T>, ApiError> {
    if request.body.is_empty() {
        return Ok(None);
    }
    serde_json::from_slice(&request.body).map(Some).map_err(|error| {
        // JSON of the wrong shape is the better message, whatever type was declared.
        if error.is_data() || declares_json(&request.head.headers) {
            ApiError::InvalidRequest(format!("invalid request body: {error}"))
        } else {
            ApiError::UnsupportedMediaType
        }
    })
}

/// Returns whether a body is meant to be JSON: its media type says so, or none is declared.
fn declares_json(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_none_or(|media_type| {
        let media_type = media_type.to_str().unwrap_or("").split(';').next().unwrap_or("").trim();
        media_type.eq_ignore_ascii_case("application/json")
    })
}

/// Returns the first value of a query parameter, percent-decoded.
pub(super) fn query_parameter(query: &str, name: &str) -> Option<Vec<u8>> {
    query
        .split('&')
        .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
        .map(|value| percent_encoding::percent_decode_str(value).collect())
}

/// Returns whether the client accepts HTML: it is a browser that shows a page, rather than a program that reads JSON.
pub(super) fn accepts_html(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::ACCEPT)
        .iter()
        .any(|value| value.to_str().is_ok_and(|media_types| media_types.contains("text/html")))
}
