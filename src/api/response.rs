//! Small responses, and the headers that several endpoints set.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use serde::Serialize;

use super::body::Body;
use super::pages::Page;

/// Initial capacity for a JSON body, in bytes; most bodies fit.
const JSON_CAPACITY: usize = 512;

/// Creates a JSON response that no cache stores.
pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Response<Body> {
    let mut bytes = Vec::with_capacity(JSON_CAPACITY);
    serde_json::to_writer(&mut bytes, value)
        .expect("strings, numbers and maps with string keys always serialise");
    with_body(status, "application/json", bytes)
}

/// Creates a response with a page, which no cache stores.
pub(super) fn html(status: StatusCode, page: Page) -> Response<Body> {
    let mut response = with_body(status, "text/html; charset=utf-8", page.html);
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, page.policy);
    response
}

/// Creates a response of any media type that no cache stores.
pub(super) fn with_body(
    status: StatusCode,
    media_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<Body> {
    let mut response = Response::new(Body::full(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Creates the response to OPTIONS, with which some load balancers ask whether the server is there.
pub(super) fn options(allow: &'static str) -> Response<Body> {
    let mut response = with_body(StatusCode::OK, "text/plain; charset=utf-8", "");
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allow));
    response
}

/// Creates a redirect (303) to a URL that the client requests with GET.
pub(super) fn see_other(location: &str) -> Response<Body> {
    let mut response = with_body(StatusCode::SEE_OTHER, "text/plain; charset=utf-8", "");
    if let Ok(value) = HeaderValue::from_str(location) {
        response.headers_mut().insert(header::LOCATION, value);
    }
    response
}

/// Adds the `RateLimit-*` headers: how many instances a window allows, how many of them remain, and in how many seconds
/// the window ends.
pub(super) fn add_rate_limit_headers(
    headers: &mut HeaderMap,
    limit: u32,
    remaining: u32,
    reset_seconds: u64,
) {
    let pairs = [
        ("ratelimit-limit", u64::from(limit)),
        ("ratelimit-remaining", u64::from(remaining)),
        ("ratelimit-reset", reset_seconds),
    ];
    for (name, value) in pairs {
        headers.insert(HeaderName::from_static(name), HeaderValue::from(value));
    }
}
