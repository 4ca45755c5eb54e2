//! The ordered stream of route events: the last [`RouteLog::capacity`] of them.

use std::collections::VecDeque;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::instance::InstanceId;
use crate::store::journal::Journal;
use crate::store::{Cursor, RouteChange};

/// Most events copied under one lock, so that a far-behind reader does not hold up claims.
pub(super) const BATCH: usize = 256;

/// The lock is the innermost one: it is taken while a template's lock is held, never the other way round. That
/// makes the order of events the order of the steps, for each record.
pub(super) struct RouteLog {
    ring: Mutex<Ring>,
    capacity: usize,
    news: Notify,
    /// Where it is written down, if it is. Behind the ring's lock, so that its order is the same.
    journal: Option<Mutex<Journal>>,
}

#[derive(Default)]
struct Ring {
    events: VecDeque<RouteChange>,
    /// Cursor of the newest event.
    last: u64,
}

impl RouteLog {
    pub(super) fn new(capacity: usize, journal: Option<Journal>) -> Self {
        let journal = journal.map(Mutex::new);
        Self { ring: Mutex::default(), capacity: capacity.max(1), news: Notify::new(), journal }
    }

    /// Whether what it gets is still known after this process.
    pub(super) fn lasts(&self) -> bool {
        self.journal.is_some()
    }

    /// Appends an event. Readers learn of it with [`RouteLog::wake`], which is for after the locks.
    /// `claimed` says that it is a claim, which is to be confirmed.
    pub(super) fn push(&self, change: RouteChange, claimed: bool) -> Cursor {
        let mut ring = self.ring.lock();
        // Dropped after the lock.
        let _oldest = if ring.events.len() == self.capacity { ring.events.pop_front() } else { None };
        if let Some(journal) = &self.journal {
            journal.lock().note(&change, claimed);
        }
        ring.events.push_back(change);
        ring.last += 1;
        Cursor(ring.last)
    }

    /// The claims of these were confirmed, which only the next server has to know.
    pub(super) fn confirmed(&self, ids: &[InstanceId]) {
        if let Some(journal) = &self.journal {
            journal.lock().confirmed(ids);
        }
    }

    /// Wakes all who wait.
    pub(super) fn wake(&self) {
        self.news.notify_waiters();
    }

    /// Cursor of the newest event.
    pub(super) fn last(&self) -> Cursor {
        Cursor(self.ring.lock().last)
    }

    /// At most [`BATCH`] events after `cursor`; fewer means that there were no more. `None` is a gap: they have
    /// been dropped, or the cursor is not of this stream.
    pub(super) fn after(&self, cursor: Cursor) -> Option<Vec<(Cursor, RouteChange)>> {
        let ring = self.ring.lock();
        let dropped = ring.last - ring.events.len() as u64;
        let from = cursor.0.checked_sub(dropped)?;
        if cursor.0 > ring.last {
            return None;
        }
        let from = usize::try_from(from).ok()?;
        let news = ring.events.range(from..).take(BATCH);
        Some((cursor.0 + 1..).map(Cursor).zip(news.cloned()).collect())
    }

    /// Waits until there is something after `cursor`.
    pub(super) async fn followed(&self, cursor: Cursor) -> Option<Vec<(Cursor, RouteChange)>> {
        loop {
            // Made before the look: it is woken by every wake after this line, so none is lost between.
            let news = self.news.notified();
            match self.after(cursor) {
                Some(none) if none.is_empty() => news.await,
                found => return found,
            }
        }
    }
}
