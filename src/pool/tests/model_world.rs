//! The world of the model: a pool, its visitors, and what they know. The model knows only what visitors and the
//! operator did and which answers they got; everything else is checked against that.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::JoinHandle;

use super::fixture::{START, pool, template, templates};
use super::test_runtime::TestRuntime;
use super::test_store::TestStore;
use crate::clock::{Clock, Millis};
use crate::instance::{
    EndReason, Instance, InstanceId, NodeId, RETENTION, State, check, check_step, check_step_or_claim_undone,
};
use crate::pool::{Acquired, Asker, Pool};
use crate::proxy::routes::RouteLookup;
use crate::store::{Store as _, StoreError, Visitor};
use crate::template::Templates;

pub(super) const NAMES: [&str; 2] = ["a", "b"];
/// The clock moves by at most this while tasks wait, so that no task is late by more.
const TICK: Duration = Duration::from_millis(50);
/// How long after its deadline an app may run before it is being stopped.
const LATENESS: Duration = Duration::from_millis(300);
const TTL: Duration = Duration::from_secs(5);
const MAX_TTL: Duration = Duration::from_secs(12);
/// How long a start takes, and a stop.
const TAKES: Duration = Duration::from_millis(30);

/// A template as the operator configured it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Configured {
    pub(super) revision: u64,
    pub(super) target: usize,
    pub(super) max: usize,
}

/// What a visitor view of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum VisitorView {
    Has { since: Millis, until: Millis },
    Released,
    Ended { at: Millis, reason: EndReason },
}

/// What the visitors know together. The task of each visitor updates it at the moment of its answer.
#[derive(Default)]
struct VisitorLog {
    /// All instances that were ever assigned.
    assigned: HashMap<InstanceId, VisitorView>,
    /// The same instances in the order of their assignment.
    order: Vec<InstanceId>,
    /// Instances whose death is known to the server.
    dead: HashSet<InstanceId>,
    /// The revisions that may be assigned, by template.
    revisions: HashMap<&'static str, HashSet<u64>>,
    /// The numbers of the waiting visitors, by template, in the order of their arrival.
    waiting: HashMap<&'static str, BTreeSet<u64>>,
    violations: Vec<String>,
}

/// An acquire in progress.
struct Visit {
    template: &'static str,
    number: u64,
    task: JoinHandle<()>,
}

/// One server process, on a tokio runtime that ends with it as a crash ends a process.
struct Server {
    pool: Arc<Pool>,
    tokio: tokio::runtime::Runtime,
}

/// The pool, its surroundings and its visitors.
pub(super) struct World {
    clock: Clock,
    store: Arc<TestStore>,
    runtime: Arc<TestRuntime>,
    node: NodeId,
    server: Server,
    log: Arc<Mutex<VisitorLog>>,
    configured: HashMap<&'static str, Configured>,
    /// The capacities. A smaller one holds from the next rest on, for attempts may be in progress.
    capacities: HashMap<&'static str, usize>,
    visits: Vec<Visit>,
    visitors: u64,
    /// Acquires that were abandoned; each may have left an assigned instance of which no visitor knows.
    abandoned: usize,
    /// The records at the last check.
    seen: HashMap<InstanceId, Instance>,
    /// The instances that had been assigned by then.
    known: HashSet<InstanceId>,
}

fn templates_of(configured: &HashMap<&'static str, Configured>) -> Templates {
    let mut list = Vec::new();
    for name in NAMES {
        if let Some(Configured { revision, target, max }) = configured.get(name) {
            list.push(template(name, *revision, *target, *max));
        }
    }
    templates(list)
}

fn start(
    clock: &Clock,
    store: &Arc<TestStore>,
    runtime: &Arc<TestRuntime>,
    node: &NodeId,
    configured: &HashMap<&'static str, Configured>,
) -> Server {
    let tokio =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let pool = pool(store, runtime, clock, node, templates_of(configured));
    tokio.block_on(pool.run());
    Server { pool, tokio }
}

