//! The queue of visitors who wait for an instance that is being made: first come, first served.

use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Mutex, MutexGuard, Notify};

/// The waiting visitors of one pool.
///
/// Only the first visitor in the queue claims: when it becomes the first, and then each time an instance becomes ready.
/// So an instance that became ready just before a visitor entered is not overlooked, and a visitor whose claim got
/// nothing keeps its place.
#[derive(Debug)]
pub(in crate::pool) struct WaitQueue {
    /// All visitors in the queue.
    length: AtomicUsize,
    /// Those of them who wait, and do not claim at the moment.
    waiting: AtomicUsize,
    /// Locked by the first visitor. tokio's mutex is fair: it grants the lock in the order of the calls to `lock`.
    first: Mutex<()>,
    ready: Notify,
    entered: Notify,
}

/// A place in the queue. Dropping it leaves the queue.
#[derive(Debug)]
pub(super) struct Place<'a> {
    queue: &'a WaitQueue,
    _counted: Counted<'a>,
}

/// The first place in the queue. Dropping it makes the next visitor the first.
#[derive(Debug)]
pub(super) struct First<'a> {
    queue: &'a WaitQueue,
    _guard: MutexGuard<'a, ()>,
}

impl WaitQueue {
    /// Creates an empty queue.
    pub(in crate::pool) fn new() -> Self {
        let (length, waiting) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Self { length, waiting, first: Mutex::new(()), ready: Notify::new(), entered: Notify::new() }
    }

    /// Returns the number of visitors in the queue.
    pub(in crate::pool) fn len(&self) -> usize {
        self.length.load(Ordering::Acquire)
    }

    /// Returns for how many visitors an instance has to be made, provided that this is read after the numbers of ready
    /// and warming instances. A visitor who claims at the moment is not counted: the store may have assigned a ready
    /// instance to it whose answer has not arrived yet.
    pub(in crate::pool) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Acquire)
    }

    /// Enters at the end of the queue.
    pub(super) fn enter(&self) -> Place<'_> {
        let counted = Counted::new(&self.length);
        self.entered.notify_waiters();
        Place { queue: self, _counted: counted }
    }

    /// Waits until a visitor is in the queue.
    pub(in crate::pool) async fn occupied(&self) {
        let mut entered = pin!(self.entered.notified());
        // Before the look at the queue, so that a visitor who enters right after it is not missed.
        entered.as_mut().enable();
        if self.len() == 0 {
            entered.await;
        }
    }

    /// Wakes the first visitor, or the next who becomes the first: an instance became ready.
    pub(in crate::pool) fn notify_ready(&self) {
        self.ready.notify_one();
    }
}

impl<'a> Place<'a> {
    /// Waits to become the first in the queue, who should claim at once. The visitor is counted as waiting from the
    /// call on, not from the first poll.
    pub(super) fn first(&self) -> impl Future<Output = First<'a>> + use<'a> {
        let queue = self.queue;
        let waiting = Counted::new(&queue.waiting);
        async move {
            let guard = queue.first.lock().await;
            drop(waiting);
            First { queue, _guard: guard }
        }
    }
}

impl First<'_> {
    /// Waits until another claim may succeed. The visitor is counted as waiting from the call on, not from the first
    /// poll.
    pub(super) fn instance_ready(&self) -> impl Future<Output = ()> {
        let waiting = Counted::new(&self.queue.waiting);
        async move {
            self.queue.ready.notified().await;
            drop(waiting);
        }
    }
}

/// One unit of a count, until it is dropped.
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
    async fn the_first_visitor_to_enter_is_the_first_in_the_queue() {
        let queue = WaitQueue::new();
        let (a, b) = (queue.enter(), queue.enter());
        let mut second = Box::pin(b.first());
        let first = a.first().await;
        assert!((&mut second).now_or_never().is_none());
        drop(first);
        assert!((&mut second).now_or_never().is_some());
    }

    #[tokio::test]
    async fn a_visitor_who_leaves_lets_the_next_become_the_first() {
        let queue = WaitQueue::new();
        let (a, b, c) = (queue.enter(), queue.enter(), queue.enter());
        let first = a.first().await;
        let (mut second, mut third) = (Box::pin(b.first()), Box::pin(c.first()));
        assert!((&mut second).now_or_never().is_none());
        assert!((&mut third).now_or_never().is_none());
        drop(second);
        drop(b);
        assert_eq!(queue.len(), 2);
        drop(first);
        assert!((&mut third).now_or_never().is_some());
    }

    #[tokio::test]
    async fn a_visitor_who_claims_is_not_counted_as_waiting() {
        let queue = WaitQueue::new();
        let (a, b) = (queue.enter(), queue.enter());
        let (first, second) = (a.first(), b.first());
        assert_eq!(queue.waiting(), 2);
        let first = first.await;
        assert_eq!(queue.waiting(), 1);
        let ready = first.instance_ready();
        assert_eq!((queue.waiting(), queue.len()), (2, 2));
        queue.notify_ready();
        ready.await;
        assert_eq!(queue.waiting(), 1);
        drop((first, second, a));
        assert_eq!((queue.waiting(), queue.len()), (0, 1));
    }

    #[tokio::test]
    async fn the_queue_is_occupied_as_long_as_a_visitor_is_in_it() {
        let queue = WaitQueue::new();
        let mut occupied = Box::pin(queue.occupied());
        assert!((&mut occupied).now_or_never().is_none());
        let place = queue.enter();
        assert!((&mut occupied).now_or_never().is_some());
        assert!(queue.occupied().now_or_never().is_some());
        drop(place);
        assert!(queue.occupied().now_or_never().is_none());
    }

    #[tokio::test]
    async fn an_instance_that_became_ready_while_the_first_was_claiming_is_not_missed() {
        let queue = WaitQueue::new();
        let place = queue.enter();
        let first = place.first().await;
        queue.notify_ready();
        assert!(first.instance_ready().now_or_never().is_some());
        assert!(first.instance_ready().now_or_never().is_none());
    }
}
