//! All routes, and the hosts that have ended or do not exist.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::Route;
use crate::instance::{EndReason, Instance, State};
use crate::store::RouteChange;
use crate::telemetry::{Metrics, Outcome, RouteOperation};

/// How long the table remembers that a host is gone, or that the store did not know it. It must be longer than any
/// answer of the store is in progress.
const ABSENT_TTL: Duration = Duration::from_secs(5);

/// Maximum number of absent hosts that are remembered; beyond it the oldest are forgotten. Each costs about 200 bytes,
/// and any client can add one with each request.
const MAX_ABSENT_HOSTS: usize = 65_536;

/// The answer of the table for a host's label.
#[derive(Debug, Clone)]
pub enum RouteLookup {
    /// The instance is assigned.
    Live(Arc<Route>),
    /// The instance was assigned until recently, and ended for this reason.
    Ended(EndReason),
    /// No visitor has an instance with this label.
    Absent,
    /// The table does not know the host, but the store may.
    Unknown,
}

#[derive(Debug, Clone)]
enum TableEntry {
    Live(Arc<Route>),
    Ended(EndReason),
    Absent(Absence),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Absence {
    until: Instant,
    /// Until then, records up to this generation are ignored. An instance that is gone for good has
    /// [`EVERY_GENERATION`].
    generation: u64,
}

/// No record of an instance has a later generation.
const EVERY_GENERATION: u64 = u64::MAX;

/// Which host belongs to which instance. Reads take no lock.
#[derive(Debug, Default)]
pub struct RouteTable {
    entries: papaya::HashMap<Arc<str>, TableEntry>,
    /// The absent hosts, in the order in which they will be forgotten. Every writer holds this lock.
    absent: Mutex<VecDeque<(Instant, Arc<str>)>>,
    incarnations: AtomicU64,
    /// Whether a snapshot of the store was applied.
    is_filled: AtomicBool,
}

/// A moment in the table's life: which routes existed.
#[derive(Debug, Clone, Copy)]
pub struct SnapshotMark(u64);

/// The effect of a change on the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteUpdate {
    /// A host was added.
    Added,
    /// A known host changed.
    Updated,
    /// A host was removed.
    Removed,
    /// The table had the change already, or a newer one.
    Unchanged,
}

impl RouteTable {
    /// Looks up a host's label, in lower case.
    pub fn find(&self, label: &str) -> RouteLookup {
        match self.entries.pin().get(label) {
            Some(TableEntry::Live(route)) => RouteLookup::Live(route.clone()),
            Some(TableEntry::Ended(reason)) => RouteLookup::Ended(*reason),
            Some(TableEntry::Absent(absence)) if Instant::now() < absence.until => RouteLookup::Absent,
            Some(TableEntry::Absent(_)) | None => RouteLookup::Unknown,
        }
    }

    /// Returns the number of hosts in the table, ended and absent ones included.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns whether the table knows no host.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns whether a snapshot of the store was applied. Before that, the table lacks instances that were assigned
    /// before the server started.
    pub fn is_filled(&self) -> bool {
        self.is_filled.load(Ordering::Acquire)
    }

    /// Applies one change. A record that is older than what the table has is ignored.
    pub fn apply(&self, change: &RouteChange) -> RouteUpdate {
        match change {
            RouteChange::Set(instance) => self.set(instance),
            RouteChange::Gone(id) => self.mark_absent(id.as_str()),
        }
    }

    /// Applies one change as [`RouteTable::apply`] does, and counts it in the metrics unless it has no effect.
    pub fn apply_with_metrics(&self, change: &RouteChange, metrics: &Metrics) -> RouteUpdate {
        let start = Instant::now();
        let update = self.apply(change);
        let operation = match update {
            RouteUpdate::Added => RouteOperation::Add,
            RouteUpdate::Updated => RouteOperation::Update,
            RouteUpdate::Removed => RouteOperation::Remove,
            RouteUpdate::Unchanged => return update,
        };
        metrics.record_route_change(operation, Outcome::Success, start.elapsed());
        update
    }

