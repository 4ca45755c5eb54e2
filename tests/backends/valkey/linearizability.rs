//! 64 clients of two nodes use one Valkey, by its own clock. The test records all calls and answers with their times
//! and then checks that they are linearizable: there is an order of all steps of an instance that the rules allow, that
//! agrees with every answer, and in which no step that had ended comes after a step that had not begun.
//!
//! The order need not be searched for: each step raises the generation of its instance, and the answers contain it. The
//! steps of an instance affect no other instance, so what holds for each holds for all.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use try_it_now::clock::{Clock, Millis};
use try_it_now::instance::{ClaimToken, EndReason, Instance, InstanceId, NodeId, State};
use try_it_now::store::valkey::{Settings, ValkeyStore};
use try_it_now::store::{Claim, Claimed, Store, StoreError};
use try_it_now::telemetry::task::spawn;

use super::{own_prefix, server, tcp};
use crate::suites::store::fixture::{NO_LIMITS, new_claim, node, template};
use crate::support::valkey_server::MAX_WAIT;

const CLIENTS: usize = 64;
const ROUNDS: usize = 40;
const LEASE: Duration = Duration::from_millis(40);
const MAX_TTL: Duration = Duration::from_millis(120);

/// What an answer says about one instance.
#[derive(Debug, Clone)]
enum Observation {
    /// The instance is ready from here on.
    Offered(Instance),
    Claimed(ClaimToken, Instance),
    ExtendResponse(Instance),
    /// The record before the release.
    ReleaseResponse(Instance),
    Expired(Instance),
    /// The record before the failure.
    Failed(Instance),
    MemorySample(Option<Instance>),
    /// A step was refused because no lease runs.
    Unknown,
}

#[derive(Debug, Clone)]
struct HistoryEntry {
    id: InstanceId,
    observed: Observation,
    begun: Instant,
    ended: Instant,
    /// The same times by the wall clock, which is also that of Valkey.
    from: Millis,
    until: Millis,
}

/// A claim that got no instance.
struct EmptyClaim {
    token: ClaimToken,
    begun: Instant,
    ended: Instant,
}

#[derive(Default)]
struct History {
    entries: Mutex<Vec<HistoryEntry>>,
    empty_claims: Mutex<Vec<EmptyClaim>>,
}

struct Client {
    store: Arc<ValkeyStore>,
    history: Arc<History>,
    node: NodeId,
    number: usize,
}

impl Client {
    /// Makes a call and records what `observe` returns for its answer.
    async fn record<T>(
        &self,
        call: impl Future<Output = T>,
        observe: impl FnOnce(&T) -> Vec<(InstanceId, Observation)>,
    ) -> T {
        let (begun, from) = (Instant::now(), Clock::System.now());
        let answer = call.await;
        let (ended, until) = (Instant::now(), Clock::System.now());
        let entries = observe(&answer).into_iter();
        let entries = entries.map(|(id, observed)| HistoryEntry { id, observed, begun, ended, from, until });
        self.history.entries.lock().extend(entries);
        answer
    }

    async fn add_ready(&self, n: usize) {
        let id = InstanceId::random(&template("shop"));
        let new = Instance::warming(id.clone(), self.node.clone(), 1, Clock::System.now());
        self.store.insert(new).await.unwrap();
        let at = ([10, self.number as u8, (n >> 8) as u8, n as u8], 4000).into();
        let offer = self.store.offer(&id, at);
        self.record(offer, |it| vec![(id.clone(), Observation::Offered(it.clone().unwrap()))]).await.unwrap();
    }

    async fn claim(&self, claim: &Claim) -> Option<Instance> {
        let (begun, token) = (Instant::now(), claim.token);
        let claimed = self
            .record(self.store.claim(claim), |claimed| match claimed {
                Ok(Claimed::Granted { instance, .. }) => {
                    vec![(instance.id().clone(), Observation::Claimed(token, instance.clone()))]
                }
                Ok(Claimed::Empty) => Vec::new(),
                other => panic!("{other:?}"),
            })
            .await;
        let got = claimed.unwrap().instance().cloned();
        if got.is_none() {
            self.history.empty_claims.lock().push(EmptyClaim { token, begun, ended: Instant::now() });
        }
        got
    }

