//! `GET /api/v1/demo/{id}/status`: an instance's remaining time, as server-sent events.
//!
//! Each client may hold many of these streams. The events of an instance that a visitor has come from the route table,
//! which the store's stream of changes feeds: they cost the store nothing, and continue while it is away.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::Response;
use serde_json::json;
use tokio::time::Instant;

use crate::api::event_stream::{KEEPALIVE_INTERVAL, event, max_stream_time, reconnect_event};
use crate::api::{Api, ApiError, ApiRequest, Body};
use crate::clock::Clock;
use crate::instance::InstanceId;
use crate::pool::{Asker, InstanceStatus, Instances};

/// Time between two events.
const EVENT_INTERVAL: Duration = Duration::from_secs(1);
/// How long a browser waits before it reconnects.
const RETRY: &str = "retry: 2000\n\n";

/// One stream's state.
struct StatusStream {
    instances: Arc<Instances>,
    clock: Clock,
    id: InstanceId,
    /// When the stream ends although the instance does not.
    ends: Instant,
    last_sent: Instant,
    next_event: Instant,
    /// What the last event showed; `None` once its end was awaited. The end of a visitor's time is sent at once.
    shown: Option<InstanceStatus>,
    is_over: bool,
}

impl Api {
    pub(in crate::api) async fn status(
        &self,
        id: &InstanceId,
        request: ApiRequest<'_>,
    ) -> Result<Response<Body>, ApiError> {
        // A token is not needed, but a wrong one is refused.
        self.check_offered_token(id, &request).await?;
        let found = self.instances.status(id, self.asker(&request)).await;
        if let InstanceStatus::Gone = found.map_err(|e| ApiError::from_store(e, "GET_ERROR"))? {
            return Err(ApiError::NotFound("instance"));
        }
        let now = Instant::now();
        let status = StatusStream {
            instances: self.instances.clone(),
            clock: self.clock.clone(),
            id: id.clone(),
            ends: now + max_stream_time(),
            last_sent: now,
            next_event: now,
            shown: None,
            is_over: false,
        };
        let first = stream::once(async { Bytes::from_static(RETRY.as_bytes()) });
        self.event_stream(
            request.context.client.address,
            first.chain(stream::unfold(status, StatusStream::next)),
        )
    }
}

impl StatusStream {
    /// Returns the next chunk of the stream; `None` after the last.
    async fn next(mut self) -> Option<(Bytes, Self)> {
        while !self.is_over {
            self.wait().await;
            // A client that did not read for a while gets the present state, not one event for each missed second.
            if self.next_event.elapsed() >= EVENT_INTERVAL {
                self.next_event = Instant::now();
            }
            if Instant::now() >= self.ends {
                self.is_over = true;
                return Some((reconnect_event(), self));
            }
            // Only an instance that no visitor has costs a query of the store each second. Visitors do not know the id
            // of such an instance, so its streams are few, and the id was found before.
            match self.instances.status(&self.id, Asker::Trusted).await {
                Ok(status) => {
                    let chunk = self.event_for(&status);
                    self.shown = Some(status);
                    self.last_sent = Instant::now();
                    return Some((chunk, self));
                }
                Err(_) if self.last_sent.elapsed() >= KEEPALIVE_INTERVAL => {
                    self.next_event += EVENT_INTERVAL;
                    self.last_sent = Instant::now();
                    return Some((Bytes::from_static(b": store unavailable\n\n"), self));
                }
                Err(_) => self.next_event += EVENT_INTERVAL,
            }
        }
        None
    }

    /// Waits until the next event is due, or the instance is no longer assigned to the visitor of the last event.
    async fn wait(&mut self) {
        let due = tokio::time::sleep_until(self.next_event);
        match self.shown.take() {
            Some(InstanceStatus::Assigned(route)) => tokio::select! {
                () = due => {}
                () = route.ended() => {}
            },
            _ => due.await,
        }
    }

    /// Returns the event for the instance's status, and schedules the next one: in a second, or just after the deadline if
    /// that is sooner.
    fn event_for(&mut self, status: &InstanceStatus) -> Bytes {
        let id = self.id.as_str();
        let (state, remaining) = match status {
            InstanceStatus::Gone => {
                self.is_over = true;
                return event("gone", &json!({"id": id}));
            }
            InstanceStatus::Expired => {
                self.is_over = true;
                return event("expired", &json!({"id": id}));
            }
            InstanceStatus::Unassigned(state) => (*state, None),
            InstanceStatus::Assigned(route) => ("assigned", Some(route.deadline().since(self.clock.now()))),
        };
        self.next_event += EVENT_INTERVAL;
        if let Some(remaining) = remaining.filter(|remaining| *remaining < EVENT_INTERVAL) {
            // Counted from now, since this event may have come late.
            self.next_event = Instant::now() + remaining + Duration::from_millis(1);
        }
        let seconds = remaining.map_or(0, |remaining| remaining.as_millis().div_ceil(1000) as u64);
        event("ttl", &json!({"id": id, "state": state, "ttl_remaining": seconds}))
    }
}
