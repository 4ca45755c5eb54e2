//! A world for the model: a pool, its visitors, and what they know. The model's knowledge is only what visitors and
//! the operator did and were told; everything else is checked against it.

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
    EndReason, Instance, InstanceId, NodeId, RETENTION, State, check, check_step, check_step_or_taken_back,
};
use crate::pool::{Acquired, Pool};
use crate::proxy::routes::Found;
use crate::store::{Store as _, StoreError, Visitor};
use crate::template::Templates;

pub(super) const NAMES: [&str; 2] = ["a", "b"];
/// The clock moves no further than this while tasks wait, so that none of them is late by more.
const TICK: Duration = Duration::from_millis(50);
/// How long after its deadline an app may run untouched.
const LATENESS: Duration = Duration::from_millis(300);
const TTL: Duration = Duration::from_secs(5);
const MAX_TTL: Duration = Duration::from_secs(12);
/// How long a start takes, and a stop.
const TAKES: Duration = Duration::from_millis(30);

/// A template as the operator has it, `None` when it is not configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) revision: u64,
    pub(super) target: usize,
    pub(super) max: usize,
}

/// What a visitor knows of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Knows {
    Has { since: Millis, until: Millis },
    GaveBack,
    Ended { at: Millis, ending: EndReason },
}

/// What those who acquire agree on; their tasks look at it the moment they are served.
#[derive(Default)]
struct Desk {
    /// All that was ever handed out.
    handed: HashMap<InstanceId, Knows>,
    /// The same in the order of handing out.
    order: Vec<InstanceId>,
    /// Instances that were killed, a while ago.
    dead: HashSet<InstanceId>,
    /// The revisions that may be handed out, by template.
    revisions: HashMap<&'static str, HashSet<u64>>,
    /// Who waits, by template, in the order of coming.
    waiting: HashMap<&'static str, BTreeSet<u64>>,
    broken: Vec<String>,
}

struct Visit {
    template: &'static str,
    number: u64,
    task: JoinHandle<()>,
}

/// One life of a server, on a tokio runtime that ends with it as a crash ends a process.
struct Server {
    pool: Arc<Pool>,
    tokio: tokio::runtime::Runtime,
}

pub(super) struct World {
    clock: Clock,
    store: Arc<TestStore>,
    runtime: Arc<TestRuntime>,
    node: NodeId,
    server: Server,
    desk: Arc<Mutex<Desk>>,
    kept: HashMap<&'static str, Kept>,
    /// The capacities. A smaller one binds from the next rest on, for attempts may be under way.
    most: HashMap<&'static str, usize>,
    visits: Vec<Visit>,
    visitors: u64,
    /// Acquires that were given up; each may have left an instance that nobody knows to have.
    given_up: usize,
    /// The records at the last look.
    seen: HashMap<InstanceId, Instance>,
    /// What had been handed out by then.
    told: HashSet<InstanceId>,
}

