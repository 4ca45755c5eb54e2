//! Visitors who wait for an instance that is being made: first come, first served.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Semaphore, SemaphorePermit};

/// The line before one pool. Each instance that becomes ready while somebody waits calls one visitor, in order. A
/// visitor who leaves, even after being called, leaves the call to the next.
#[derive(Debug)]
pub(crate) struct Line {
    waiting: AtomicUsize,
    /// One permit a call; tokio's semaphore is fair and gives permits in the order of asking.
    calls: Semaphore,
}

/// A place in the line. Leaving it in any way takes the visitor out of the count.
#[derive(Debug)]
pub(crate) struct Place<'a>(&'a Line);

/// A visitor's turn to claim. Dropped unused, it goes to the next in line.
#[derive(Debug)]
pub(crate) struct Call<'a>(SemaphorePermit<'a>);

impl Line {
    /// An empty line.
    pub(crate) fn new() -> Self {
        Self { waiting: AtomicUsize::new(0), calls: Semaphore::new(0) }
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.waiting.load(Ordering::Acquire)
    }

    /// Takes the last place.
    pub(crate) fn enter(&self) -> Place<'_> {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        Place(self)
    }

    /// An instance became ready: calls the first in line, if any.
    pub(crate) fn call(&self) {
        if self.len() > self.calls.available_permits() {
            self.calls.add_permits(1);
        }
    }
}

impl<'a> Place<'a> {
    /// Waits to be called.
    pub(crate) async fn called(&self) -> Call<'a> {
        // The semaphore lives as long as the line and is never closed.
        Call(self.0.calls.acquire().await.expect("the line is never closed"))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Call<'_> {
    /// The turn was used: there was an instance, or none was left.
    pub(crate) fn used(self) {
        self.0.forget();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[tokio::test]
    async fn the_first_to_come_is_the_first_to_be_called() {
        let line = Line::new();
        let (a, b) = (line.enter(), line.enter());
        let (mut first, mut second) = (Box::pin(a.called()), Box::pin(b.called()));
        assert!((&mut first).now_or_never().is_none());
        assert!((&mut second).now_or_never().is_none());
        line.call();
        assert!((&mut second).now_or_never().is_none());
        (&mut first).now_or_never().unwrap().used();
        line.call();
        assert!((&mut second).now_or_never().is_some());
    }

    #[tokio::test]
    async fn a_call_to_somebody_who_left_goes_to_the_next() {
        let line = Line::new();
        let (a, b) = (line.enter(), line.enter());
        let mut first = Box::pin(a.called());
        let mut second = Box::pin(b.called());
        assert!((&mut first).now_or_never().is_none());
        assert!((&mut second).now_or_never().is_none());
        line.call();
        drop(first);
        assert!((&mut second).now_or_never().is_some());
        drop(second);
        drop((a, b));
        assert_eq!(line.len(), 0);
    }

    #[tokio::test]
    async fn nobody_waiting_means_no_call_is_kept() {
        let line = Line::new();
        line.call();
        assert!(line.enter().called().now_or_never().is_none());
    }
}