    fn set(&self, instance: &Instance) -> RouteUpdate {
        let _one_writer = self.absent.lock();
        let entries = self.entries.pin();
        let known = entries.get(instance.id().as_str());
        let generation = instance.generation();
        match (known, instance.state()) {
            (Some(TableEntry::Absent(absence)), _)
                if generation <= absence.generation && Instant::now() < absence.until =>
            {
                RouteUpdate::Unchanged
            }
            (Some(TableEntry::Live(route)), State::Assigned { .. } | State::Ready { .. })
                if generation <= route.generation() =>
            {
                RouteUpdate::Unchanged
            }
            (Some(TableEntry::Live(route)), State::Assigned { lease, .. }) if route.belongs_to(lease) => {
                route.update(generation, lease);
                RouteUpdate::Updated
            }
            // The claim was undone: its visitor never got the instance, and the next claim has a route of its own.
            (Some(TableEntry::Live(route)), State::Ready { .. }) => {
                // The table changes before the holders of the route wake, here and below: they look the host up again.
                entries.remove(instance.id().as_str());
                route.end();
                RouteUpdate::Removed
            }
            (Some(TableEntry::Ended(_)), _) => RouteUpdate::Unchanged,
            (known, State::Assigned { endpoint, lease, .. }) => {
                let incarnation = self.incarnations.fetch_add(1, Ordering::Relaxed) + 1;
                let route = Route::new(instance, lease, *endpoint, incarnation);
                entries.insert(instance.id().shared(), TableEntry::Live(Arc::new(route)));
                if let Some(TableEntry::Live(previous)) = known {
                    previous.end();
                }
                RouteUpdate::Added
            }
            (known, State::Expired { reason, .. }) => {
                entries.insert(instance.id().shared(), TableEntry::Ended(*reason));
                if let Some(TableEntry::Live(route)) = known {
                    route.end();
                }
                RouteUpdate::Updated
            }
            (_, State::Warming | State::Ready { .. }) => RouteUpdate::Unchanged,
        }
    }

    /// Remembers for 5 seconds that there is no such instance.
    pub fn mark_absent(&self, label: &str) -> RouteUpdate {
        self.mark_absent_since(label, EVERY_GENERATION)
    }

    fn mark_absent_since(&self, label: &str, generation: u64) -> RouteUpdate {
        let now = Instant::now();
        let mut absent = self.absent.lock();
        let entries = self.entries.pin();
        while absent.front().is_some_and(|(until, _)| *until <= now) || absent.len() >= MAX_ABSENT_HOSTS {
            let Some((until, key)) = absent.pop_front() else { break };
            // Only the entry of this very mark is removed: the host may have been marked again since.
            if matches!(entries.get(&key), Some(TableEntry::Absent(absence)) if absence.until == until) {
                entries.remove(&key);
            }
        }
        let (key, until): (Arc<str>, _) = (label.into(), now + ABSENT_TTL);
        absent.push_back((until, key.clone()));
        match entries.insert(key, TableEntry::Absent(Absence { until, generation })) {
            Some(TableEntry::Live(route)) => {
                route.end();
                RouteUpdate::Removed
            }
            Some(TableEntry::Ended(_)) => RouteUpdate::Removed,
            Some(TableEntry::Absent(_)) | None => RouteUpdate::Unchanged,
        }
    }

    /// Returns a mark of the present moment, to be taken before the store is asked for a snapshot.
    pub fn mark(&self) -> SnapshotMark {
        SnapshotMark(self.incarnations.load(Ordering::Acquire))
    }

