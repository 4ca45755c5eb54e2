//! The ordered stream of route events, in memory.

use std::collections::VecDeque;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::instance::{Instance, InstanceId, State};
use crate::store::journal::Journal;
use crate::store::{Cursor, RouteChange};

/// Most events read under one lock, so that a reader that lags far behind does not delay claims.
pub(super) const EVENTS_PER_BATCH: usize = 256;

/// The newest route events, up to a fixed number, and the journal of them.
///
/// Its lock is the innermost one: it is taken while a template's lock is held, never the other way round. So for each
/// record the order of the events is the order of the steps.
pub(super) struct RouteLog {
    ring: Mutex<Ring>,
    capacity: usize,
    /// Notified when there may be new events.
    appended: Notify,
    /// Written under the ring's lock, so that its lines are in the order of the events.
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
        Self { ring: Mutex::default(), capacity: capacity.max(1), appended: Notify::new(), journal }
    }

    /// Whether the events are written to a journal.
    pub(super) fn has_journal(&self) -> bool {
        self.journal.is_some()
    }

    /// Appends an event. `is_claim` says that it is a claim, which is unconfirmed. The caller wakes the readers with
    /// [`RouteLog::wake`] after it has released its locks.
    pub(super) fn push(&self, change: RouteChange, is_claim: bool) -> Cursor {
        let (cursor, _dropped_without_lock) = {
            let mut ring = self.ring.lock();
            let oldest = if ring.events.len() == self.capacity { ring.events.pop_front() } else { None };
            if let Some(journal) = &self.journal {
                journal.lock().record_change(&change, is_claim);
            }
            ring.events.push_back(change);
            ring.last += 1;
            (Cursor(ring.last), oldest)
        };
        cursor
    }

    /// Writes to the journal that an instance became ready, or that one is warming again. There is no route event for it.
    pub(super) fn record_unrouted(&self, instance: &Instance) {
        match instance.state() {
            State::Ready { .. } => self.record(&RouteChange::Set(instance.clone())),
            _ => self.record_unready(instance.id()),
        }
    }

    /// Writes to the journal that an instance is ready no more and nothing else either.
    pub(super) fn record_unready(&self, id: &InstanceId) {
        self.record(&RouteChange::Gone(id.clone()));
    }

    fn record(&self, change: &RouteChange) {
        if let Some(journal) = &self.journal {
            journal.lock().record_change(change, false);
        }
    }

    /// Writes to the journal that these claims were confirmed. There is no route event for it.
    pub(super) fn record_confirmed(&self, ids: &[InstanceId]) {
        if let Some(journal) = &self.journal {
            journal.lock().record_confirmed(ids);
        }
    }

    /// Wakes all readers that wait for an event.
    pub(super) fn wake(&self) {
        self.appended.notify_waiters();
    }

    /// Returns the cursor of the newest event.
    pub(super) fn last(&self) -> Cursor {
        Cursor(self.ring.lock().last)
    }

    /// Returns at most [`EVENTS_PER_BATCH`] events after `cursor`; fewer means that there were no more. `None` is a
    /// gap: the events have been dropped, or the cursor is not of this stream.
    pub(super) fn after(&self, cursor: Cursor) -> Option<Vec<(Cursor, RouteChange)>> {
        let ring = self.ring.lock();
        let dropped = ring.last - ring.events.len() as u64;
        let from = cursor.0.checked_sub(dropped)?;
        if cursor.0 > ring.last {
            return None;
        }
        let from = usize::try_from(from).ok()?;
        let events = ring.events.range(from..).take(EVENTS_PER_BATCH);
        Some((cursor.0 + 1..).map(Cursor).zip(events.cloned()).collect())
    }

    /// Waits until there is an event after `cursor`, and returns what [`RouteLog::after`] does. Cancel safe.
    pub(super) async fn wait_after(&self, cursor: Cursor) -> Option<Vec<(Cursor, RouteChange)>> {
        loop {
            // Created before the check: each wake after this line wakes it, so none is missed in between.
            let appended = self.appended.notified();
            match self.after(cursor) {
                Some(none) if none.is_empty() => appended.await,
                found => return found,
            }
        }
    }
}
