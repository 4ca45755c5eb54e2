//! The table.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock::Millis;
use crate::instance::{ClaimToken, EndReason, Endpoint, Instance, InstanceId, NodeId, State};
use crate::store::RouteChange;

/// How long a host that is gone, or that the store did not know, is remembered as such. It only has to be longer
/// than an answer of the store can be under way.
const ABSENT_FOR: Duration = Duration::from_secs(5);

/// Most absent hosts remembered; beyond it the oldest are forgotten. Each costs about 200 bytes, and a stranger
/// can make us remember one with each request.
const MAX_ABSENT: usize = 65_536;

/// The way to one assigned instance.
#[derive(Debug)]
pub struct Route {
    id: InstanceId,
    node: NodeId,
    incarnation: u64,
    /// Of the claim that it belongs to: one that was taken back may be followed by another of the same instance.
    token: ClaimToken,
    endpoint: Endpoint,
    generation: AtomicU64,
    deadline: AtomicU64,
    used: AtomicBool,
    ended: CancellationToken,
}

impl Route {
    /// Whose route it is.
    pub fn id(&self) -> &InstanceId {
        &self.id
    }

    /// The server that runs it, and the only one that can reach its endpoint.
    pub fn node(&self) -> &NodeId {
        &self.node
    }

    /// Where its app listens, as its own server knows it.
    pub fn endpoint(&self) -> Endpoint {
        self.endpoint
    }

    /// Unique among all routes of this process, so that no connection made for one instance serves another that
    /// later gets the same address.
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// When the visitor's time is over; it may move while the route is held.
    pub fn deadline(&self) -> Millis {
        Millis(self.deadline.load(Ordering::Acquire))
    }

    /// Whether anybody has come by this route, or asked for the instance by its name.
    pub fn is_used(&self) -> bool {
        self.used.load(Ordering::Relaxed)
    }

    /// Somebody does. True for the first.
    pub fn uses(&self) -> bool {
        // Looked at first: to write what is written already would take the line from the other processors.
        !self.is_used() && !self.used.swap(true, Ordering::Relaxed)
    }

    /// Done when the instance is no longer the visitor's, for whatever reason.
    pub async fn ended(&self) {
        self.ended.cancelled().await;
    }
}

/// What the table knows of a host label.
#[derive(Debug, Clone)]
pub enum Found {
    /// An assigned instance.
    Live(Arc<Route>),
    /// An instance that was somebody's until a short while ago.
    Ended(EndReason),
    /// Surely no instance.
    Absent,
    /// The table cannot tell; the store can.
    Unknown,
}

#[derive(Debug, Clone)]
enum Entry {
    Live(Arc<Route>),
    Ended(EndReason),
    Absent(Absence),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Absence {
    until: Instant,
    /// Nothing older is believed meanwhile. What is gone for good has no later generation.
    generation: u64,
}

/// Older than this is all that there ever was of an instance.
const FOR_GOOD: u64 = u64::MAX;

/// See the module. Reads take no lock.
#[derive(Debug, Default)]
pub struct RouteTable {
    entries: papaya::HashMap<Arc<str>, Entry>,
    /// Writers, one at a time, and the absent hosts in the order they will be forgotten.
    absent: Mutex<std::collections::VecDeque<(Instant, Arc<str>)>>,
    incarnations: AtomicU64,
}

/// A moment in the table's life: which routes existed.
#[derive(Debug, Clone, Copy)]
pub struct Mark(u64);

/// What a change did to the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// A new host.
    Added,
    /// A known host changed.
    Updated,
    /// A host was removed.
    Removed,
    /// The table knew as much already.
    Nothing,
}

impl RouteTable {
    /// What is known of a lower-case host label.
    pub fn find(&self, label: &str) -> Found {
        match self.entries.pin().get(label) {
            Some(Entry::Live(route)) => Found::Live(route.clone()),
            Some(Entry::Ended(ending)) => Found::Ended(*ending),
            Some(Entry::Absent(absence)) if Instant::now() < absence.until => Found::Absent,
            Some(Entry::Absent(_)) | None => Found::Unknown,
        }
    }

    /// Hosts with a route, ended ones included.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no host is known.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Takes over one change. Of a host that is gone, nothing older is believed.
    pub fn apply(&self, change: &RouteChange) -> Applied {
        match change {
            RouteChange::Set(instance) => self.set(instance),
            RouteChange::Gone(id) => self.mark_absent(id.as_str()),
        }
    }

