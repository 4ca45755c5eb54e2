//! `GET /api/v1/demo/{id}/status`: an instance's remaining time, as server-sent events.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::Response;
use serde_json::json;
use tokio::time::Instant;

use crate::api::event_stream::event;
use crate::api::{Api, ApiError, ApiRequest, Body};
use crate::instance::{Instance, InstanceId, State};
use crate::pool::Pool;

/// Time between two events.
const EVENT_INTERVAL: Duration = Duration::from_secs(1);
/// Time without an event after which a comment shows that the stream is alive.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// Longest life of a stream. The client then reconnects, so that no stream outlives a deployment for long.
const MAX_STREAM_TIME: Duration = Duration::from_secs(30 * 60);
/// How long a browser waits before it reconnects.
const RETRY: &str = "retry: 2000\n\n";

/// One stream's state.
struct StatusStream {
    pool: Arc<Pool>,
    id: InstanceId,
    started: Instant,
    last_sent: Instant,
    next_query: Instant,
    is_over: bool,
}

impl Api {
    pub(in crate::api) async fn status(
        &self,
        id: &InstanceId,
        request: ApiRequest<'_>,
    ) -> Result<Response<Body>, ApiError> {
        let found = self.pool.get(id).await.map_err(|e| ApiError::from_store(e, "GET_ERROR"))?;
        // A token is not needed, but a wrong one is refused.
        self.instance_access(&found.ok_or(ApiError::NotFound("instance"))?, &request)?;
        let now = Instant::now();
        let status = StatusStream {
            pool: self.pool.clone(),
            id: id.clone(),
            started: now,
            last_sent: now,
            next_query: now,
            is_over: false,
        };
        let first = stream::once(async { Bytes::from_static(RETRY.as_bytes()) });
        Ok(self.event_stream(first.chain(stream::unfold(status, StatusStream::next))))
    }
}

impl StatusStream {
    /// Returns the next chunk of the stream; `None` after the last.
    async fn next(mut self) -> Option<(Bytes, Self)> {
        while !self.is_over {
            tokio::time::sleep_until(self.next_query).await;
            // A client that did not read for a while gets the present state, not one event for each missed second.
            if self.next_query.elapsed() >= EVENT_INTERVAL {
                self.next_query = Instant::now();
            }
            if self.started.elapsed() >= MAX_STREAM_TIME {
                self.is_over = true;
                let reason = json!({"reason": "this stream has run for 30 minutes"});
                return Some((event("reconnect", &reason), self));
            }
            match self.pool.get(&self.id).await {
                Ok(found) => {
                    let chunk = self.event_for(found.as_ref());
                    self.last_sent = Instant::now();
                    return Some((chunk, self));
                }
                Err(_) if self.last_sent.elapsed() >= KEEPALIVE_INTERVAL => {
                    self.next_query += EVENT_INTERVAL;
                    self.last_sent = Instant::now();
                    return Some((Bytes::from_static(b": store unavailable\n\n"), self));
                }
                Err(_) => self.next_query += EVENT_INTERVAL,
            }
        }
        None
    }

    /// Returns the event for the instance's record, and schedules the next query: in a second, or just after the
    /// deadline if that is sooner.
    fn event_for(&mut self, found: Option<&Instance>) -> Bytes {
        let id = self.id.as_str();
        let Some(instance) = found else {
            self.is_over = true;
            return event("gone", &json!({"id": id}));
        };
        if let State::Expired { .. } = instance.state() {
            self.is_over = true;
            return event("expired", &json!({"id": id}));
        }
        let remaining = instance.lease().map(|lease| lease.remaining(self.pool.clock().now()));
        self.next_query += EVENT_INTERVAL;
        if let Some(remaining) = remaining.filter(|remaining| *remaining < EVENT_INTERVAL) {
            // Counted from now, since this query may have come late.
            self.next_query = Instant::now() + remaining + Duration::from_millis(1);
        }
        let seconds = remaining.map_or(0, |remaining| remaining.as_millis().div_ceil(1000) as u64);
        event("ttl", &json!({"id": id, "state": instance.state().name(), "ttl_remaining": seconds}))
    }
}
