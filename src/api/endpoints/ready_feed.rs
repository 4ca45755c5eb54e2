//! `GET /ready`: how many instances of each template are ready, as server-sent events for the front page.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, stream};
use http::Response;
use tokio::time::Instant;

use crate::api::event_stream::{KEEPALIVE_INTERVAL, max_stream_time, reconnect_event};
use crate::api::ready_counts::WatchedCounts;
use crate::api::{Api, ApiError, ApiRequest, Body};

/// One stream's state.
struct ReadyFeed {
    counts: WatchedCounts,
    /// When the counts are sent although they have not changed.
    repeat: Instant,
    /// When the stream ends.
    ends: Instant,
    is_over: bool,
}

impl Api {
    pub(in crate::api) async fn ready_feed(
        &self,
        request: ApiRequest<'_>,
    ) -> Result<Response<Body>, ApiError> {
        self.event_stream(
            request.context.client.address,
            ready_events(self.ready_ticker.watch(), max_stream_time()),
        )
    }
}

/// Returns the events of one stream: the counts at once, then each change, at most one a second. A client that reads
/// slowly gets the newest counts only.
fn ready_events(counts: WatchedCounts, max_time: Duration) -> impl Stream<Item = Bytes> {
    let now = Instant::now();
    let feed = ReadyFeed { counts, repeat: now + KEEPALIVE_INTERVAL, ends: now + max_time, is_over: false };
    stream::unfold(feed, ReadyFeed::next)
}

impl ReadyFeed {
    /// Returns the next chunk of the stream; `None` after the last.
    async fn next(mut self) -> Option<(Bytes, Self)> {
        while !self.is_over {
            let is_repeat = tokio::select! {
                changed = self.counts.changed() => {
                    changed.ok()?;
                    false
                }
                () = tokio::time::sleep_until(self.repeat) => true,
                () = tokio::time::sleep_until(self.ends) => {
                    self.is_over = true;
                    return Some((reconnect_event(), self));
                }
            };
            let latest = self.counts.borrow_and_update().as_ref().map(|counts| counts.event());
            let chunk = latest.or(is_repeat.then(|| Bytes::from_static(b": store unavailable\n\n")));
            if let Some(chunk) = chunk {
                self.repeat = Instant::now() + KEEPALIVE_INTERVAL;
                return Some((chunk, self));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::pin::pin;
    use std::sync::Arc;

    use futures_util::{FutureExt, StreamExt};
    use tokio::sync::watch;

    use super::*;
    use crate::api::ready_counts::ReadyCounts;

    const HALF_AN_HOUR: Duration = Duration::from_secs(1800);

    fn counts(ready: usize) -> Option<Arc<ReadyCounts>> {
        Some(Arc::new(ReadyCounts::new(HashMap::from([("t".to_owned(), ready)]))))
    }

    fn text(ready: usize) -> String {
        format!("event: ready\ndata: {{\"t\":{ready}}}\n\n")
    }

    #[tokio::test(start_paused = true)]
    async fn each_change_is_sent_and_a_slow_reader_gets_the_newest_only() {
        let sender = watch::Sender::new(None);
        let mut events = pin!(ready_events(sender.subscribe(), HALF_AN_HOUR));
        assert!(events.next().now_or_never().is_none(), "nothing was queried yet");
        sender.send_replace(counts(1));
        assert_eq!(events.next().await.unwrap(), text(1));
        assert!(events.next().now_or_never().is_none(), "nothing changed");
        for ready in 2..9 {
            sender.send_replace(counts(ready));
        }
        assert_eq!(events.next().await.unwrap(), text(8));
        assert!(events.next().now_or_never().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn the_streams_of_all_clients_share_the_bytes_of_an_event() {
        let sender = watch::Sender::new(counts(1));
        let mut chunks = Vec::new();
        for _ in 0..2 {
            let mut receiver = sender.subscribe();
            receiver.mark_changed();
            chunks.push(pin!(ready_events(receiver, HALF_AN_HOUR)).next().await.unwrap());
        }
        assert_eq!(chunks[0].as_ptr(), chunks[1].as_ptr());
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_change_the_counts_are_repeated_and_the_stream_ends_after_its_time() {
        let sender = watch::Sender::new(counts(1));
        let start = Instant::now();
        let mut events = pin!(ready_events(sender.subscribe(), HALF_AN_HOUR));
        let mut repeats = 0;
        let last = loop {
            let chunk = events.next().await.unwrap();
            if chunk != text(1) {
                break chunk;
            }
            repeats += 1;
            assert_eq!(start.elapsed(), KEEPALIVE_INTERVAL * repeats);
        };
        assert!(last.starts_with(b"event: reconnect\ndata: {\"reason\":"), "{last:?}");
        assert!((119..=120).contains(&repeats), "{repeats}");
        assert_eq!((start.elapsed(), events.next().await), (HALF_AN_HOUR, None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_shows_that_it_is_alive_while_the_store_is_away() {
        let sender = watch::Sender::new(None);
        let start = Instant::now();
        let mut events = pin!(ready_events(sender.subscribe(), HALF_AN_HOUR));
        assert!(events.next().await.unwrap().starts_with(b": "));
        assert_eq!(start.elapsed(), KEEPALIVE_INTERVAL);
    }

    #[test]
    fn streams_that_begin_together_end_apart_from_each_other() {
        let times: std::collections::BTreeSet<_> = (0..64).map(|_| max_stream_time()).collect();
        assert!(times.len() > 32, "{}", times.len());
        assert!(times.iter().all(|time| (HALF_AN_HOUR..HALF_AN_HOUR * 2).contains(time)));
    }
}