impl VisitorLog {
    fn expect(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.violations.push(what());
        }
    }

    /// Notes that a visitor got an instance at this very moment.
    fn served(&mut self, name: &'static str, number: Option<u64>, acquired: Acquired, now: Millis) {
        let Acquired { instance, delivery, .. } = acquired;
        delivery.complete();
        let id = instance.id().clone();
        let Some(lease) = instance.lease() else { return self.violations.push(format!("{id} has no lease")) };
        let (since, until) = (lease.assigned_at(), lease.deadline());
        self.expect(id.template() == name, || format!("{id} is no {name}"));
        self.expect(!self.assigned.contains_key(&id), || format!("{id} was assigned twice"));
        self.expect(!self.dead.contains(&id), || format!("{id} was dead when it was assigned"));
        let wanted = self.revisions.get(name).is_some_and(|all| all.contains(&instance.revision()));
        self.expect(wanted, || format!("{id} was outdated when it was assigned"));
        self.expect((since, until) == (now, now + TTL), || format!("{id} for {since} to {until}"));
        if let Some(number) = number {
            let first = self.waiting.get(name).and_then(BTreeSet::first).copied();
            self.expect(first.is_none_or(|first| first >= number), || {
                format!("{number} was served before {first:?}")
            });
        }
        self.order.push(id.clone());
        self.assigned.insert(id, VisitorView::Has { since, until });
    }

    fn leaves(&mut self, name: &'static str, number: u64) {
        self.waiting.entry(name).or_default().remove(&number);
    }
}

impl World {
    pub(super) fn new(configured: HashMap<&'static str, Configured>, bakes: bool) -> Self {
        let clock = Clock::manual(START);
        let store = Arc::new(TestStore::new(clock.clone()));
        let runtime = Arc::new(TestRuntime::new(None, TAKES));
        runtime.bakes.store(bakes, Ordering::SeqCst);
        let node = NodeId::parse("n").unwrap();
        let server = start(&clock, &store, &runtime, &node, &configured);
        let log = VisitorLog {
            revisions: configured
                .iter()
                .map(|(name, configured)| (*name, [configured.revision].into()))
                .collect(),
            ..VisitorLog::default()
        };
        let mut world = Self {
            clock,
            store,
            runtime,
            node,
            server,
            log: Arc::new(Mutex::new(log)),
            capacities: configured.iter().map(|(name, configured)| (*name, configured.max)).collect(),
            configured,
            visits: Vec::new(),
            visitors: 0,
            abandoned: 0,
            seen: HashMap::new(),
            known: HashSet::new(),
        };
        world.pause();
        world
    }

    /// Lets a millisecond pass, and each task run as far as it can.
    fn pause(&mut self) {
        self.advance(Duration::from_millis(1));
    }

    /// Lets each task run as far as it can while no time passes: each call to the store takes a few turns of the
    /// scheduler.
    fn settle(&self) {
        self.server.tokio.block_on(async {
            for _ in 0..40 {
                tokio::task::yield_now().await;
            }
        });
    }

    pub(super) fn advance(&mut self, by: Duration) {
        let mut left = by;
        // Long waits in bigger steps: lateness is checked in the short ones.
        let tick = match by.as_secs() {
            0..3 => TICK,
            3..60 => TICK * 5,
            60.. => TICK * 100,
        };
        while !left.is_zero() {
            let step = left.min(tick);
            left -= step;
            self.clock.advance(step);
            self.server.tokio.block_on(async { tokio::time::sleep(step).await });
            self.settle();
        }
        let now = self.clock.now();
        let mut log = self.log.lock();
        for view in log.assigned.values_mut() {
            if let VisitorView::Has { until, .. } = *view
                && until <= now
            {
                *view = VisitorView::Ended { at: until, reason: EndReason::Expired };
            }
        }
    }

