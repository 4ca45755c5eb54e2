//! Asks the ready instances of this node their ready check again, and replaces those that are too old.
//!
//! An app can stop answering long after its instance was offered: its process hangs, or it has begun to answer errors.
//! So each ready instance is asked at its template's interval, spread by chance, and less often where there are very
//! many. The requests go to the app itself, so they count neither as visitors nor as activity.
//!
//! One failed check decides nothing, because a busy host may cause it. After two failures in a row, or where the app
//! refuses the connection, the instance is withdrawn ([`super::withdrawn`]): no claim gets it any more.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::{max_idle_age, readiness, withdrawn};
use crate::clock::Millis;
use crate::instance::{Endpoint, Instance, InstanceId, State};
use crate::pool::Pool;
use crate::proxy::routes::RouteLookup;
use crate::telemetry::task;

/// Longest time of the first request of a check. What fails it is asked again with more time.
const FIRST_TIMEOUT: Duration = Duration::from_secs(2);
/// Time between the two requests of a check.
const SECOND_REQUEST_PAUSE: Duration = Duration::from_secs(1);
/// Most checks at the same time.
const CONCURRENT_CHECKS: usize = 32;
/// The least time between two checks of this node, on average.
const TIME_PER_CHECK: Duration = Duration::from_millis(20);
/// Longest sleep of the task, which bounds how late a new instance is noticed.
const MAX_SLEEP: Duration = Duration::from_millis(500);
/// The next check of an instance that is too old and cannot be replaced yet.
const AGED_PAUSE: Duration = Duration::from_secs(1);

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

    /// Makes the list agree with all records of this node.
    pub(in crate::pool) fn follow(&self, pool: &Pool, records: &[Instance]) {
        let mut ready = HashSet::new();
        for record in records.iter().filter(|record| matches!(record.state(), State::Ready { .. })) {
            if let Some(template) = pool.template_of(record.id()) {
                self.add(record, template.recheck_interval);
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
    fn first_due(&self) -> Option<Instant> {
        self.0.lock().by_due.first().map(|(due, _)| *due)
    }

    /// Plans the next check of an instance after `interval`, or later where there are very many instances.
    fn plan(&self, id: &InstanceId, interval: Duration) {
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

/// Checks ready instances until the pools shut down.
pub(in crate::pool) async fn run(pool: Arc<Pool>) {
    let permits = Arc::new(Semaphore::new(CONCURRENT_CHECKS));
    while !pool.stopping.is_cancelled() {
        let now = Instant::now();
        let Some((id, instance)) = pool.ready_watch.next_due(now) else {
            let next = pool.ready_watch.first_due().unwrap_or(now + MAX_SLEEP).min(now + MAX_SLEEP);
            pool.stopping.run_until_cancelled(tokio::time::sleep_until(next)).await;
            continue;
        };
        let Some(Ok(permit)) = pool.stopping.run_until_cancelled(permits.clone().acquire_owned()).await
        else {
            return;
        };
        let checking = pool.clone();
        task::spawn("pool ready check", async move {
            let stopping = checking.stopping.clone();
            stopping.run_until_cancelled(check(&checking, &id, instance)).await;
            drop(permit);
        });
    }
}

/// Checks one instance, and plans its next check.
pub(in crate::pool) async fn check(pool: &Arc<Pool>, id: &InstanceId, instance: WatchedInstance) {
    let template = pool.template_of(id).filter(|template| template.revision == instance.revision);
    // An instance of a changed template is about to be retired. One that a visitor has is the visitor's alone.
    let is_routed = matches!(pool.routes.find(id.as_str()), RouteLookup::Live(_) | RouteLookup::Ended(_));
    let Some(template) = template.filter(|_| !is_routed) else {
        return pool.ready_watch.remove(id);
    };
    if max_idle_age::is_over(pool, &template, id, instance.created_at) {
        match max_idle_age::replace(pool, &template, id).await {
            true => pool.ready_watch.remove(id),
            false => pool.ready_watch.plan(id, AGED_PAUSE),
        }
        return;
    }
    let host = pool.public_url.instance_authority(id);
    let target = readiness::AppTarget { runtime: &*pool.runtime, endpoint: instance.endpoint, host: &host };
    let Err(failure) = readiness::check_once(target, &template, FIRST_TIMEOUT).await else {
        return pool.ready_watch.plan(id, template.recheck_interval);
    };
    let mut last = failure;
    if !last.is_refused {
        tracing::debug!(%id, failure = last.what, "ready check of ready instance failed; repeating it");
        tokio::time::sleep(SECOND_REQUEST_PAUSE).await;
        match readiness::check_once(target, &template, readiness::CHECK_TIMEOUT).await {
            Ok(()) => return pool.ready_watch.plan(id, template.recheck_interval),
            Err(second) => last = second,
        }
    }
    match withdrawn::withdraw(pool, id, instance, last.what).await {
        true => pool.ready_watch.remove(id),
        false => pool.ready_watch.plan(id, template.recheck_interval),
    }
}
