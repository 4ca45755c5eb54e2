//! The ready instances of this node, and when each is checked next.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::clock::Millis;
use crate::instance::{Endpoint, Instance, InstanceId, State};

/// The least time between two checks of this node, on average.
const TIME_PER_CHECK: Duration = Duration::from_millis(20);

/// How long an instance waits for a visitor before it is sorted in.
const SORT_IN_AFTER: Duration = Duration::from_millis(500);

/// A ready instance of this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::pool) struct WatchedInstance {
    pub(super) endpoint: Endpoint,
    pub(super) revision: u64,
    pub(super) created_at: Millis,
    due: Instant,
}

impl WatchedInstance {
    /// Returns an instance that is due then; `None` if it is not ready.
    fn of(instance: &Instance, due: Instant) -> Option<Self> {
        let State::Ready { endpoint } = *instance.state() else { return None };
        Some(Self { endpoint, revision: instance.revision(), created_at: instance.created_at(), due })
    }
}

/// The ready instances of this node, each with the time of its next check.
///
/// It may lag behind the store: an instance that is no longer ready is found so at its next check, and one that is
/// missing is added by the next garbage collection. Most instances of a busy pool are assigned before their first check,
/// so what is offered costs an entry in a list, and is sorted in only while it still waits ([`ReadyWatch::sort_in`]).
#[derive(Debug, Default)]
pub(in crate::pool) struct ReadyWatch(Mutex<Watched>);

#[derive(Debug, Default)]
struct Watched {
    /// What was offered and not yet sorted in, in the order of the offers, with their times.
    offered: VecDeque<(Instant, InstanceId, WatchedInstance)>,
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

    /// Adds an instance that is not known, at about the time when it is due.
    fn insert_new(&mut self, id: InstanceId, instance: WatchedInstance, now: Instant) {
        if !self.by_id.contains_key(&id) {
            let due = now + with_jitter(instance.due.saturating_duration_since(now));
            self.insert(id, WatchedInstance { due, ..instance });
        }
    }

    fn remove(&mut self, id: &InstanceId) {
        if let Some(before) = self.by_id.remove(id) {
            self.by_due.remove(&(before.due, id.clone()));
        }
    }
}

impl ReadyWatch {
    /// Adds an instance that was offered. `interval` is its template's.
    pub(in crate::pool) fn add(&self, instance: &Instance, interval: Duration) {
        let now = Instant::now();
        if let Some(watched) = WatchedInstance::of(instance, now + interval) {
            self.0.lock().offered.push_back((now, instance.id().clone(), watched));
        }
    }

    /// Plans the first check of what was offered half a second before `now` or earlier, unless it is known or no longer
    /// waits for a visitor.
    pub(in crate::pool) fn sort_in(&self, now: Instant, waits: impl Fn(&InstanceId) -> bool) {
        while let Some((id, instance)) = self.next_offered(now) {
            if waits(&id) {
                self.0.lock().insert_new(id, instance, now);
            }
        }
    }

    fn next_offered(&self, now: Instant) -> Option<(InstanceId, WatchedInstance)> {
        let mut watched = self.0.lock();
        watched
            .offered
            .pop_front_if(|(at, ..)| *at + SORT_IN_AFTER <= now)
            .map(|(_, id, instance)| (id, instance))
    }

    /// Makes the list agree with all records of this node. `interval_of` returns that of an instance's template, if it has
    /// one.
    pub(in crate::pool) fn follow(
        &self,
        records: &[Instance],
        interval_of: impl Fn(&InstanceId) -> Option<Duration>,
    ) {
        let (mut ready, now) = (HashSet::new(), Instant::now());
        for record in records.iter().filter(|record| matches!(record.state(), State::Ready { .. })) {
            let Some(interval) = interval_of(record.id()) else { continue };
            if let Some(instance) = WatchedInstance::of(record, now + interval) {
                self.0.lock().insert_new(record.id().clone(), instance, now);
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