    fn set(&self, instance: &Instance) -> Applied {
        let _one_writer = self.absent.lock();
        let entries = self.entries.pin();
        let known = entries.get(instance.id().as_str());
        let generation = instance.generation();
        match (known, instance.life()) {
            (Some(Entry::Absent(absence)), _)
                if generation <= absence.generation && Instant::now() < absence.until =>
            {
                Applied::Nothing
            }
            (Some(Entry::Live(route)), State::Assigned { .. } | State::Ready { .. })
                if generation <= route.generation.load(Ordering::Acquire) =>
            {
                Applied::Nothing
            }
            (Some(Entry::Live(route)), State::Assigned { lease, .. }) if route.token == lease.token() => {
                route.generation.store(generation, Ordering::Release);
                route.deadline.store(lease.deadline().0, Ordering::Release);
                Applied::Updated
            }
            // It was taken back: nobody was told of it, and the next who gets it is nobody's successor.
            (Some(Entry::Live(route)), State::Ready { .. }) => {
                route.ended.cancel();
                entries.remove(instance.id().as_str());
                Applied::Removed
            }
            (Some(Entry::Ended(_)), _) => Applied::Nothing,
            (known, State::Assigned { endpoint, lease }) => {
                if let Some(Entry::Live(before)) = known {
                    before.ended.cancel();
                }
                let route = Route {
                    id: instance.id().clone(),
                    node: instance.node().clone(),
                    token: lease.token(),
                    incarnation: self.incarnations.fetch_add(1, Ordering::Relaxed) + 1,
                    endpoint: *endpoint,
                    generation: AtomicU64::new(generation),
                    deadline: AtomicU64::new(lease.deadline().0),
                    used: AtomicBool::new(false),
                    ended: CancellationToken::new(),
                };
                entries.insert(instance.id().shared(), Entry::Live(Arc::new(route)));
                Applied::Added
            }
            (known, State::Expired { ending, .. }) => {
                if let Some(Entry::Live(route)) = known {
                    route.ended.cancel();
                }
                entries.insert(instance.id().shared(), Entry::Ended(*ending));
                Applied::Updated
            }
            (_, State::Warming | State::Ready { .. }) => Applied::Nothing,
        }
    }

    /// Remembers for a short while that there is no such instance.
    pub fn mark_absent(&self, label: &str) -> Applied {
        self.mark_absent_since(label, FOR_GOOD)
    }

    fn mark_absent_since(&self, label: &str, generation: u64) -> Applied {
        let now = Instant::now();
        let mut absent = self.absent.lock();
        let entries = self.entries.pin();
        while absent.front().is_some_and(|(until, _)| *until <= now) || absent.len() >= MAX_ABSENT {
            let Some((until, key)) = absent.pop_front() else { break };
            // Only what this very mark left: the host may have been marked again since.
            if matches!(entries.get(&key), Some(Entry::Absent(absence)) if absence.until == until) {
                entries.remove(&key);
            }
        }
        let (key, until): (Arc<str>, _) = (label.into(), now + ABSENT_FOR);
        absent.push_back((until, key.clone()));
        match entries.insert(key, Entry::Absent(Absence { until, generation })) {
            Some(Entry::Live(route)) => {
                route.ended.cancel();
                Applied::Removed
            }
            Some(Entry::Ended(_)) => Applied::Removed,
            Some(Entry::Absent(_)) | None => Applied::Nothing,
        }
    }

    /// A mark to take before a snapshot is asked of the store.
    pub fn mark(&self) -> Mark {
        Mark(self.incarnations.load(Ordering::Acquire))
    }

