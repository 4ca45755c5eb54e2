//! Visitors who wait for an instance that is being made: first come, first served.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Mutex, MutexGuard, Notify};

/// The line before one pool. Only the first in line claims: when it becomes the first, and then whenever an instance
/// has become ready. So no instance that became ready just before somebody stepped into the line is overlooked, and
/// a visitor whose claim came to nothing keeps its place.
#[derive(Debug)]
pub(crate) struct WaitQueue {
    /// All who stand in it.
    length: AtomicUsize,
    /// Those of them who wait, and do not claim at this moment.
    waiting: AtomicUsize,
    /// Held by the first in line. tokio's mutex is fair: it goes from hand to hand in the order of asking.
    first: Mutex<()>,
    ready: Notify,
}

/// A place in the line.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    line: &'a WaitQueue,
    _counted: Counted<'a>,
}

/// The first place. Dropped, it goes to the next in line.
#[derive(Debug)]
pub(crate) struct First<'a> {
    line: &'a WaitQueue,
    _held: MutexGuard<'a, ()>,
}

impl WaitQueue {
    /// An empty line.
    pub(crate) fn new() -> Self {
        let (length, waiting) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Self { length, waiting, first: Mutex::new(()), ready: Notify::new() }
    }

    /// How many stand in it.
    pub(crate) fn len(&self) -> usize {
        self.length.load(Ordering::Acquire)
    }

    /// For how many an instance has to be made, provided that this is read after what is ready and what is being made.
    /// Who claims is not among them: the store may have handed out what it had ready, and the visitor not know it yet.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Acquire)
    }

    /// Takes the last place.
    pub(crate) fn enter(&self) -> Place<'_> {
        Place { line: self, _counted: Counted::new(&self.length) }
    }

    /// An instance became ready: tells the first in line, or whoever will be.
    pub(crate) fn call(&self) {
        self.ready.notify_one();
    }
}

impl<'a> Place<'a> {
    /// Waits to be the first in line, who should claim at once. Counted as waiting from the call on.
    pub(crate) fn first(&self) -> impl Future<Output = First<'a>> + use<'a> {
        let line = self.line;
        let waiting = Counted::new(&line.waiting);
        async move {
            let held = line.first.lock().await;
            drop(waiting);
            First { line, _held: held }
        }
    }
}

impl First<'_> {
    /// Waits until it is worth claiming again. Counted as waiting from the call on.
    pub(crate) fn called(&self) -> impl Future<Output = ()> {
        let waiting = Counted::new(&self.line.waiting);
        async move {
            self.line.ready.notified().await;
            drop(waiting);
        }
    }
}

/// One more in a count, for as long as it lives.
#[derive(Debug)]
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[tokio::test]
    async fn the_first_to_come_is_the_first_in_line() {
        let line = WaitQueue::new();
        let (a, b) = (line.enter(), line.enter());
        let mut second = Box::pin(b.first());
        let first = a.first().await;
        assert!((&mut second).now_or_never().is_none());
        drop(first);
        assert!((&mut second).now_or_never().is_some());
    }

    #[tokio::test]
    async fn who_leaves_makes_way_for_the_next() {
        let line = WaitQueue::new();
        let (a, b, c) = (line.enter(), line.enter(), line.enter());
        let first = a.first().await;
        let (mut second, mut third) = (Box::pin(b.first()), Box::pin(c.first()));
        assert!((&mut second).now_or_never().is_none());
        assert!((&mut third).now_or_never().is_none());
        drop(second);
        drop(b);
        assert_eq!(line.len(), 2);
        drop(first);
        assert!((&mut third).now_or_never().is_some());
    }

    #[tokio::test]
    async fn who_claims_does_not_wait() {
        let line = WaitQueue::new();
        let (a, b) = (line.enter(), line.enter());
        let (first, second) = (a.first(), b.first());
        assert_eq!(line.waiting(), 2);
        let first = first.await;
        assert_eq!(line.waiting(), 1);
        let called = first.called();
        assert_eq!((line.waiting(), line.len()), (2, 2));
        line.call();
        called.await;
        assert_eq!(line.waiting(), 1);
        drop((first, second, a));
        assert_eq!((line.waiting(), line.len()), (0, 1));
    }

    #[tokio::test]
    async fn a_call_that_came_while_the_first_was_claiming_is_not_lost() {
        let line = WaitQueue::new();
        let place = line.enter();
        let first = place.first().await;
        line.call();
        assert!(first.called().now_or_never().is_some());
        assert!(first.called().now_or_never().is_none());
    }
}