    /// Makes the table agree with a snapshot of the store. A host that the table had at `before` and that the snapshot
    /// lacks is gone. A host that came later may be newer than the snapshot, and stays.
    pub fn apply_snapshot(&self, snapshot: &[Instance], before: SnapshotMark) {
        let known: HashSet<&str> = snapshot.iter().map(|i| i.id().as_str()).collect();
        let gone: Vec<(Arc<str>, u64)> = self
            .entries
            .pin()
            .iter()
            .filter(|(label, _)| !known.contains(&***label))
            .filter_map(|(label, entry)| match entry {
                // Its claim may have been undone, so a record of a later claim must be accepted.
                TableEntry::Live(route) if route.incarnation() <= before.0 => {
                    Some((label.clone(), route.generation()))
                }
                TableEntry::Ended(_) => Some((label.clone(), EVERY_GENERATION)),
                TableEntry::Live(_) | TableEntry::Absent(_) => None,
            })
            .collect();
        for (label, generation) in gone {
            self.mark_absent_since(&label, generation);
        }
        for instance in snapshot {
            self.set(instance);
        }
        self.is_filled.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Millis;
    use crate::instance::{ClaimToken, InstanceId, NodeId, TemplateName};

    const HOUR: Duration = Duration::from_secs(3600);

    fn assigned() -> Instance {
        let id = InstanceId::random(&TemplateName::new("t").unwrap());
        Instance::warming(id, NodeId::random(), 1, Millis(0))
            .offered(([127, 0, 0, 1], 4000).into())
            .unwrap()
            .assigned(ClaimToken::random(), Millis(0), HOUR)
            .unwrap()
    }
    fn set(table: &RouteTable, instance: &Instance) -> RouteUpdate {
        table.apply(&RouteChange::Set(instance.clone()))
    }
    fn live(table: &RouteTable, instance: &Instance) -> Arc<Route> {
        match table.find(instance.id().as_str()) {
            RouteLookup::Live(route) => route,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_extension_reaches_the_holders_of_the_route() {
        let (table, instance) = (RouteTable::default(), assigned());
        assert_eq!(set(&table, &instance), RouteUpdate::Added);
        let held = live(&table, &instance);
        let longer = instance.extended(HOUR, HOUR * 3, Millis(1)).unwrap().unwrap();
        assert_eq!(set(&table, &longer), RouteUpdate::Updated);
        assert_eq!(held.deadline(), Millis(0) + HOUR * 2);
        assert_eq!(set(&table, &instance), RouteUpdate::Unchanged, "an older record is ignored");
        assert_eq!(held.deadline(), Millis(0) + HOUR * 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_record_does_not_bring_back_a_host_that_is_gone() {
        let (table, instance) = (RouteTable::default(), assigned());
        set(&table, &instance);
        let held = live(&table, &instance);
        assert_eq!(table.apply(&RouteChange::Gone(instance.id().clone())), RouteUpdate::Removed);
        held.ended().await;
        assert_eq!(set(&table, &instance), RouteUpdate::Unchanged);
        assert!(matches!(table.find(instance.id().as_str()), RouteLookup::Absent));
        tokio::time::advance(ABSENT_TTL).await;
        assert!(matches!(table.find(instance.id().as_str()), RouteLookup::Unknown));
    }

    #[tokio::test(start_paused = true)]
    async fn an_instance_whose_claim_was_undone_has_no_route_until_the_next_claim() {
        let (table, first) = (RouteTable::default(), assigned());
        set(&table, &first);
        let held = live(&table, &first);
        let undone = first.claim_undone(Millis(1)).unwrap();
        assert_eq!(set(&table, &undone), RouteUpdate::Removed);
        held.ended().await;
        assert!(matches!(table.find(first.id().as_str()), RouteLookup::Unknown));
        let second = undone.assigned(ClaimToken::random(), Millis(2), HOUR).unwrap();
        assert_eq!(set(&table, &second), RouteUpdate::Added);
        assert_eq!(set(&table, &undone), RouteUpdate::Unchanged, "a late record");
        assert_eq!(set(&table, &first), RouteUpdate::Unchanged, "an even later record");
        assert_ne!(live(&table, &second).incarnation(), held.incarnation());
    }

    #[tokio::test(start_paused = true)]
    async fn a_claim_after_an_undone_one_is_applied_even_if_the_undo_was_missed() {
        let (table, first) = (RouteTable::default(), assigned());
        let undone = first.claim_undone(Millis(1)).unwrap();
        let second = undone.assigned(ClaimToken::random(), Millis(2), HOUR).unwrap();
        set(&table, &first);
        let held = live(&table, &first);
        assert_eq!(set(&table, &second), RouteUpdate::Added);
        held.ended().await;

        let (table, mark) = (RouteTable::default(), RouteTable::default().mark());
        table.apply_snapshot(&[], mark);
        set(&table, &first);
        table.apply_snapshot(&[], table.mark());
        assert_eq!(set(&table, &first), RouteUpdate::Unchanged);
        assert_eq!(set(&table, &second), RouteUpdate::Added);
    }

    #[tokio::test(start_paused = true)]
    async fn an_expired_instance_is_distinguished_from_an_unknown_one() {
        let (table, instance) = (RouteTable::default(), assigned());
        set(&table, &instance);
        let held = live(&table, &instance);
        set(&table, &instance.expired(Millis(0) + HOUR).unwrap());
        held.ended().await;
        assert!(matches!(table.find(instance.id().as_str()), RouteLookup::Ended(EndReason::Expired)));
        assert_eq!(set(&table, &instance), RouteUpdate::Unchanged);
    }

    #[tokio::test(start_paused = true)]
    async fn incarnations_differ_even_at_the_same_address() {
        let (table, a, b) = (RouteTable::default(), assigned(), assigned());
        set(&table, &a);
        set(&table, &b);
        assert_eq!(live(&table, &a).endpoint(), live(&table, &b).endpoint());
        assert_ne!(live(&table, &a).incarnation(), live(&table, &b).incarnation());
    }

    #[tokio::test(start_paused = true)]
    async fn a_snapshot_removes_hosts_that_it_lacks_and_keeps_the_rest() {
        let (table, a, b, c) = (RouteTable::default(), assigned(), assigned(), assigned());
        set(&table, &a);
        set(&table, &b);
        let kept = live(&table, &b);
        let mark = table.mark();
        let younger = assigned();
        set(&table, &younger);
        table.apply_snapshot(&[b.clone(), c.clone()], mark);
        live(&table, &younger);
        assert!(matches!(table.find(a.id().as_str()), RouteLookup::Absent));
        assert!(Arc::ptr_eq(&kept, &live(&table, &b)));
        live(&table, &c);
    }

    #[tokio::test(start_paused = true)]
    async fn clients_cannot_fill_the_memory_with_hosts_that_do_not_exist() {
        let table = RouteTable::default();
        for i in 0..MAX_ABSENT_HOSTS + 100 {
            table.mark_absent(&format!("t-{i}"));
        }
        assert!(table.len() <= MAX_ABSENT_HOSTS);
    }
}
