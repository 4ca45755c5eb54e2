//! Visitors who wait for an instance that is being made: first come, first served.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Mutex, MutexGuard, Notify};

/// The line before one pool. Only the first in line claims: when it becomes the first, and then whenever an instance
/// has become ready. So no instance that became ready just before somebody stepped into the line is overlooked, and
/// a visitor whose claim came to nothing keeps its place.
#[derive(Debug)]
pub(crate) struct Line {
    waiting: AtomicUsize,
    /// Held by the first in line. tokio's mutex is fair: it goes from hand to hand in the order of asking.
    first: Mutex<()>,
    ready: Notify,
}

/// A place in the line. Leaving it in any way takes the visitor out of the count.
#[derive(Debug)]
pub(crate) struct Place<'a>(&'a Line);

/// The first place. Dropped, it goes to the next in line.
#[derive(Debug)]
pub(crate) struct First<'a> {
    line: &'a Line,
    _held: MutexGuard<'a, ()>,
}

impl Line {
    /// An empty line.
    pub(crate) fn new() -> Self {
        Self { waiting: AtomicUsize::new(0), first: Mutex::new(()), ready: Notify::new() }
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

    /// An instance became ready: tells the first in line, or whoever will be.
    pub(crate) fn call(&self) {
        self.ready.notify_one();
    }
}

impl<'a> Place<'a> {
    /// Waits to be the first in line, who should claim at once.
    pub(crate) async fn first(&self) -> First<'a> {
        First { line: self.0, _held: self.0.first.lock().await }
    }
}

impl First<'_> {
    /// Waits until it is worth claiming again.
    pub(crate) async fn called(&self) {
        self.line.ready.notified().await;
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[tokio::test]
    async fn the_first_to_come_is_the_first_in_line() {
        let line = Line::new();
        let (a, b) = (line.enter(), line.enter());
        let mut second = Box::pin(b.first());
        let first = a.first().await;
        assert!((&mut second).now_or_never().is_none());
        drop(first);
        assert!((&mut second).now_or_never().is_some());
    }

    #[tokio::test]
    async fn who_leaves_makes_way_for_the_next() {
        let line = Line::new();
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
    async fn a_call_that_came_while_the_first_was_claiming_is_not_lost() {
        let line = Line::new();
        let place = line.enter();
        let first = place.first().await;
        line.call();
        assert!(first.called().now_or_never().is_some());
        assert!(first.called().now_or_never().is_none());
    }
}
