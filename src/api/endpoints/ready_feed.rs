//! `GET /ready`: how many instances of each template are ready, live, for the front page.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::Response;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::status::event;
use crate::api::{Api, ApiError, Body};
use crate::pool::Pool;

/// Time between two looks at the numbers.
const TICK: Duration = Duration::from_secs(1);
/// Looks without a change after which the numbers are sent again, so that a dead stream is noticed.
const REPEAT: u32 = 15;

struct Feed {
    pool: Arc<Pool>,
    sent: Value,
    quiet: u32,
    next: Instant,
}

impl Api {
    pub(crate) async fn ready(&self) -> Result<Response<Body>, ApiError> {
        let feed = Feed { pool: self.pool.clone(), sent: Value::Null, quiet: 0, next: Instant::now() };
        Ok(self.event_stream(stream::unfold(feed, Feed::next)))
    }
}

impl Feed {
    async fn next(mut self) -> Option<(Bytes, Self)> {
        loop {
            tokio::time::sleep_until(self.next).await;
            self.next = Instant::now() + TICK;
            self.quiet += 1;
            let Ok(stats) = self.pool.stats().await else { continue };
            let numbers: Map<String, Value> =
                stats.into_iter().map(|s| (s.template, json!(s.stats.ready))).collect();
            let numbers = Value::Object(numbers);
            if numbers != self.sent || self.quiet >= REPEAT {
                let piece = event("ready", &numbers);
                (self.sent, self.quiet) = (numbers, 0);
                return Some((piece, self));
            }
        }
    }
}