    /// Begins an acquire. Returns when the visitor got an instance, was refused, or waits in the queue.
    pub(super) fn acquire(&mut self, name: &'static str) {
        self.visitors += 1;
        let (number, pool, log) = (self.visitors, self.server.pool.clone(), self.log.clone());
        self.log.lock().waiting.entry(name).or_default().insert(number);
        let clock = self.clock.clone();
        let visit = async move {
            let answer = pool.claims.acquire(name, Visitor::new(number.to_string())).await;
            let mut log = log.lock();
            if let Ok(acquired) = answer {
                log.served(name, Some(number), acquired, clock.now());
            }
            log.leaves(name, number);
        };
        let runtime = self.server.tokio.enter();
        let task = crate::telemetry::task::spawn("visit", visit);
        drop(runtime);
        self.visits.push(Visit { template: name, number, task });
        self.settle();
        self.visits.retain(|visit| !visit.task.is_finished());
    }

    /// Makes a visitor leave in the middle of an acquire.
    pub(super) fn abandon(&mut self, which: usize) {
        if self.visits.is_empty() {
            return;
        }
        let visit = self.visits.swap_remove(which % self.visits.len());
        visit.task.abort();
        self.server.tokio.block_on(async { visit.task.await.ok() });
        self.log.lock().leaves(visit.template, visit.number);
        self.abandoned += 1;
    }

    /// Begins an acquire whose future is dropped after so many polls.
    pub(super) fn lose(&mut self, name: &'static str, polls: usize) {
        let pool = self.server.pool.clone();
        let answer = self.server.tokio.block_on(async {
            let mut acquire = Box::pin(pool.claims.acquire(name, Visitor::new("lost")));
            for _ in 0..polls {
                if let std::task::Poll::Ready(answer) = futures_util::poll!(&mut acquire) {
                    return Some(answer);
                }
                tokio::task::yield_now().await;
            }
            None
        });
        match answer {
            None => self.abandoned += 1,
            Some(Ok(acquired)) => self.log.lock().served(name, None, acquired, self.clock.now()),
            Some(Err(_)) => {}
        }
    }

    /// Returns one of all instances that were ever assigned.
    fn one(&self, which: usize) -> Option<(InstanceId, VisitorView)> {
        let log = self.log.lock();
        let id = &log.order[which.checked_rem(log.order.len())?];
        Some((id.clone(), log.assigned[id]))
    }

    fn set_view(&self, id: &InstanceId, view: VisitorView) {
        self.log.lock().assigned.insert(id.clone(), view);
    }

    pub(super) fn release(&mut self, which: usize) {
        let Some((id, view)) = self.one(which) else { return };
        let answer = self.server.tokio.block_on(self.server.pool.instances.release(&id, Asker::Trusted));
        match view {
            VisitorView::Has { .. } => {
                assert_eq!(answer.unwrap().id(), &id);
                self.set_view(&id, VisitorView::Released);
            }
            _ => assert_eq!(answer, Err(StoreError::Unknown), "a second release, or one after the end"),
        }
    }

    pub(super) fn extend(&mut self, which: usize, by: Duration) {
        let Some((id, view)) = self.one(which) else { return };
        let answer = self.server.tokio.block_on(self.server.pool.instances.extend(&id, by, Asker::Trusted));
        match view {
            // The template was removed before the server started, so its longest time is not known.
            VisitorView::Has { .. } if self.server.pool.instances.template_of(&id).is_none() => {
                assert_eq!(answer, Err(StoreError::Unknown));
            }
            VisitorView::Has { since, until } if until + by <= since + MAX_TTL => {
                let until = until + by;
                assert_eq!(answer.unwrap().lease().unwrap().deadline(), until);
                self.set_view(&id, VisitorView::Has { since, until });
            }
            VisitorView::Has { .. } => {
                assert!(matches!(answer, Err(StoreError::NotExtended(_))), "{answer:?}")
            }
            _ => assert_eq!(answer, Err(StoreError::Unknown)),
        }
    }

