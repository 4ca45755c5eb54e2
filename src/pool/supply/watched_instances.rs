//! The ready instances of this node, and when each is checked next.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::clock::Millis;
use crate::instance::{Endpoint, Instance, InstanceId, State};

/// The least time between two checks of this node, on average.
const TIME_PER_CHECK: Duration = Duration::from_millis(20);

/// A ready instance of this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::pool) struct WatchedInstance {
    pub(super) endpoint: Endpoint,
    pub(super) revision: u64,
    pub(super) created_at: Millis,
    due: Instant,
}

/// The ready instances of this node, each with the time of its next check.
///
/// It may lag behind the store: an instance that is no longer ready is found so at its next check, and one that is
/// missing is added by the next garbage collection.
#[derive(Debug, Default)]
pub(in crate::pool) struct ReadyWatch(Mutex<Watched>);

#[derive(Debug, Default)]
struct Watched {
    by_id: HashMap<InstanceId, WatchedInstance>,
    by_due: BTreeSet<(Instant, InstanceId)>,
}

impl Watched {
    fn insert(&mut self, id: InstanceId, instance: WatchedInstance) {
        self.by_due.insert((instance.due, id.clone()));
        if let Some(before) = self.by_id.insert(id.clone(), instance)
            && before.due != instance.due
        {
            self.by_due.remove(&(before.due, id));
        }
    }

    fn remove(&mut self, id: &InstanceId) {
        if let Some(before) = self.by_id.remove(id) {
            self.by_due.remove(&(before.due, id.clone()));
        }
    }
}

impl ReadyWatch {
    /// Adds an instance that was offered, or does nothing if it is known. `interval` is its template's.
    pub(in crate::pool) fn add(&self, instance: &Instance, interval: Duration) {
        let State::Ready { endpoint } = *instance.state() else { return };
        let mut watched = self.0.lock();
        if watched.by_id.contains_key(instance.id()) {
            return;
        }
        let due = Instant::now() + with_jitter(interval);
        let (revision, created_at) = (instance.revision(), instance.created_at());
        watched.insert(instance.id().clone(), WatchedInstance { endpoint, revision, created_at, due });
    }

    /// Makes the list agree with all records of this node. `interval_of` returns that of an instance's template, if it has
    /// one.
    pub(in crate::pool) fn follow(
        &self,
        records: &[Instance],
        interval_of: impl Fn(&InstanceId) -> Option<Duration>,
    ) {
        let mut ready = HashSet::new();
        for record in records.iter().filter(|record| matches!(record.state(), State::Ready { .. })) {
            if let Some(interval) = interval_of(record.id()) {
                self.add(record, interval);
                ready.insert(record.id());
            }
        }
        let mut watched = self.0.lock();
        let gone: Vec<_> = watched.by_id.keys().filter(|id| !ready.contains(id)).cloned().collect();
        gone.iter().for_each(|id| watched.remove(id));
    }

    /// Removes an instance.
    pub(super) fn remove(&self, id: &InstanceId) {
        self.0.lock().remove(id);
    }

    /// Returns the instance whose check is due at `now`, and plans its next one in an hour, in case the check never
    /// plans it.
    pub(in crate::pool) fn next_due(&self, now: Instant) -> Option<(InstanceId, WatchedInstance)> {
        let mut watched = self.0.lock();
        let (_, id) = watched.by_due.first().filter(|(due, _)| *due <= now)?.clone();
        let instance = *watched.by_id.get(&id)?;
        watched.insert(id.clone(), WatchedInstance { due: now + Duration::from_secs(3600), ..instance });
        Some((id, instance))
    }

    /// Returns when the next check is due.
    pub(in crate::pool) fn first_due(&self) -> Option<Instant> {
        self.0.lock().by_due.first().map(|(due, _)| *due)
    }

    /// Plans the next check of an instance after `interval`, or later where there are very many instances.
    pub(in crate::pool) fn plan(&self, id: &InstanceId, interval: Duration) {
        let mut watched = self.0.lock();
        let many = u32::try_from(watched.by_id.len()).unwrap_or(u32::MAX);
        let interval = interval.max(TIME_PER_CHECK.saturating_mul(many));
        if let Some(instance) = watched.by_id.get(id).copied() {
            let due = Instant::now() + with_jitter(interval);
            watched.insert(id.clone(), WatchedInstance { due, ..instance });
        }
    }
}

/// Returns a time from three quarters to five quarters of `interval`.
fn with_jitter(interval: Duration) -> Duration {
    let random = f64::from(getrandom::u32().unwrap_or_default()) / f64::from(u32::MAX);
    interval.mul_f64(0.75 + random / 2.0)
}