    /// Makes the table agree with a snapshot of the store: a host that stood in the table at `before` and that the
    /// snapshot lacks is gone. A host that came later may simply be younger than the snapshot, and stays.
    pub fn replace(&self, snapshot: &[Instance], before: Mark) {
        let known: std::collections::HashSet<&str> = snapshot.iter().map(|i| i.id().as_str()).collect();
        let gone: Vec<(Arc<str>, u64)> = self
            .entries
            .pin()
            .iter()
            .filter(|(label, _)| !known.contains(&***label))
            .filter_map(|(label, entry)| match entry {
                // It may have been taken back, and be claimed again.
                Entry::Live(route) if route.incarnation <= before.0 => {
                    Some((label.clone(), route.generation.load(Ordering::Acquire)))
                }
                Entry::Ended(_) => Some((label.clone(), FOR_GOOD)),
                Entry::Live(_) | Entry::Absent(_) => None,
            })
            .collect();
        for (label, generation) in gone {
            self.mark_absent_since(&label, generation);
        }
        for instance in snapshot {
            self.set(instance);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::{ClaimToken, TemplateName};

    const HOUR: Duration = Duration::from_secs(3600);

    fn assigned() -> Instance {
        let id = InstanceId::random(&TemplateName::new("t").unwrap());
        Instance::warming(id, NodeId::random(), 1, Millis(0))
            .offered(([127, 0, 0, 1], 4000).into())
            .unwrap()
            .assigned(ClaimToken::random(), Millis(0), HOUR)
            .unwrap()
    }
    fn set(table: &RouteTable, instance: &Instance) -> Applied {
        table.apply(&RouteChange::Set(instance.clone()))
    }
    fn live(table: &RouteTable, instance: &Instance) -> Arc<Route> {
        match table.find(instance.id().as_str()) {
            Found::Live(route) => route,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_extension_reaches_those_who_hold_the_route() {
        let (table, instance) = (RouteTable::default(), assigned());
        assert_eq!(set(&table, &instance), Applied::Added);
        let held = live(&table, &instance);
        let longer = instance.extended(HOUR, HOUR * 3, Millis(1)).unwrap().unwrap();
        assert_eq!(set(&table, &longer), Applied::Updated);
        assert_eq!(held.deadline(), Millis(0) + HOUR * 2);
        assert_eq!(set(&table, &instance), Applied::Nothing, "an older record is not believed");
        assert_eq!(held.deadline(), Millis(0) + HOUR * 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_that_is_gone_is_not_brought_back_by_a_late_answer() {
        let (table, instance) = (RouteTable::default(), assigned());
        set(&table, &instance);
        let held = live(&table, &instance);
        assert_eq!(table.apply(&RouteChange::Gone(instance.id().clone())), Applied::Removed);
        held.ended().await;
        assert_eq!(set(&table, &instance), Applied::Nothing);
        assert!(matches!(table.find(instance.id().as_str()), Found::Absent));
        tokio::time::advance(ABSENT_FOR).await;
        assert!(matches!(table.find(instance.id().as_str()), Found::Unknown));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_was_taken_back_leads_nowhere_until_it_is_anothers() {
        let (table, first) = (RouteTable::default(), assigned());
        set(&table, &first);
        let held = live(&table, &first);
        let back = first.taken_back(Millis(1)).unwrap();
        assert_eq!(set(&table, &back), Applied::Removed);
        held.ended().await;
        assert!(matches!(table.find(first.id().as_str()), Found::Unknown));
        let second = back.assigned(ClaimToken::random(), Millis(2), HOUR).unwrap();
        assert_eq!(set(&table, &second), Applied::Added);
        assert_eq!(set(&table, &back), Applied::Nothing, "late news");
        assert_eq!(set(&table, &first), Applied::Nothing, "later news");
        assert_ne!(live(&table, &second).incarnation(), held.incarnation());
    }

    #[tokio::test(start_paused = true)]
    async fn a_claim_after_one_that_was_taken_back_is_believed_though_nobody_told_of_that() {
        let (table, first) = (RouteTable::default(), assigned());
        let back = first.taken_back(Millis(1)).unwrap();
        let second = back.assigned(ClaimToken::random(), Millis(2), HOUR).unwrap();
        set(&table, &first);
        let held = live(&table, &first);
        assert_eq!(set(&table, &second), Applied::Added);
        held.ended().await;

        let (table, mark) = (RouteTable::default(), RouteTable::default().mark());
        table.replace(&[], mark);
        set(&table, &first);
        table.replace(&[], table.mark());
        assert_eq!(set(&table, &first), Applied::Nothing);
        assert_eq!(set(&table, &second), Applied::Added);
    }

    #[tokio::test(start_paused = true)]
    async fn an_expired_instance_is_told_from_an_unknown_one() {
        let (table, instance) = (RouteTable::default(), assigned());
        set(&table, &instance);
        let held = live(&table, &instance);
        set(&table, &instance.expired(Millis(0) + HOUR).unwrap());
        held.ended().await;
        assert!(matches!(table.find(instance.id().as_str()), Found::Ended(EndReason::Expired)));
        assert_eq!(set(&table, &instance), Applied::Nothing);
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
    async fn a_snapshot_removes_what_it_lacks_and_keeps_the_rest() {
        let (table, a, b, c) = (RouteTable::default(), assigned(), assigned(), assigned());
        set(&table, &a);
        set(&table, &b);
        let kept = live(&table, &b);
        let mark = table.mark();
        let younger = assigned();
        set(&table, &younger);
        table.replace(&[b.clone(), c.clone()], mark);
        live(&table, &younger);
        assert!(matches!(table.find(a.id().as_str()), Found::Absent));
        assert!(Arc::ptr_eq(&kept, &live(&table, &b)));
        live(&table, &c);
    }

    #[tokio::test(start_paused = true)]
    async fn strangers_cannot_fill_the_memory_with_hosts_that_do_not_exist() {
        let table = RouteTable::default();
        for i in 0..MAX_ABSENT + 100 {
            table.mark_absent(&format!("t-{i}"));
        }
        assert!(table.len() <= MAX_ABSENT);
    }
}
