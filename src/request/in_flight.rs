//! The requests in flight, for which a server waits before it shuts down.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts the requests in flight: requests that end by themselves, and streams of events, which may never end. All
/// clones share the counts.
#[derive(Debug, Clone, Default)]
pub struct InFlightRequests(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    requests: AtomicUsize,
    streams: AtomicUsize,
}

/// One request in flight. It counts until it is dropped.
#[derive(Debug)]
pub struct InFlightGuard {
    counts: Arc<Counts>,
    is_stream: bool,
}

impl InFlightRequests {
    /// Counts a request until the guard is dropped.
    pub fn begin(&self) -> InFlightGuard {
        self.0.requests.fetch_add(1, Ordering::AcqRel);
        InFlightGuard { counts: self.0.clone(), is_stream: false }
    }

    /// Returns the number of requests that end by themselves.
    pub fn requests(&self) -> usize {
        self.0.requests.load(Ordering::Acquire)
    }

    /// Returns the number of streams of events.
    pub fn streams(&self) -> usize {
        self.0.streams.load(Ordering::Acquire)
    }
}

impl InFlightGuard {
    /// Counts the request as a stream of events from now on.
    pub fn mark_as_stream(&mut self) {
        if !self.is_stream {
            self.is_stream = true;
            // Counted twice for a moment rather than not at all.
            self.counts.streams.fetch_add(1, Ordering::AcqRel);
            self.counts.requests.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        let count = if self.is_stream { &self.counts.streams } else { &self.counts.requests };
        count.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_counts_until_its_guard_is_dropped_and_as_a_stream_once_it_is_one() {
        let in_flight = InFlightRequests::default();
        let (a, mut b) = (in_flight.begin(), in_flight.begin());
        assert_eq!((in_flight.requests(), in_flight.streams()), (2, 0));
        b.mark_as_stream();
        b.mark_as_stream();
        assert_eq!((in_flight.requests(), in_flight.streams()), (1, 1));
        drop((a, b));
        assert_eq!((in_flight.requests(), in_flight.streams()), (0, 0));
    }
}