    /// Makes the app of one running instance die.
    pub(super) fn kill(&mut self, which: usize) {
        let running = self.runtime.running();
        let Some(place) = which.checked_rem(running.len()) else { return };
        let id = &running[place];
        self.runtime.die(id);
        let now = self.clock.now();
        let mut log = self.log.lock();
        if let Some(view @ VisitorView::Has { .. }) = log.assigned.get_mut(id) {
            *view = VisitorView::Ended { at: now, reason: EndReason::Failed };
        }
        drop(log);
        // The server learns of the death while no time passes.
        self.settle();
        self.log.lock().dead.insert(id.clone());
    }

    /// Makes the operator change a template, or remove it.
    pub(super) fn reload(&mut self, name: &'static str, change: Option<Configured>) {
        let before = self.configured.clone();
        match change {
            Some(configured) => self.configured.insert(name, configured),
            None => self.configured.remove(name),
        };
        if self.configured.is_empty() {
            self.configured = before;
            return;
        }
        let capacity = self.capacities.entry(name).or_default();
        *capacity = self.configured.get(name).map_or(0, |configured| configured.max).max(*capacity);
        let now_wanted = self.configured.get(name).map(|configured| configured.revision);
        self.log.lock().revisions.entry(name).or_default().extend(now_wanted);
        let reload = self.server.pool.reload(templates_of(&self.configured));
        self.server.tokio.block_on(reload);
        self.log.lock().revisions.insert(name, now_wanted.into_iter().collect());
    }

    pub(super) fn configured(&self, name: &str) -> Option<Configured> {
        self.configured.get(name).copied()
    }

    /// Makes the server crash and start again; without `same_store` with an empty store, as after a crash with the
    /// embedded one.
    pub(super) fn restart(&mut self, same_store: bool) {
        self.abandoned += self.visits.len();
        self.visits.clear();
        if !same_store {
            self.store = Arc::new(TestStore::new(self.clock.clone()));
            self.seen.clear();
            self.abandoned = 0;
            // No visitor has any of them now, and none may come back.
            for view in self.log.lock().assigned.values_mut() {
                *view = VisitorView::Released;
            }
        }
        self.log.lock().waiting.clear();
        self.server = start(&self.clock, &self.store, &self.runtime, &self.node, &self.configured);
    }

    fn records(&self) -> HashMap<InstanceId, Instance> {
        let all = self.server.tokio.block_on(self.store.inner.list(&self.node)).unwrap();
        assert_eq!(check(&all), Ok(()));
        all.into_iter().map(|record| (record.id().clone(), record)).collect()
    }

