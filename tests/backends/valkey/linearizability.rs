//! 64 clients of two servers at one Valkey, by its own clock. All that is asked and answered is written down with its
//! times, and then checked: there is an order of all steps of an instance that the rules allow, that agrees with
//! every answer, and in which no step that had ended comes after one that had not begun.
//!
//! The order need not be searched for: each step raises the generation of its instance, and the answers tell it. An
//! instance's steps touch no other, so what holds for each holds for all.

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
use crate::suites::store::fixture::{node, template, wish};
use crate::support::valkey_server::PATIENCE;

const CLIENTS: usize = 64;
const ROUNDS: usize = 40;
const LEASE: Duration = Duration::from_millis(40);
const LONGEST: Duration = Duration::from_millis(120);

/// What an answer says of one instance.
#[derive(Debug, Clone)]
enum Told {
    /// It is ready from here on.
    Offered(Instance),
    Claimed(ClaimToken, Instance),
    ExtendResponse(Instance),
    /// As it was before.
    ReleaseResponse(Instance),
    Expired(Instance),
    /// As it was before.
    Failed(Instance),
    MemorySample(Option<Instance>),
    /// A step was refused because nobody has it.
    Unknown,
}

#[derive(Debug, Clone)]
struct Entry {
    id: InstanceId,
    told: Told,
    begun: Instant,
    ended: Instant,
    /// The same by the wall clock, which is Valkey's too.
    from: Millis,
    until: Millis,
}

/// A claim that got nothing.
struct Nothing {
    token: ClaimToken,
    begun: Instant,
    ended: Instant,
}

#[derive(Default)]
struct History {
    entries: Mutex<Vec<Entry>>,
    nothing: Mutex<Vec<Nothing>>,
}

struct Client {
    store: Arc<ValkeyStore>,
    history: Arc<History>,
    node: NodeId,
    number: usize,
}

impl Client {
    /// Asks, and writes down what `tells` of the answer.
    async fn ask<T>(
        &self,
        asked: impl Future<Output = T>,
        tells: impl FnOnce(&T) -> Vec<(InstanceId, Told)>,
    ) -> T {
        let (begun, from) = (Instant::now(), Clock::System.now());
        let answer = asked.await;
        let (ended, until) = (Instant::now(), Clock::System.now());
        let entries = tells(&answer).into_iter();
        let entries = entries.map(|(id, told)| Entry { id, told, begun, ended, from, until });
        self.history.entries.lock().extend(entries);
        answer
    }

    async fn provide(&self, n: usize) {
        let id = InstanceId::random(&template("shop"));
        let new = Instance::warming(id.clone(), self.node.clone(), 1, Clock::System.now());
        self.store.insert(new).await.unwrap();
        let at = ([10, self.number as u8, (n >> 8) as u8, n as u8], 4000).into();
        let offer = self.store.offer(&id, at);
        self.ask(offer, |it| vec![(id.clone(), Told::Offered(it.clone().unwrap()))]).await.unwrap();
    }

    async fn claim(&self, claim: &Claim) -> Option<Instance> {
        let (begun, token) = (Instant::now(), claim.token);
        let claimed = self
            .ask(self.store.claim(claim), |claimed| match claimed {
                Ok(Claimed::Granted { instance, .. }) => {
                    vec![(instance.id().clone(), Told::Claimed(token, instance.clone()))]
                }
                Ok(Claimed::Empty) => Vec::new(),
                other => panic!("{other:?}"),
            })
            .await;
        let got = claimed.unwrap().instance().cloned();
        if got.is_none() {
            self.history.nothing.lock().push(Nothing { token, begun, ended: Instant::now() });
        }
        got
    }

    async fn step(
        &self,
        id: &InstanceId,
        asked: impl Future<Output = Result<Instance, StoreError>>,
        told: fn(Instance) -> Told,
    ) {
        let tells = |answer: &Result<Instance, StoreError>| match answer {
            Ok(it) => vec![(id.clone(), told(it.clone()))],
            Err(StoreError::Unknown) => vec![(id.clone(), Told::Unknown)],
            Err(StoreError::NotExtended(_)) => Vec::new(),
            Err(other) => panic!("{other}"),
        };
        let _ = self.ask(asked, tells).await;
    }

    async fn sweep(&self) {
        let tells = |swept: &Result<Vec<Instance>, StoreError>| {
            let swept = swept.clone().unwrap().into_iter();
            swept.map(|it| (it.id().clone(), Told::Expired(it))).collect()
        };
        self.ask(self.store.sweep(20), tells).await.unwrap();
    }

    async fn look(&self, id: &InstanceId) {
        self.ask(self.store.get(id), |it| vec![(id.clone(), Told::MemorySample(it.clone().unwrap()))])
            .await
            .unwrap();
    }

