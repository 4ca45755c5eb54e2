//! The few shapes of a response.

use std::convert::Infallible;

use bytes::Bytes;
use futures_util::Stream;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName};
use http::{HeaderValue, Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use serde_json::Value;

/// A response's body.
pub(super) type Body = UnsyncBoxBody<Bytes, Infallible>;
/// A response of this app.
pub(super) type Reply = Response<Body>;

/// A whole body of one type, not to be cached: every page and answer shows a changing state.
pub(super) fn whole(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Reply {
    let mut reply = Response::new(Full::new(body.into()).boxed_unsync());
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    reply.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    reply
}

/// A plain text.
pub(super) fn text(status: StatusCode, body: impl Into<Bytes>) -> Reply {
    whole(status, "text/plain; charset=utf-8", body)
}

/// A JSON value.
pub(super) fn json(status: StatusCode, value: &Value) -> Reply {
    whole(status, "application/json", value.to_string())
}

/// A body that comes piece by piece.
pub(super) fn streamed<S>(content_type: &'static str, pieces: S) -> Reply
where
    S: Stream<Item = Bytes> + Send + 'static,
{
    use futures_util::StreamExt;
    let frames = pieces.map(|piece| Ok(Frame::data(piece)));
    let mut reply = Response::new(StreamBody::new(frames).boxed_unsync());
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    reply.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    reply
}

/// Adds a header whose value is part of the program.
pub(super) fn with(mut reply: Reply, name: HeaderName, value: &'static str) -> Reply {
    reply.headers_mut().insert(name, HeaderValue::from_static(value));
    reply
}