    async fn step(
        &self,
        id: &InstanceId,
        call: impl Future<Output = Result<Instance, StoreError>>,
        observed: fn(Instance) -> Observation,
    ) {
        let observe = |answer: &Result<Instance, StoreError>| match answer {
            Ok(it) => vec![(id.clone(), observed(it.clone()))],
            Err(StoreError::Unknown) => vec![(id.clone(), Observation::Unknown)],
            Err(StoreError::NotExtended(_)) => Vec::new(),
            Err(other) => panic!("{other}"),
        };
        let _ = self.record(call, observe).await;
    }

    async fn sweep(&self) {
        let observe = |swept: &Result<Vec<Instance>, StoreError>| {
            let swept = swept.clone().unwrap().into_iter();
            swept.map(|it| (it.id().clone(), Observation::Expired(it))).collect()
        };
        self.record(self.store.sweep(20), observe).await.unwrap();
    }

    async fn read(&self, id: &InstanceId) {
        self.record(self.store.get(id), |it| {
            vec![(id.clone(), Observation::MemorySample(it.clone().unwrap()))]
        })
        .await
        .unwrap();
    }

    /// One round of a client. Neighbouring clients do different steps.
    async fn round(&self, n: usize, others: &Mutex<Vec<(Claim, InstanceId)>>) {
        self.add_ready(n).await;
        let claim = Claim { ttl: LEASE, node: self.node.clone(), ..new_claim() };
        let got = self.claim(&claim).await;
        if let Some(it) = &got {
            others.lock().push((claim.clone(), it.id().clone()));
        }
        // An instance that another client has claimed, perhaps through the other node, and perhaps no longer has.
        let other = {
            let others = others.lock();
            others
                .len()
                .checked_sub(1)
                .map(|last| others[last - (self.number * 7 + n) % 20.min(last + 1)].clone())
        };
        let Some((claim, id)) = other else { return };
        match (self.number + n) % 7 {
            0 => drop(self.claim(&claim).await),
            1 => {
                let release = async { self.store.release(&id).await.map(|(before, _)| before) };
                self.step(&id, release, Observation::ReleaseResponse).await;
            }
            2 | 3 => {
                self.step(
                    &id,
                    self.store.extend(&id, LEASE / 2, MAX_TTL, NO_LIMITS),
                    Observation::ExtendResponse,
                )
                .await
            }
            4 => self.step(&id, self.store.fail(&id), Observation::Failed).await,
            5 => self.sweep().await,
            _ => {}
        }
        self.read(&id).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_answers_to_64_clients_of_two_nodes_are_linearizable() {
    let Some(server) = server() else { return };
    let prefix = own_prefix();
    let stores = [(); 2].map(|()| {
        let addresses = vec![tcp(server.address())];
        Arc::new(ValkeyStore::new(Settings {
            addresses,
            prefix: prefix.clone(),
            call_timeout: MAX_WAIT,
            ..Settings::default()
        }))
    });
    let (history, others) = (Arc::new(History::default()), Arc::new(Mutex::new(Vec::new())));
    let clients = (0..CLIENTS).map(|number| {
        let (store, history, others) = (stores[number % 2].clone(), history.clone(), others.clone());
        let node = node(["a", "b"][number % 2]);
        let client = Client { store, history, node, number };
        spawn("client", async move {
            for n in 0..ROUNDS {
                client.round(n, &others).await;
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    let mut left = stores[0].list(&node("a")).await.unwrap();
    left.extend(stores[1].list(&node("b")).await.unwrap());
    check(&history, &left);
}

fn check(history: &History, left: &[Instance]) {
    let entries = history.entries.lock();
    let mut histories: HashMap<&InstanceId, Vec<&HistoryEntry>> = HashMap::new();
    for entry in entries.iter() {
        histories.entry(&entry.id).or_default().push(entry);
    }
    let left: HashMap<_, _> = left.iter().map(|it| (it.id().clone(), it)).collect();
    let mut seen = HashMap::new();
    let mut tokens = HashMap::new();
    for (id, entries) in &histories {
        let history = InstanceHistory::of(id, entries);
        history.check(left.get(id).copied());
        for step in history.steps.values() {
            let kind = match step.observed {
                Observation::Offered(_) => "offered",
                Observation::Claimed(token, _) => {
                    assert_eq!(
                        tokens.insert(token, (*id).clone()),
                        None,
                        "a token was granted two instances"
                    );
                    "claimed"
                }
                Observation::ExtendResponse(_) => "extended",
                Observation::ReleaseResponse(_) => "released",
                Observation::Expired(_) => "expired",
                Observation::Failed(_) => "failed",
                Observation::MemorySample(_) | Observation::Unknown => unreachable!(),
            };
            *seen.entry(kind).or_insert(0) += 1;
        }
    }
    for kind in ["offered", "claimed", "extended", "released", "expired", "failed"] {
        assert!(seen.get(kind).is_some_and(|count| *count >= 20), "too few steps of a kind: {seen:?}");
    }
    assert_eq!(seen["offered"], CLIENTS * ROUNDS);
    check_empty_claims(&histories, &history.empty_claims.lock(), &tokens);
}

/// The steps of one instance by the generation that each one produced.
struct InstanceHistory<'a> {
    id: &'a InstanceId,
    steps: BTreeMap<u64, &'a HistoryEntry>,
    reads: Vec<&'a HistoryEntry>,
}

impl<'a> InstanceHistory<'a> {
    fn of(id: &'a InstanceId, entries: &[&'a HistoryEntry]) -> Self {
        let (mut steps, mut reads) = (BTreeMap::new(), Vec::new());
        let mut claims: Vec<&HistoryEntry> = Vec::new();
        for &entry in entries {
            let generation = match &entry.observed {
                Observation::Offered(it) | Observation::ExtendResponse(it) | Observation::Expired(it) => {
                    it.generation()
                }
                // The step removed or failed the record, which the answer shows as it was before.
                Observation::ReleaseResponse(it) | Observation::Failed(it) => it.generation() + 1,
                Observation::Claimed(..) => {
                    claims.push(entry);
                    continue;
                }
                Observation::MemorySample(_) | Observation::Unknown => {
                    reads.push(entry);
                    continue;
                }
            };
            let twice = steps.insert(generation, entry);
            assert!(
                twice.is_none(),
                "{id}: two steps produced generation {generation}: {entry:?} and {twice:?}"
            );
        }
        // Of a claim and its repetitions the first was granted, and the others only read.
        claims.sort_by_key(|claim| {
            let Observation::Claimed(_, it) = &claim.observed else { unreachable!() };
            (it.generation(), claim.ended)
        });
        for claim in claims {
            let Observation::Claimed(token, it) = &claim.observed else { unreachable!() };
            let owner = it.lease().unwrap().token();
            assert_eq!(*token, owner, "{id}: granted to the token of another claim");
            // The offer produces generation 2, so the grant produces generation 3.
            if it.generation() == 3 && !steps.contains_key(&3) {
                steps.insert(3, claim);
            } else {
                reads.push(claim);
            }
        }
        Self { id, steps, reads }
    }

    fn check(&self, left: Option<&Instance>) {
        let Self { id, steps, reads } = self;
        let mut before: Option<&HistoryEntry> = None;
        let mut deadline: Option<Millis> = None;
        for (n, (generation, step)) in steps.iter().enumerate() {
            assert_eq!(*generation, n as u64 + 2, "{id}: a step that no client made: {steps:?}");
            if let Some(before) = before {
                assert!(before.begun <= step.ended, "{id}: {step:?} ended before {before:?} began");
                let over = matches!(
                    before.observed,
                    Observation::ReleaseResponse(_) | Observation::Expired(_) | Observation::Failed(_)
                );
                assert!(!over, "{id}: {step:?} after its end");
            }
            match &step.observed {
                Observation::Offered(_) => assert_eq!(n, 0, "{id}"),
                Observation::Claimed(_, it) => {
                    assert_eq!(n, 1, "{id}: granted again");
                    deadline = it.lease().map(|lease| lease.deadline());
                }
                Observation::ExtendResponse(it) => {
                    let lease = it.lease().unwrap();
                    assert_eq!(Some(lease.deadline()), deadline.map(|deadline| deadline + LEASE / 2), "{id}");
                    assert!(step.from < deadline.unwrap(), "{id}: extended after its deadline: {step:?}");
                    assert!(lease.deadline() <= lease.assigned_at() + MAX_TTL);
                    deadline = Some(lease.deadline());
                }
                Observation::ReleaseResponse(_) => {
                    assert!(step.from < deadline.unwrap(), "{id}: released after its deadline: {step:?}");
                }
                Observation::Expired(it) => {
                    let State::Expired { at, reason: ending, .. } = it.state() else { panic!("{it:?}") };
                    assert_eq!((Some(*at), *ending), (deadline, EndReason::Expired), "{id}");
                    assert!(step.until >= deadline.unwrap(), "{id}: expired early: {step:?}");
                }
                Observation::Failed(_) => {
                    assert!(deadline.is_none_or(|deadline| step.from < deadline), "{id}: {step:?}");
                }
                Observation::MemorySample(_) | Observation::Unknown => unreachable!(),
            }
            before = Some(step);
        }
        for read in reads {
            self.check_read(read);
        }
        let last = before.expect("the instance was offered");
        match (&last.observed, left) {
            (Observation::ReleaseResponse(_), None) => {}
            (Observation::Offered(_), Some(left)) => assert_eq!(left.state().name(), "ready", "{id}"),
            (Observation::Failed(_) | Observation::Expired(_), Some(left)) => {
                assert_eq!(left.state().name(), "expired", "{id}");
            }
            (Observation::Claimed(_, it) | Observation::ExtendResponse(it), Some(left)) => {
                assert_eq!(left.lease(), it.lease(), "{id}");
            }
            (_, left) => panic!("{id}: {last:?}, and then {left:?}"),
        }
    }

    /// Checks that a reader saw the instance as some step left it, and before the next step.
    fn check_read(&self, read: &HistoryEntry) {
        let Self { id, steps, .. } = self;
        let record = match &read.observed {
            Observation::MemorySample(record) => record.as_ref(),
            Observation::Claimed(_, it) => Some(it),
            _ => None,
        };
        // Readers see an overdue instance as the sweep will leave it.
        if let Some(record) = record
            && let State::Expired { at, reason: EndReason::Expired, .. } = record.state()
        {
            assert!(*at <= read.until, "{id}: seen as expired too early: {read:?}");
            assert!(steps[&(record.generation() - 1)].begun <= read.ended, "{id}: {read:?}");
            let next = steps.get(&record.generation());
            return assert!(
                next.is_none_or(|next| matches!(next.observed, Observation::Expired(_))),
                "{id}: {read:?}"
            );
        }
        let generation = match (&read.observed, record) {
            (Observation::Unknown, _) => {
                // The instance had ended by then, or its deadline had passed.
                let over = steps.values().any(|step| {
                    matches!(
                        step.observed,
                        Observation::ReleaseResponse(_) | Observation::Expired(_) | Observation::Failed(_)
                    ) && step.begun <= read.ended
                });
                let passed = steps.values().rev().find_map(|step| match &step.observed {
                    Observation::Claimed(_, it) | Observation::ExtendResponse(it)
                        if step.ended <= read.begun =>
                    {
                        it.lease().map(|lease| lease.deadline())
                    }
                    _ => None,
                });
                let passed = passed.is_some_and(|deadline| deadline <= read.until);
                assert!(over || passed, "{id}: unknown while it was assigned: {read:?} {steps:?}");
                return;
            }
            (_, Some(record)) => record.generation(),
            (_, None) => {
                let (generation, last) = steps.last_key_value().unwrap();
                assert!(matches!(last.observed, Observation::ReleaseResponse(_)), "{id}: lost: {read:?}");
                *generation
            }
        };
        let made = steps[&generation];
        assert!(made.begun <= read.ended, "{id}: seen before it existed: {read:?}");
        if let Some(next) = steps.get(&(generation + 1)) {
            assert!(read.begun <= next.ended, "{id}: seen after it ended: {read:?} {next:?}");
        }
    }
}

/// Checks that a claim was empty only if its token had had its instance, or if there was a moment at which nothing was
/// ready: no instance was certainly ready from its begin to its end.
fn check_empty_claims(
    histories: &HashMap<&InstanceId, Vec<&HistoryEntry>>,
    empty_claims: &[EmptyClaim],
    tokens: &HashMap<ClaimToken, InstanceId>,
) {
    let used: HashSet<_> = tokens.keys().collect();
    for claim in empty_claims.iter().filter(|claim| !used.contains(&claim.token)) {
        for (id, entries) in histories {
            let offered = entries
                .iter()
                .any(|it| matches!(it.observed, Observation::Offered(_)) && it.ended <= claim.begun);
            let taken = entries.iter().any(|it| {
                matches!(it.observed, Observation::Claimed(..) | Observation::Failed(_))
                    && it.begun <= claim.ended
            });
            assert!(!offered || taken, "{id} was ready, and a claim was empty");
        }
    }
}
