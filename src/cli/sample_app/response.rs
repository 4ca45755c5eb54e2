//! Builds the responses of the sample app.

use std::convert::Infallible;

use bytes::Bytes;
use futures_util::Stream;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName};
use http::{HeaderValue, Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use serde_json::Value;

/// The body of a response.
pub(super) type Body = UnsyncBoxBody<Bytes, Infallible>;
/// A response of the sample app.
pub(super) type AppResponse = Response<Body>;

/// Returns a response with a complete body. It is not cached, because every page and answer shows a changing state.
pub(super) fn whole(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> AppResponse {
    let mut response = Response::new(Full::new(body.into()).boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Returns a response with plain text.
pub(super) fn text(status: StatusCode, body: impl Into<Bytes>) -> AppResponse {
    whole(status, "text/plain; charset=utf-8", body)
}

/// Returns a response with a JSON value.
pub(super) fn json(status: StatusCode, value: &Value) -> AppResponse {
    whole(status, "application/json", value.to_string())
}

/// Returns a response whose body is sent piece by piece.
pub(super) fn streamed<S>(content_type: &'static str, pieces: S) -> AppResponse
where
    S: Stream<Item = Bytes> + Send + 'static,
{
    use futures_util::StreamExt;
    let frames = pieces.map(|piece| Ok(Frame::data(piece)));
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

/// Adds a header with a constant value.
pub(super) fn with(mut response: AppResponse, name: HeaderName, value: &'static str) -> AppResponse {
    response.headers_mut().insert(name, HeaderValue::from_static(value));
    response
}
