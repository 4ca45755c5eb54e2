//! Responses of server-sent events.

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http::{HeaderValue, Response, header};
use serde_json::json;

use super::{Api, ApiError, Body};

/// Shortest time after which a stream ends although the client reads it, so that no stream outlives a deployment for
/// long.
const MIN_STREAM_TIME: Duration = Duration::from_secs(30 * 60);
/// How much longer a stream may live. Streams that began together, after a restart, end apart from each other.
const STREAM_TIME_SPREAD: Duration = Duration::from_secs(3 * 60);
/// Time without an event after which a stream sends something, so that a broken connection is detected.
pub(super) const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);

impl Api {
    /// Creates a response of server-sent events that no proxy on the way buffers. The stream ends with `events`, or
    /// when the server shuts down. It counts among the requests of its client until then.
    ///
    /// # Errors
    /// [`ApiError::TooManyRequests`] when the client has as many as it may have.
    pub(super) fn event_stream(
        &self,
        client: IpAddr,
        events: impl Stream<Item = Bytes> + Send + 'static,
    ) -> Result<Response<Body>, ApiError> {
        let permit = self.client_permits.try_take(client, 1).ok_or(ApiError::TooManyRequests)?;
        let events = events.map(move |event| {
            // Owned by the stream, so that it is dropped with the stream.
            let _permit = &permit;
            event
        });
        let shutdown = self.shutdown.clone();
        let mut response = Response::new(Body::stream(events.take_until(shutdown.cancelled_owned())));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
        Ok(response)
    }
}

/// Returns the longest life of a new stream: 30 minutes and up to [`STREAM_TIME_SPREAD`] more.
pub(super) fn max_stream_time() -> Duration {
    // Without randomness the streams end together, which costs speed only.
    let spread = u64::from(getrandom::u32().unwrap_or_default()) % STREAM_TIME_SPREAD.as_millis() as u64;
    MIN_STREAM_TIME + Duration::from_millis(spread)
}

/// Returns the last event of a stream that has reached its longest life. The client then reconnects.
pub(super) fn reconnect_event() -> Bytes {
    event("reconnect", &json!({"reason": "this stream has run for 30 minutes"}))
}

/// Formats one event.
pub(super) fn event(name: &str, data: &serde_json::Value) -> Bytes {
    Bytes::from(format!("event: {name}\ndata: {data}\n\n"))
}