    /// Checks what must hold at every moment.
    pub(super) fn check(&mut self) {
        let (records, now) = (self.records(), self.clock.now());
        // The route table uses the clock of the tokio runtime.
        let _context = self.server.tokio.enter();
        assert_eq!(self.log.lock().violations, Vec::<String>::new());
        let mut unknown_to_visitors = 0;
        let log = self.log.lock();
        for (id, before) in &self.seen {
            // Only a claim of which no visitor knows is undone.
            let is_known =
                log.assigned.contains_key(id) && before.lease().is_some() && self.known.contains(id);
            let check = if is_known { check_step } else { check_step_or_claim_undone };
            assert_eq!(check(before, records.get(id), now), Ok(()));
        }
        self.known = log.assigned.keys().cloned().collect();
        for (id, record) in &records {
            if let State::Assigned { .. } = record.state() {
                unknown_to_visitors += usize::from(!log.assigned.contains_key(id));
            }
        }
        assert!(unknown_to_visitors <= self.abandoned, "a visitor knows of each assigned instance");
        for (id, view) in &log.assigned {
            let found = records.get(id).map(|record| record.state().clone());
            match (*view, found) {
                (VisitorView::Has { since, until }, Some(State::Assigned { lease, endpoint, .. })) => {
                    assert_eq!((lease.assigned_at(), lease.deadline()), (since, until));
                    match self.server.pool.shared.routes.find(id.as_str()) {
                        RouteLookup::Live(route) => {
                            assert_eq!((route.endpoint(), route.deadline()), (endpoint, until))
                        }
                        // After a restart the table is empty, and no task follows the store here.
                        RouteLookup::Unknown => {}
                        other => panic!("{id} has {other:?}"),
                    }
                }
                (VisitorView::Released, None) => {
                    assert!(
                        !matches!(self.server.pool.shared.routes.find(id.as_str()), RouteLookup::Live(_)),
                        "{id}"
                    );
                }
                (
                    VisitorView::Ended { at, reason },
                    Some(State::Expired { at: ended, reason: recorded, .. }),
                ) => {
                    assert_eq!((ended, recorded), (at, reason), "{id}");
                }
                (VisitorView::Ended { at, .. }, None) => {
                    assert!(at + RETENTION <= now, "{id} is forgotten too early")
                }
                (view, found) => panic!("{id}: the visitor sees {view:?}, the store has {found:?}"),
            }
        }
        drop(log);
        self.check_capacity(&records);
        let locked = self.server.pool.supply.in_flight.locked();
        for id in self.runtime.running() {
            let known = match records.get(&id).map(Instance::state) {
                // Until the sweep, a moment later.
                Some(State::Expired { at, reason: EndReason::Expired, .. }) => now.since(*at) < LATENESS,
                Some(State::Expired { .. }) | None => false,
                Some(_) => true,
            };
            assert!(known || locked.contains(&id), "{id} runs, and is neither on record nor locked");
        }
        self.seen = records;
    }

    /// Checks that no pool grows beyond its capacity. A pool above a capacity that was lowered must not grow.
    fn check_capacity(&self, records: &HashMap<InstanceId, Instance>) {
        let living = |all: &HashMap<InstanceId, Instance>, name: &str| {
            let lives =
                |r: &&Instance| !matches!(r.state(), State::Expired { .. }) && r.id().template() == name;
            all.values().filter(lives).count()
        };
        for name in NAMES {
            let bound = self.capacities.get(name).copied().unwrap_or(0).max(living(&self.seen, name));
            assert!(living(records, name) <= bound, "{name}: {} of {bound}", living(records, name));
        }
    }

    /// Waits until the server has nothing to do, and checks that the pools are full and nothing else remains.
    pub(super) fn come_to_rest(&mut self) {
        // The acquire timeout, the longest back-off after a kill or two, a garbage collection, and an interval.
        for _ in 0..8 {
            self.advance(Duration::from_secs(3));
            self.check();
        }
        self.visits.retain(|visit| !visit.task.is_finished());
        assert!(self.visits.is_empty(), "each acquire has ended");
        assert!(self.server.pool.supply.in_flight.locked().is_empty());
        let records = self.records();
        for (id, record) in &records {
            if let State::Assigned { .. } = record.state() {
                assert!(self.log.lock().assigned.contains_key(id), "no visitor knows of {id}");
            }
        }
        let living = records.values().filter(|record| !matches!(record.state(), State::Expired { .. }));
        let mut ids: Vec<_> = living.map(|record| record.id().clone()).collect();
        ids.sort();
        let mut running = self.runtime.running();
        running.sort();
        assert_eq!(running, ids, "the running instances are those on record");
        for name in NAMES {
            let of = |state| {
                records.values().filter(|r| r.id().template() == name && r.state().name() == state).count()
            };
            let expected = self
                .configured
                .get(name)
                .map_or(0, |configured| configured.target.min(configured.max.saturating_sub(of("assigned"))));
            assert_eq!((of("ready"), of("warming")), (expected, 0), "{name} is full");
            if let Some(template_pool) = self.server.pool.shared.template_pools.get(name) {
                assert_eq!(
                    (template_pool.wait_queue.len(), template_pool.attempts.load(Ordering::SeqCst)),
                    (0, 0)
                );
            }
        }
        self.capacities = self.configured.iter().map(|(name, configured)| (*name, configured.max)).collect();
        self.advance(TAKES);
    }
}
