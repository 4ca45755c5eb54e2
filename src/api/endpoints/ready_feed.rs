//! `GET /ready`: how many instances of each template are ready, as server-sent events for the front page.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::Response;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::api::event_stream::event;
use crate::api::{Api, ApiError, Body};
use crate::pool::Pool;

/// Time between two queries of the counts.
const QUERY_INTERVAL: Duration = Duration::from_secs(1);
/// Number of queries without a change after which the counts are sent again, so that a broken connection is detected.
const QUERIES_UNTIL_REPEAT: u32 = 15;

/// One stream's state.
struct ReadyFeed {
    pool: Arc<Pool>,
    last_sent: Value,
    queries_since_sent: u32,
    next_query: Instant,
}

impl Api {
    pub(in crate::api) async fn ready_feed(&self) -> Result<Response<Body>, ApiError> {
        let feed = ReadyFeed {
            pool: self.pool.clone(),
            last_sent: Value::Null,
            queries_since_sent: 0,
            next_query: Instant::now(),
        };
        Ok(self.event_stream(stream::unfold(feed, ReadyFeed::next)))
    }
}

impl ReadyFeed {
    async fn next(mut self) -> Option<(Bytes, Self)> {
        loop {
            tokio::time::sleep_until(self.next_query).await;
            self.next_query = Instant::now() + QUERY_INTERVAL;
            self.queries_since_sent += 1;
            let Ok(stats) = self.pool.stats().await else { continue };
            let counts: Map<String, Value> =
                stats.into_iter().map(|s| (s.template, json!(s.stats.ready))).collect();
            let counts = Value::Object(counts);
            if counts != self.last_sent || self.queries_since_sent >= QUERIES_UNTIL_REPEAT {
                let chunk = event("ready", &counts);
                (self.last_sent, self.queries_since_sent) = (counts, 0);
                return Some((chunk, self));
            }
        }
    }
}