    /// What a client does in a round, each a little else than its neighbours.
    async fn round(&self, n: usize, others: &Mutex<Vec<(Claim, InstanceId)>>) {
        self.provide(n).await;
        let claim = Claim { ttl: LEASE, node: self.node.clone(), ..wish() };
        let got = self.claim(&claim).await;
        if let Some(it) = &got {
            others.lock().push((claim.clone(), it.id().clone()));
        }
        // One that somebody else has, perhaps by the other server, and perhaps no longer.
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
                self.step(&id, release, Told::ReleaseResponse).await;
            }
            2 | 3 => self.step(&id, self.store.extend(&id, LEASE / 2, LONGEST), Told::ExtendResponse).await,
            4 => self.step(&id, self.store.fail(&id), Told::Failed).await,
            5 => self.sweep().await,
            _ => {}
        }
        self.look(&id).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_64_clients_of_two_servers_are_told_has_one_order() {
    let Some(server) = server() else { return };
    let prefix = own_prefix();
    let stores = [(); 2].map(|()| {
        let addresses = vec![tcp(server.address())];
        Arc::new(ValkeyStore::new(Settings {
            addresses,
            prefix: prefix.clone(),
            deadline: PATIENCE,
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
    let mut lives: HashMap<&InstanceId, Vec<&Entry>> = HashMap::new();
    for entry in entries.iter() {
        lives.entry(&entry.id).or_default().push(entry);
    }
    let left: HashMap<_, _> = left.iter().map(|it| (it.id().clone(), it)).collect();
    let mut seen = HashMap::new();
    let mut tokens = HashMap::new();
    for (id, entries) in &lives {
        let life = LifeOf::of(id, entries);
        life.check(left.get(id).copied());
        for step in life.steps.values() {
            let kind = match step.told {
                Told::Offered(_) => "offered",
                Told::Claimed(token, _) => {
                    assert_eq!(tokens.insert(token, (*id).clone()), None, "one token, two instances");
                    "claimed"
                }
                Told::ExtendResponse(_) => "extended",
                Told::ReleaseResponse(_) => "released",
                Told::Expired(_) => "expired",
                Told::Failed(_) => "failed",
                Told::MemorySample(_) | Told::Unknown => unreachable!(),
            };
            *seen.entry(kind).or_insert(0) += 1;
        }
    }
    for kind in ["offered", "claimed", "extended", "released", "expired", "failed"] {
        assert!(seen.get(kind).is_some_and(|count| *count >= 20), "too little happened: {seen:?}");
    }
    assert_eq!(seen["offered"], CLIENTS * ROUNDS);
    nothing_only_when_nothing_was_ready(&lives, &history.nothing.lock(), &tokens);
}

/// The steps of one instance by the generation that each began.
struct LifeOf<'a> {
    id: &'a InstanceId,
    steps: BTreeMap<u64, &'a Entry>,
    looks: Vec<&'a Entry>,
}

impl<'a> LifeOf<'a> {
    fn of(id: &'a InstanceId, entries: &[&'a Entry]) -> Self {
        let (mut steps, mut looks) = (BTreeMap::new(), Vec::new());
        let mut claims: Vec<&Entry> = Vec::new();
        for &entry in entries {
            let generation = match &entry.told {
                Told::Offered(it) | Told::ExtendResponse(it) | Told::Expired(it) => it.generation(),
                // Removed, or failed, in the step after the record as it was.
                Told::ReleaseResponse(it) | Told::Failed(it) => it.generation() + 1,
                Told::Claimed(..) => {
                    claims.push(entry);
                    continue;
                }
                Told::MemorySample(_) | Told::Unknown => {
                    looks.push(entry);
                    continue;
                }
            };
            let twice = steps.insert(generation, entry);
            assert!(twice.is_none(), "{id}: two steps are the {generation}th: {entry:?} and {twice:?}");
        }
        // Of a claim and its repetitions the first granted it, and the others looked.
        claims.sort_by_key(|claim| {
            let Told::Claimed(_, it) = &claim.told else { unreachable!() };
            (it.generation(), claim.ended)
        });
        for claim in claims {
            let Told::Claimed(token, it) = &claim.told else { unreachable!() };
            let owner = it.lease().unwrap().token();
            assert_eq!(*token, owner, "{id}: given to another's token");
            // Offered is the second, so the grant is the third.
            if it.generation() == 3 && !steps.contains_key(&3) {
                steps.insert(3, claim);
            } else {
                looks.push(claim);
            }
        }
        Self { id, steps, looks }
    }

    fn check(&self, left: Option<&Instance>) {
        let Self { id, steps, looks } = self;
        let mut before: Option<&Entry> = None;
        let mut deadline: Option<Millis> = None;
        for (n, (generation, step)) in steps.iter().enumerate() {
            assert_eq!(*generation, n as u64 + 2, "{id}: a step that nobody made: {steps:?}");
            if let Some(before) = before {
                assert!(before.begun <= step.ended, "{id}: {step:?} was over before {before:?} began");
                let over =
                    matches!(before.told, Told::ReleaseResponse(_) | Told::Expired(_) | Told::Failed(_));
                assert!(!over, "{id}: resurrected by {step:?}");
            }
            match &step.told {
                Told::Offered(_) => assert_eq!(n, 0, "{id}"),
                Told::Claimed(_, it) => {
                    assert_eq!(n, 1, "{id}: given again");
                    deadline = it.lease().map(|lease| lease.deadline());
                }
                Told::ExtendResponse(it) => {
                    let lease = it.lease().unwrap();
                    assert_eq!(Some(lease.deadline()), deadline.map(|deadline| deadline + LEASE / 2), "{id}");
                    assert!(step.from < deadline.unwrap(), "{id}: extended when it was over: {step:?}");
                    assert!(lease.deadline() <= lease.assigned_at() + LONGEST);
                    deadline = Some(lease.deadline());
                }
                Told::ReleaseResponse(_) => {
                    assert!(step.from < deadline.unwrap(), "{id}: released when it was over: {step:?}");
                }
                Told::Expired(it) => {
                    let State::Expired { at, ending, .. } = it.life() else { panic!("{it:?}") };
                    assert_eq!((Some(*at), *ending), (deadline, EndReason::Expired), "{id}");
                    assert!(step.until >= deadline.unwrap(), "{id}: expired early: {step:?}");
                }
                Told::Failed(_) => {
                    assert!(deadline.is_none_or(|deadline| step.from < deadline), "{id}: {step:?}");
                }
                Told::MemorySample(_) | Told::Unknown => unreachable!(),
            }
            before = Some(step);
        }
        for look in looks {
            self.check_look(look);
        }
        let last = before.expect("it was offered");
        match (&last.told, left) {
            (Told::ReleaseResponse(_), None) => {}
            (Told::Offered(_), Some(left)) => assert_eq!(left.life().name(), "ready", "{id}"),
            (Told::Failed(_) | Told::Expired(_), Some(left)) => {
                assert_eq!(left.life().name(), "expired", "{id}");
            }
            (Told::Claimed(_, it) | Told::ExtendResponse(it), Some(left)) => {
                assert_eq!(left.lease(), it.lease(), "{id}");
            }
            (_, left) => panic!("{id}: {last:?}, and then {left:?}"),
        }
    }

    /// A reader saw it as some step left it that was not yet followed by another.
    fn check_look(&self, look: &Entry) {
        let Self { id, steps, .. } = self;
        let record = match &look.told {
            Told::MemorySample(record) => record.as_ref(),
            Told::Claimed(_, it) => Some(it),
            _ => None,
        };
        // Readers see an overdue one as the sweep will leave it.
        if let Some(record) = record
            && let State::Expired { at, ending: EndReason::Expired, .. } = record.life()
        {
            assert!(*at <= look.until, "{id}: seen as over too early: {look:?}");
            assert!(steps[&(record.generation() - 1)].begun <= look.ended, "{id}: {look:?}");
            let next = steps.get(&record.generation());
            return assert!(next.is_none_or(|next| matches!(next.told, Told::Expired(_))), "{id}: {look:?}");
        }
        let generation = match (&look.told, record) {
            (Told::Unknown, _) => {
                // It was over by then, or its deadline had passed.
                let over = steps.values().any(|step| {
                    matches!(step.told, Told::ReleaseResponse(_) | Told::Expired(_) | Told::Failed(_))
                        && step.begun <= look.ended
                });
                let passed = steps.values().rev().find_map(|step| match &step.told {
                    Told::Claimed(_, it) | Told::ExtendResponse(it) if step.ended <= look.begun => {
                        it.lease().map(|lease| lease.deadline())
                    }
                    _ => None,
                });
                let passed = passed.is_some_and(|deadline| deadline <= look.until);
                assert!(over || passed, "{id}: unknown while it was there: {look:?} {steps:?}");
                return;
            }
            (_, Some(record)) => record.generation(),
            (_, None) => {
                let (generation, last) = steps.last_key_value().unwrap();
                assert!(matches!(last.told, Told::ReleaseResponse(_)), "{id}: lost: {look:?}");
                *generation
            }
        };
        let made = steps[&generation];
        assert!(made.begun <= look.ended, "{id}: seen before it was: {look:?}");
        if let Some(next) = steps.get(&(generation + 1)) {
            assert!(look.begun <= next.ended, "{id}: seen when it was over: {look:?} {next:?}");
        }
    }
}

/// A claim got nothing only if its token had had its instance, or if there was a moment in which nothing was ready:
/// so no instance was ready from its begin to its end for certain.
fn nothing_only_when_nothing_was_ready(
    lives: &HashMap<&InstanceId, Vec<&Entry>>,
    nothing: &[Nothing],
    tokens: &HashMap<ClaimToken, InstanceId>,
) {
    let spent: HashSet<_> = tokens.keys().collect();
    for claim in nothing.iter().filter(|claim| !spent.contains(&claim.token)) {
        for (id, entries) in lives {
            let offered =
                entries.iter().any(|it| matches!(it.told, Told::Offered(_)) && it.ended <= claim.begun);
            let taken = entries
                .iter()
                .any(|it| matches!(it.told, Told::Claimed(..) | Told::Failed(_)) && it.begun <= claim.ended);
            assert!(!offered || taken, "{id} was ready, and a claim got nothing");
        }
    }
}
