//! The requests under way, so that a server that stops knows what to wait for.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts the requests under way: those that end by themselves, and streams of events, which may go on for ever.
/// All clones are one.
#[derive(Debug, Clone, Default)]
pub struct InFlightRequests(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    requests: AtomicUsize,
    streams: AtomicUsize,
}

/// One request under way, until it is dropped.
#[derive(Debug)]
pub struct InFlightGuard {
    counts: Arc<Counts>,
    is_stream: bool,
}

impl InFlightRequests {
    /// A request begins.
    pub fn begin(&self) -> InFlightGuard {
        self.0.requests.fetch_add(1, Ordering::AcqRel);
        InFlightGuard { counts: self.0.clone(), is_stream: false }
    }

    /// Requests that end by themselves.
    pub fn requests(&self) -> usize {
        self.0.requests.load(Ordering::Acquire)
    }

    /// Streams of events.
    pub fn streams(&self) -> usize {
        self.0.streams.load(Ordering::Acquire)
    }
}

impl InFlightGuard {
    /// The answer turns out to be a stream of events.
    pub fn becomes_stream(&mut self) {
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
    fn a_request_counts_until_it_is_dropped_and_as_a_stream_once_it_is_one() {
        let under_way = InFlightRequests::default();
        let (a, mut b) = (under_way.begin(), under_way.begin());
        assert_eq!((under_way.requests(), under_way.streams()), (2, 0));
        b.becomes_stream();
        b.becomes_stream();
        assert_eq!((under_way.requests(), under_way.streams()), (1, 1));
        drop((a, b));
        assert_eq!((under_way.requests(), under_way.streams()), (0, 0));
    }
}
