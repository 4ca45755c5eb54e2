//! Responses of server-sent events.

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http::{HeaderValue, Response, header};

use super::{Api, Body};

impl Api {
    /// Creates a response of server-sent events that no proxy on the way buffers. The stream ends with `events`, or
    /// when the server shuts down.
    pub(super) fn event_stream(&self, events: impl Stream<Item = Bytes> + Send + 'static) -> Response<Body> {
        let shutdown = self.shutdown.clone();
        let mut response = Response::new(Body::stream(events.take_until(shutdown.cancelled_owned())));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
        response
    }
}

/// Formats one event.
pub(super) fn event(name: &str, data: &serde_json::Value) -> Bytes {
    Bytes::from(format!("event: {name}\ndata: {data}\n\n"))
}
