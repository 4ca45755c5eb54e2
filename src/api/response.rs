//! Small answers.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use serde::Serialize;

use super::body::Body;
use super::pages::Page;

/// Room for the body of most JSON answers.
const USUAL_LENGTH: usize = 512;

/// A JSON answer that no cache keeps.
pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Response<Body> {
    // Our own shapes: strings, numbers and maps with string keys, which always serialise.
    let mut bytes = Vec::with_capacity(USUAL_LENGTH);
    serde_json::to_writer(&mut bytes, value).expect("our answers serialise");
    with(status, "application/json", bytes)
}

/// A page that no cache keeps.
pub(super) fn html(status: StatusCode, page: Page) -> Response<Body> {
    let mut answer = with(status, "text/html; charset=utf-8", page.html);
    answer.headers_mut().insert(header::CONTENT_SECURITY_POLICY, page.policy);
    answer
}

/// Any answer that no cache keeps.
pub(super) fn with(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let mut answer = Response::new(Body::full(body));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}

/// The way to another page, to be fetched with GET.
pub(super) fn see_other(location: &str) -> Response<Body> {
    let mut answer = with(StatusCode::SEE_OTHER, "text/plain; charset=utf-8", "");
    if let Ok(value) = HeaderValue::from_str(location) {
        answer.headers_mut().insert(header::LOCATION, value);
    }
    answer
}

/// What is left to a visitor.
pub(super) fn quota(headers: &mut HeaderMap, limit: u32, remaining: u32, reset_seconds: u64) {
    let pairs = [
        ("ratelimit-limit", u64::from(limit)),
        ("ratelimit-remaining", u64::from(remaining)),
        ("ratelimit-reset", reset_seconds),
    ];
    for (name, value) in pairs {
        headers.insert(HeaderName::from_static(name), HeaderValue::from(value));
    }
}
