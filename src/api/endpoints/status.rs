//! `GET /api/v1/demo/{id}/status`: server-sent events.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use http::{HeaderValue, Response, header};
use serde_json::json;
use tokio::time::Instant;

use crate::api::{Api, ApiError, Body};
use crate::instance::{Instance, InstanceId, State};
use crate::pool::Pool;

/// Time between two events.
const TICK: Duration = Duration::from_secs(1);
/// Time without an event after which a comment shows that the stream lives.
const QUIET: Duration = Duration::from_secs(15);
/// Time after which the client is asked to come again, so that no stream outlives a deployment for long.
const LONGEST: Duration = Duration::from_secs(30 * 60);
/// What a browser waits before it comes again.
const RETRY: &str = "retry: 2000\n\n";

/// One stream's state.
struct Watch {
    pool: Arc<Pool>,
    id: InstanceId,
    began: Instant,
    last: Instant,
    next: Instant,
    over: bool,
}

impl Api {
    pub(crate) async fn status(&self, id: &InstanceId) -> Result<Response<Body>, ApiError> {
        let found = self.pool.get(id).await.map_err(|e| ApiError::from_store(e, "GET_ERROR"))?;
        found.ok_or(ApiError::NotFound("instance"))?;
        let now = Instant::now();
        let watch =
            Watch { pool: self.pool.clone(), id: id.clone(), began: now, last: now, next: now, over: false };
        let first = stream::once(async { Bytes::from_static(RETRY.as_bytes()) });
        Ok(self.event_stream(first.chain(stream::unfold(watch, Watch::next))))
    }

    /// An answer of server-sent events that no proxy on the way holds back, until the server stops.
    pub(crate) fn event_stream(&self, events: impl Stream<Item = Bytes> + Send + 'static) -> Response<Body> {
        let stop = self.stop.clone();
        let mut answer = Response::new(Body::stream(events.take_until(stop.cancelled_owned())));
        let headers = answer.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
        answer
    }
}

/// One event.
pub(crate) fn event(name: &str, data: &serde_json::Value) -> Bytes {
    Bytes::from(format!("event: {name}\ndata: {data}\n\n"))
}

impl Watch {
    /// The next piece of the stream; `None` after the last.
    async fn next(mut self) -> Option<(Bytes, Self)> {
        while !self.over {
            tokio::time::sleep_until(self.next).await;
            // A client that did not read for a while is told how things are, not how they were each second.
            if self.next.elapsed() >= TICK {
                self.next = Instant::now();
            }
            if self.began.elapsed() >= LONGEST {
                self.over = true;
                let reason = json!({"reason": "this stream has run for 30 minutes"});
                return Some((event("reconnect", &reason), self));
            }
            match self.pool.get(&self.id).await {
                Ok(found) => {
                    let piece = self.tell(found.as_ref());
                    self.last = Instant::now();
                    return Some((piece, self));
                }
                Err(_) if self.last.elapsed() >= QUIET => {
                    self.next += TICK;
                    self.last = Instant::now();
                    return Some((Bytes::from_static(b": the store is away\n\n"), self));
                }
                Err(_) => self.next += TICK,
            }
        }
        None
    }

    /// The event for what was found, and when to look again: in a second, or at the very deadline.
    fn tell(&mut self, found: Option<&Instance>) -> Bytes {
        let id = self.id.as_str();
        let Some(instance) = found else {
            self.over = true;
            return event("gone", &json!({"id": id}));
        };
        if let State::Expired { .. } = instance.life() {
            self.over = true;
            return event("expired", &json!({"id": id}));
        }
        let left = instance.lease().map(|lease| lease.remaining(self.pool.clock().now()));
        self.next += TICK;
        if let Some(left) = left.filter(|left| *left < TICK) {
            // Just past the deadline, counted from now: this look may have come late.
            self.next = Instant::now() + left + Duration::from_millis(1);
        }
        let seconds = left.map_or(0, |left| left.as_millis().div_ceil(1000) as u64);
        event("ttl", &json!({"id": id, "state": instance.life().name(), "ttl_remaining": seconds}))
    }
}