fn configured(kept: &HashMap<&'static str, Kept>) -> Templates {
    let mut list = Vec::new();
    for name in NAMES {
        if let Some(Kept { revision, target, max }) = kept.get(name) {
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
    kept: &HashMap<&'static str, Kept>,
) -> Server {
    let tokio =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let pool = pool(store, runtime, clock, node, configured(kept));
    tokio.block_on(pool.run());
    Server { pool, tokio }
}

impl Desk {
    fn expect(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.broken.push(what());
        }
    }

    /// A visitor is served at this very moment.
    fn served(&mut self, name: &'static str, number: Option<u64>, acquired: Acquired, now: Millis) {
        let Acquired { instance, delivery, .. } = acquired;
        delivery.done();
        let id = instance.id().clone();
        let Some(lease) = instance.lease() else { return self.broken.push(format!("{id} has no lease")) };
        let (since, until) = (lease.assigned_at(), lease.deadline());
        self.expect(id.template() == name, || format!("{id} is no {name}"));
        self.expect(!self.handed.contains_key(&id), || format!("{id} was handed out twice"));
        self.expect(!self.dead.contains(&id), || format!("{id} was dead when it was handed out"));
        let wanted = self.revisions.get(name).is_some_and(|all| all.contains(&instance.revision()));
        self.expect(wanted, || format!("{id} was outdated when it was handed out"));
        self.expect((since, until) == (now, now + TTL), || format!("{id} for {since} to {until}"));
        if let Some(number) = number {
            let first = self.waiting.get(name).and_then(BTreeSet::first).copied();
            self.expect(first.is_none_or(|first| first >= number), || {
                format!("{number} was served before {first:?}")
            });
        }
        self.order.push(id.clone());
        self.handed.insert(id, Knows::Has { since, until });
    }

    fn leaves(&mut self, name: &'static str, number: u64) {
        self.waiting.entry(name).or_default().remove(&number);
    }
}

impl World {
    pub(super) fn new(kept: HashMap<&'static str, Kept>, bakes: bool) -> Self {
        let clock = Clock::manual(START);
        let store = Arc::new(TestStore::new(clock.clone()));
        let runtime = Arc::new(TestRuntime::new(None, TAKES));
        runtime.bakes.store(bakes, Ordering::SeqCst);
        let node = NodeId::parse("n").unwrap();
        let server = start(&clock, &store, &runtime, &node, &kept);
        let desk = Desk {
            revisions: kept.iter().map(|(name, kept)| (*name, [kept.revision].into())).collect(),
            ..Desk::default()
        };
        let mut world = Self {
            clock,
            store,
            runtime,
            node,
            server,
            desk: Arc::new(Mutex::new(desk)),
            most: kept.iter().map(|(name, kept)| (*name, kept.max)).collect(),
            kept,
            visits: Vec::new(),
            visitors: 0,
            given_up: 0,
            seen: HashMap::new(),
            told: HashSet::new(),
        };
        world.pause();
        world
    }

    /// Lets every task go on as far as it can without waiting for time, except for a millisecond.
    fn pause(&mut self) {
        self.advance(Duration::from_millis(1));
    }

    /// The same without any time: each question to the store takes a few turns.
    fn settle(&self) {
        self.server.tokio.block_on(async {
            for _ in 0..40 {
                tokio::task::yield_now().await;
            }
        });
    }

    pub(super) fn advance(&mut self, by: Duration) {
        let mut left = by;
        // Long waits in bigger steps: lateness is looked at in the short ones.
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
        let mut desk = self.desk.lock();
        for knows in desk.handed.values_mut() {
            if let Knows::Has { until, .. } = *knows
                && until <= now
            {
                *knows = Knows::Ended { at: until, ending: EndReason::Expired };
            }
        }
    }

    /// Begins to acquire, and goes on when the visitor was served, refused, or stands in the line.
    pub(super) fn acquire(&mut self, name: &'static str) {
        self.visitors += 1;
        let (number, pool, desk) = (self.visitors, self.server.pool.clone(), self.desk.clone());
        self.desk.lock().waiting.entry(name).or_default().insert(number);
        let clock = self.clock.clone();
        let visit = async move {
            let answer = pool.acquire(name, Visitor(number.to_string())).await;
            let mut desk = desk.lock();
            if let Ok(acquired) = answer {
                desk.served(name, Some(number), acquired, clock.now());
            }
            desk.leaves(name, number);
        };
        let runtime = self.server.tokio.enter();
        let task = crate::telemetry::task::spawn("visit", visit);
        drop(runtime);
        self.visits.push(Visit { template: name, number, task });
        self.settle();
        self.visits.retain(|visit| !visit.task.is_finished());
    }

    /// A visitor in the middle of an acquire is gone.
    pub(super) fn give_up(&mut self, which: usize) {
        if self.visits.is_empty() {
            return;
        }
        let visit = self.visits.swap_remove(which % self.visits.len());
        visit.task.abort();
        self.server.tokio.block_on(async { visit.task.await.ok() });
        self.desk.lock().leaves(visit.template, visit.number);
        self.given_up += 1;
    }

    /// An acquire whose future is dropped after so many polls.
    pub(super) fn lose(&mut self, name: &'static str, polls: usize) {
        let pool = self.server.pool.clone();
        let told = self.server.tokio.block_on(async {
            let mut acquire = Box::pin(pool.acquire(name, Visitor("lost".to_owned())));
            for _ in 0..polls {
                if let std::task::Poll::Ready(told) = futures_util::poll!(&mut acquire) {
                    return Some(told);
                }
                tokio::task::yield_now().await;
            }
            None
        });
        match told {
            None => self.given_up += 1,
            Some(Ok(acquired)) => self.desk.lock().served(name, None, acquired, self.clock.now()),
            Some(Err(_)) => {}
        }
    }

    /// One of all that were ever handed out.
    fn one(&self, which: usize) -> Option<(InstanceId, Knows)> {
        let desk = self.desk.lock();
        let id = &desk.order[which.checked_rem(desk.order.len())?];
        Some((id.clone(), desk.handed[id]))
    }

    fn knows(&self, id: &InstanceId, knows: Knows) {
        self.desk.lock().handed.insert(id.clone(), knows);
    }

    pub(super) fn release(&mut self, which: usize) {
        let Some((id, knows)) = self.one(which) else { return };
        let answer = self.server.tokio.block_on(self.server.pool.release(&id));
        match knows {
            Knows::Has { .. } => {
                assert_eq!(answer.unwrap().id(), &id);
                self.knows(&id, Knows::GaveBack);
            }
            _ => assert_eq!(answer, Err(StoreError::Unknown), "a second release, or one of what has ended"),
        }
    }

    pub(super) fn extend(&mut self, which: usize, by: Duration) {
        let Some((id, knows)) = self.one(which) else { return };
        let answer = self.server.tokio.block_on(self.server.pool.extend(&id, by));
        match knows {
            Knows::Has { since, until } if until + by <= since + MAX_TTL => {
                let until = until + by;
                assert_eq!(answer.unwrap().lease().unwrap().deadline(), until);
                self.knows(&id, Knows::Has { since, until });
            }
            Knows::Has { .. } => assert!(matches!(answer, Err(StoreError::NotExtended(_))), "{answer:?}"),
            _ => assert_eq!(answer, Err(StoreError::Unknown)),
        }
    }

    /// The app of one of all that run ends by itself.
    pub(super) fn kill(&mut self, which: usize) {
        let running = self.runtime.running();
        let Some(place) = which.checked_rem(running.len()) else { return };
        let id = &running[place];
        self.runtime.die(id);
        let now = self.clock.now();
        let mut desk = self.desk.lock();
        if let Some(knows @ Knows::Has { .. }) = desk.handed.get_mut(id) {
            *knows = Knows::Ended { at: now, ending: EndReason::Failed };
        }
        drop(desk);
        // The news travels without the clock.
        self.settle();
        self.desk.lock().dead.insert(id.clone());
    }

    /// The operator changes a template, or takes it out.
    pub(super) fn reload(&mut self, name: &'static str, change: Option<Kept>) {
        let before = self.kept.clone();
        match change {
            Some(kept) => self.kept.insert(name, kept),
            None => self.kept.remove(name),
        };
        if self.kept.is_empty() {
            self.kept = before;
            return;
        }
        let most = self.most.entry(name).or_default();
        *most = self.kept.get(name).map_or(0, |kept| kept.max).max(*most);
        let now_wanted = self.kept.get(name).map(|kept| kept.revision);
        self.desk.lock().revisions.entry(name).or_default().extend(now_wanted);
        let reload = self.server.pool.reload(configured(&self.kept));
        self.server.tokio.block_on(reload);
        self.desk.lock().revisions.insert(name, now_wanted.into_iter().collect());
    }

    pub(super) fn kept(&self, name: &str) -> Option<Kept> {
        self.kept.get(name).copied()
    }

    /// The server crashes and starts again; with an embedded store, that begins anew.
    pub(super) fn restart(&mut self, same_store: bool) {
        self.given_up += self.visits.len();
        self.visits.clear();
        if !same_store {
            self.store = Arc::new(TestStore::new(self.clock.clone()));
            self.seen.clear();
            self.given_up = 0;
            // Nobody has any of them now, and none may come back.
            for knows in self.desk.lock().handed.values_mut() {
                *knows = Knows::GaveBack;
            }
        }
        self.desk.lock().waiting.clear();
        self.server = start(&self.clock, &self.store, &self.runtime, &self.node, &self.kept);
    }

    fn records(&self) -> HashMap<InstanceId, Instance> {
        let all = self.server.tokio.block_on(self.store.inner.list(&self.node)).unwrap();
        assert_eq!(check(&all), Ok(()));
        all.into_iter().map(|record| (record.id().clone(), record)).collect()
    }

    /// What must hold at every moment.
    pub(super) fn check(&mut self) {
        let (records, now) = (self.records(), self.clock.now());
        // The routes go by the runtime's clock.
        let _context = self.server.tokio.enter();
        assert_eq!(self.desk.lock().broken, Vec::<String>::new());
        let mut unknown_to_all = 0;
        let desk = self.desk.lock();
        for (id, before) in &self.seen {
            // Only what nobody was told of is taken back.
            let told = desk.handed.contains_key(id) && before.lease().is_some() && self.told.contains(id);
            let check = if told { check_step } else { check_step_or_taken_back };
            assert_eq!(check(before, records.get(id), now), Ok(()));
        }
        self.told = desk.handed.keys().cloned().collect();
        for (id, record) in &records {
            if let State::Assigned { .. } = record.life() {
                unknown_to_all += usize::from(!desk.handed.contains_key(id));
            }
        }
        assert!(unknown_to_all <= self.given_up, "each instance somebody has was handed to somebody");
        for (id, knows) in &desk.handed {
            let found = records.get(id).map(|record| *record.life());
            match (*knows, found) {
                (Knows::Has { since, until }, Some(State::Assigned { lease, endpoint })) => {
                    assert_eq!((lease.assigned_at(), lease.deadline()), (since, until));
                    match self.server.pool.routes.find(id.as_str()) {
                        Found::Live(route) => {
                            assert_eq!((route.endpoint(), route.deadline()), (endpoint, until))
                        }
                        // A new table learns it from the store, which nobody follows here.
                        Found::Unknown => {}
                        other => panic!("{id} has {other:?}"),
                    }
                }
                (Knows::GaveBack, None) => {
                    assert!(!matches!(self.server.pool.routes.find(id.as_str()), Found::Live(_)), "{id}");
                }
                (Knows::Ended { at, ending }, Some(State::Expired { at: ended, ending: told, .. })) => {
                    assert_eq!((ended, told), (at, ending), "{id}");
                }
                (Knows::Ended { at, .. }, None) => {
                    assert!(at + RETENTION <= now, "{id} is forgotten too early")
                }
                (knows, found) => panic!("{id}: the visitor knows {knows:?}, the store {found:?}"),
            }
        }
        drop(desk);
        self.check_capacity(&records);
        let held = self.server.pool.hands.held();
        for id in self.runtime.running() {
            let known = match records.get(&id).map(Instance::life) {
                // Until the sweep, a moment later.
                Some(State::Expired { at, ending: EndReason::Expired, .. }) => now.since(*at) < LATENESS,
                Some(State::Expired { .. }) | None => false,
                Some(_) => true,
            };
            assert!(known || held.contains(&id), "{id} runs, and nobody knows");
        }
        self.seen = records;
    }

    /// A pool never grows beyond its capacity; one that a smaller capacity has overtaken does not grow.
    fn check_capacity(&self, records: &HashMap<InstanceId, Instance>) {
        let living = |all: &HashMap<InstanceId, Instance>, name: &str| {
            let lives =
                |r: &&Instance| !matches!(r.life(), State::Expired { .. }) && r.id().template() == name;
            all.values().filter(lives).count()
        };
        for name in NAMES {
            let bound = self.most.get(name).copied().unwrap_or(0).max(living(&self.seen, name));
            assert!(living(records, name) <= bound, "{name}: {} of {bound}", living(records, name));
        }
    }

    /// Waits until nothing is left to do, and checks that all is as it should be then.
    pub(super) fn come_to_rest(&mut self) {
        // The acquire timeout, the longest back-off that a kill or two cause, a repair, and an interval.
        for _ in 0..8 {
            self.advance(Duration::from_secs(3));
            self.check();
        }
        self.visits.retain(|visit| !visit.task.is_finished());
        assert!(self.visits.is_empty(), "every acquire ends");
        assert!(self.server.pool.hands.held().is_empty());
        let records = self.records();
        for (id, record) in &records {
            if let State::Assigned { .. } = record.life() {
                assert!(self.desk.lock().handed.contains_key(id), "{id} is nobody's");
            }
        }
        let living = records.values().filter(|record| !matches!(record.life(), State::Expired { .. }));
        let mut ids: Vec<_> = living.map(|record| record.id().clone()).collect();
        ids.sort();
        let mut running = self.runtime.running();
        running.sort();
        assert_eq!(running, ids, "what runs is what is on record");
        for name in NAMES {
            let of = |state| {
                records.values().filter(|r| r.id().template() == name && r.life().name() == state).count()
            };
            let expected = self
                .kept
                .get(name)
                .map_or(0, |kept| kept.target.min(kept.max.saturating_sub(of("assigned"))));
            assert_eq!((of("ready"), of("warming")), (expected, 0), "{name} is full");
            if let Some(keeper) = self.server.pool.keepers.get(name) {
                assert_eq!((keeper.line.len(), keeper.making.load(Ordering::SeqCst)), (0, 0));
            }
        }
        self.most = self.kept.iter().map(|(name, kept)| (*name, kept.max)).collect();
        self.advance(TAKES);
    }
}
