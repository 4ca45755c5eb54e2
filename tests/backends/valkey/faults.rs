//! A link that breaks: nothing is done twice, no caller waits beyond the deadline, and what follows works by itself.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, timeout};
use try_it_now::instance::{ClaimToken, Instance, InstanceId};
use try_it_now::store::valkey::{Address, DEADLINE, Settings, ValkeyStore};
use try_it_now::store::{Claim, Claimed, Cursor, Store, StoreError};

use super::{Valkey, server, tcp};
use crate::suites::store::fixture::{HOUR, MINUTE, Stage, TTL, node, template, wish};
use crate::suites::store::nodes::card;
use crate::support::fault_proxy::{Fault, Proxy};
use crate::support::valkey_server::PATIENCE;

/// The deadline of a call, and what a busy machine adds.
const SOON: Duration = Duration::from_millis(2_500);

/// What changes something.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Step {
    Insert,
    Offer,
    Claim,
    Confirm,
    TakeBack,
    Extend,
    Release,
    Retire,
    Fail,
    Sweep,
    Bury,
}

const STEPS: [Step; 11] = [
    Step::Insert,
    Step::Offer,
    Step::Claim,
    Step::Confirm,
    Step::TakeBack,
    Step::Extend,
    Step::Release,
    Step::Retire,
    Step::Fail,
    Step::Sweep,
    Step::Bury,
];

/// A store behind a link, and an eye on the same keys that the link's faults do not reach.
struct Rig {
    stage: Stage,
    link: Proxy,
    store: ValkeyStore,
    step: Step,
    id: InstanceId,
    new: Instance,
    claim: Claim,
    /// Before the step.
    events: usize,
}

impl Rig {
    async fn new(step: Step) -> Option<Self> {
        let server = server()?;
        let link = Proxy::to(server.address()).await;
        let direct = Settings { addresses: vec![tcp(server.address())], ..Settings::default() };
        let direct = Valkey::new(server, direct);
        let settings = Settings {
            addresses: vec![Address::Tcp(link.address.ip().to_string(), link.address.port())],
            deadline: DEADLINE,
            ..direct.settings.clone()
        };
        let store = ValkeyStore::new(settings);
        let stage = Stage::new(Arc::new(direct));
        let claim = Claim { ttl: HOUR, ..wish() };
        let id = match step {
            Step::Confirm | Step::TakeBack => {
                stage.ready("shop", "a").await;
                stage.granted(&claim).await.id().clone()
            }
            Step::Insert => InstanceId::random(&wish().template),
            Step::Offer => stage.warming("shop", "a").await,
            Step::Claim | Step::Retire => stage.ready("shop", "a").await,
            Step::Extend | Step::Release | Step::Fail | Step::Sweep | Step::Bury => {
                stage.assigned().await.id().clone()
            }
        };
        stage.store.heartbeat(&card("a")).await.unwrap();
        known_scripts(&stage).await;
        if step == Step::Sweep {
            stage.advance(TTL).await;
        }
        // A second one, so that a claim made twice would get it.
        stage.ready("shop", "b").await;
        let new = Instance::warming(id.clone(), node("a"), 1, stage.now().await);
        let events = stage.events(Cursor(0)).await.len();
        // The link is up, and the store has been vouched for on it.
        store.get(&id).await.unwrap();
        Some(Self { stage, link, store, step, id, new, claim, events })
    }

    /// What it was done to, as the answer names it.
    async fn act(&self) -> Result<Vec<InstanceId>, StoreError> {
        let (store, id) = (&self.store, &self.id);
        let one = |record: Instance| vec![record.id().clone()];
        let many = |all: Vec<Instance>| all.iter().map(|it| it.id().clone()).collect();
        let begun = Instant::now();
        let answer = match self.step {
            Step::Insert => store.insert(self.new.clone()).await.map(|()| vec![id.clone()]),
            Step::Offer => store.offer(id, self.stage.endpoint()).await.map(one),
            Step::Claim => store.claim(&self.claim).await.map(|claimed| match claimed {
                Claimed::Granted { instance, .. } => one(instance),
                other => panic!("{other:?}"),
            }),
            Step::Confirm => store.confirm(std::slice::from_ref(id)).await.map(|()| vec![id.clone()]),
            Step::TakeBack => store.take_back(&self.claim).await.map(one),
            Step::Extend => store.extend(id, MINUTE, MINUTE * 60).await.map(one),
            Step::Release => store.release(id).await.map(|(record, _)| one(record)),
            Step::Retire => store.retire(id).await.map(one),
            Step::Fail => store.fail(id).await.map(one),
            Step::Sweep => store.sweep(10).await.map(many),
            Step::Bury => store.evict_node(&node("a"), Duration::ZERO).await.map(many),
        };
        assert!(begun.elapsed() < SOON, "{:?} took {:?}", self.step, begun.elapsed());
        answer
    }

    /// Whether anything of it shows.
    async fn shows(&self) -> bool {
        let told = self.stage.events(Cursor(0)).await.len() > self.events;
        let state = self.stage.state(&self.id).await;
        told || self.is_confirmed().await
            || matches!(
                (self.step, state),
                (Step::Insert, "warming") | (Step::Offer, "ready") | (Step::Retire, "gone")
            )
    }

    /// Whether it is known that the visitor was told: then the lease is all that ends it.
    async fn is_confirmed(&self) -> bool {
        let deadline = self.stage.get(&self.id).await.and_then(|it| Some(it.lease()?.deadline()));
        self.step == Step::Confirm && self.stage.store.next_deadline().await.unwrap() == deadline
    }

    /// Whether it was done; panics if it was done twice or in part.
    async fn done(&self) -> bool {
        let told = self.stage.events(Cursor(0)).await.len() - self.events;
        let record = self.stage.get(&self.id).await;
        let state = record.as_ref().map_or("gone", |record| record.life().name());
        let (before, after, tells) = match self.step {
            Step::Insert => ("gone", "warming", 0),
            Step::Offer => ("warming", "ready", 0),
            Step::Claim => ("ready", "assigned", 1),
            Step::Confirm => ("assigned", "assigned", 0),
            Step::TakeBack => ("assigned", "ready", 1),
            Step::Extend => {
                let lease = *record.as_ref().unwrap().lease().unwrap();
                let by = lease.deadline().since(lease.assigned_at()) - TTL;
                assert!(by == MINUTE * told as u32, "{by:?} {told}");
                ("assigned", "assigned", 1)
            }
            Step::Release => ("assigned", "gone", 1),
            Step::Retire => ("ready", "gone", 0),
            Step::Fail | Step::Bury => ("assigned", "expired", 1),
            Step::Sweep => ("expired", "expired", 1),
        };
        let done = match self.step {
            Step::Confirm => self.is_confirmed().await,
            _ if tells > 0 => told == 1,
            _ => state == after,
        };
        assert!(told <= tells, "{:?}: {told} events", self.step);
        assert_eq!(state, if done { after } else { before }, "{:?}", self.step);
        let others = if self.step == Step::Offer || self.step == Step::Claim { None } else { Some(1) };
        if let Some(ready) = others {
            let more = (self.step == Step::Retire && !done) || (self.step == Step::TakeBack && done);
            let ready = ready + usize::from(more);
            assert_eq!(self.stage.counts("shop").await.1, ready, "{:?}", self.step);
        }
        done
    }

    /// The step once more, after an error that left open whether it was done.
    async fn repeat(&self) {
        let done = self.done().await;
        let again = self.act().await;
        match (self.step, done) {
            // Its limit is all that holds.
            (Step::Extend, true) => return assert!(again.is_ok()),
            (_, false) | (Step::Claim | Step::Confirm, true) => {
                assert_eq!(again, Ok(vec![self.id.clone()]), "{:?}", self.step)
            }
            (Step::Insert, true) => assert_eq!(again, Err(StoreError::Exists)),
            (Step::Offer, true) => assert!(matches!(again, Err(StoreError::Refused(_))), "{again:?}"),
            (Step::Sweep | Step::Bury, true) => assert_eq!(again, Ok(Vec::new())),
            (Step::TakeBack | Step::Release | Step::Retire | Step::Fail, true) => {
                assert_eq!(again, Err(StoreError::Unknown))
            }
        }
        assert!(self.done().await, "{:?}", self.step);
    }
}

/// Has each script run once: else the next thing asked were whether Valkey knows it.
async fn known_scripts(stage: &Stage) {
    let (store, nobody) = (&stage.store, InstanceId::random(&wish().template));
    stage.ready("blog", "c").await;
    assert_eq!(store.extend(&nobody, MINUTE, MINUTE).await, Err(StoreError::Unknown));
    assert_eq!(store.release(&nobody).await, Err(StoreError::Unknown));
    assert_eq!(store.retire(&nobody).await, Err(StoreError::Unknown));
    assert_eq!(store.fail(&nobody).await, Err(StoreError::Unknown));
    assert_eq!(store.sweep(1).await, Ok(Vec::new()));
    assert_eq!(store.evict_node(&node("none"), Duration::ZERO).await, Ok(Vec::new()));
    assert_eq!(store.confirm(&[nobody]).await, Ok(()));
    assert_eq!(store.take_back(&wish()).await, Err(StoreError::Unknown));
    let none = Claim { template: template("none"), ..wish() };
    assert_eq!(store.claim(&none).await, Ok(Claimed::Empty));
}

/// All steps at once, each on a link of its own.
async fn each_step(act: impl AsyncFn(&Rig)) {
    join_all(STEPS.map(async |step| {
        let Some(rig) = Rig::new(step).await else { return };
        act(&rig).await;
        rig.link.set(Fault::Whole);
        rig.store.ping().await.unwrap();
        rig.stage.sound().await;
    }))
    .await;
}

#[tokio::test]
async fn a_step_whose_request_is_lost_is_done_once() {
    each_step(async |rig| {
        rig.link.set(Fault::LoseRequest);
        assert_eq!(rig.act().await, Ok(vec![rig.id.clone()]), "{:?}", rig.step);
        assert!(rig.done().await);
    })
    .await;
}

#[tokio::test]
async fn a_step_whose_answer_is_lost_is_done_once_and_gets_that_answer() {
    each_step(async |rig| {
        rig.link.set(Fault::LoseAnswer);
        assert_eq!(rig.act().await, Ok(vec![rig.id.clone()]), "{:?}", rig.step);
        assert!(rig.done().await);
    })
    .await;
}

#[tokio::test]
async fn a_step_on_a_link_that_broke_unnoticed_is_done_once() {
    each_step(async |rig| {
        rig.link.cut();
        assert_eq!(rig.act().await, Ok(vec![rig.id.clone()]), "{:?}", rig.step);
        rig.link.cut();
        assert!(rig.done().await);
    })
    .await;
}

#[tokio::test]
async fn a_step_may_be_repeated_when_all_answers_were_lost() {
    each_step(async |rig| {
        rig.link.set(Fault::LoseAnswers);
        assert!(matches!(rig.act().await, Err(StoreError::Unavailable(_))));
        assert!(rig.done().await, "{:?} arrived", rig.step);
        rig.link.set(Fault::Whole);
        rig.repeat().await;
    })
    .await;
}

#[tokio::test]
async fn a_server_that_cannot_be_reached_is_an_error_at_once() {
    each_step(async |rig| {
        rig.link.set(Fault::Refused);
        rig.link.cut();
        let begun = Instant::now();
        assert!(matches!(rig.act().await, Err(StoreError::Unavailable(_))));
        assert!(begun.elapsed() < Duration::from_millis(900), "there is nothing to wait for");
        assert!(!rig.done().await);
        rig.link.set(Fault::Whole);
        rig.repeat().await;
    })
    .await;
}

#[tokio::test]
async fn a_half_open_link_is_an_error_at_the_deadline() {
    each_step(async |rig| {
        rig.link.set(Fault::Silent);
        assert!(matches!(rig.act().await, Err(StoreError::Unavailable(_))));
        // Once more: now the new connection is silent too.
        assert!(matches!(rig.act().await, Err(StoreError::Unavailable(_))));
        assert!(!rig.done().await);
        rig.link.set(Fault::Whole);
        rig.repeat().await;
    })
    .await;
}

#[tokio::test]
async fn a_short_delay_is_waited_for_and_a_long_one_is_not() {
    each_step(async |rig| {
        rig.link.set(Fault::Delay(Duration::from_millis(1_500)));
        assert!(matches!(rig.act().await, Err(StoreError::Unavailable(_))));
        assert!(!rig.done().await);
        // It arrives all the same.
        let arrives = async {
            while !rig.shows().await {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, arrives).await.unwrap_or_else(|_| panic!("{:?} never arrived", rig.step));
        assert!(rig.done().await);
        rig.link.set(Fault::Delay(Duration::from_millis(100)));
        rig.repeat().await;
    })
    .await;
}

#[tokio::test]
async fn a_thousand_callers_at_a_silent_server_wait_no_longer_than_one() {
    let Some(rig) = Rig::new(Step::Claim).await else { return };
    rig.link.set(Fault::Silent);
    for _ in 0..2 {
        let begun = Instant::now();
        let answers = join_all((0..1_000).map(|_| rig.store.ping())).await;
        assert!(answers.iter().all(|answer| matches!(answer, Err(StoreError::Unavailable(_)))));
        assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    }
    rig.link.set(Fault::Whole);
    let answers = join_all((0..1_000).map(|_| rig.store.ping())).await;
    assert!(answers.iter().all(Result::is_ok), "{:?}", answers.iter().find(|answer| answer.is_err()));
    // Not one for each caller, neither while nothing answered nor after.
    assert!(rig.link.connections() < 50, "{} connections", rig.link.connections());
}

#[tokio::test]
async fn a_claim_repeated_through_every_fault_gets_one_instance() {
    let Some(rig) = Rig::new(Step::Claim).await else { return };
    let claim = Claim { token: ClaimToken::random(), ..wish() };
    let mut got = Vec::new();
    for fault in [Fault::LoseAnswers, Fault::LoseAnswer, Fault::LoseRequest, Fault::Refused, Fault::Whole] {
        rig.link.set(Fault::Whole);
        rig.store.ping().await.unwrap();
        rig.link.set(fault);
        if let Ok(claimed) = rig.store.claim(&claim).await {
            got.push(claimed.instance().unwrap().clone());
        }
    }
    assert!(got.len() >= 4 && got.iter().all(|it| *it == got[0]), "{got:?}");
    assert_eq!(rig.stage.counts("shop").await, (0, 1, 1));
}

#[tokio::test]
async fn a_follower_goes_on_where_it_was_when_its_link_is_cut() {
    let Some(rig) = Rig::new(Step::Release).await else { return };
    let (_, cursor) = rig.stage.snapshot().await;
    let waiting = rig.store.route_events(cursor, Duration::from_secs(10));
    let cutting = async {
        // It waits by now, or comes later and finds no link; either is to be survived.
        tokio::time::sleep(Duration::from_millis(100)).await;
        rig.link.cut();
    };
    let (waited, ()) = tokio::join!(timeout(PATIENCE, waiting), cutting);
    assert!(matches!(waited.unwrap(), Err(StoreError::Unavailable(_))));
    rig.store.release(&rig.id).await.unwrap();
    assert_eq!(rig.stage.events(cursor).await.len(), 1);
    let told = rig.store.route_events(cursor, Duration::from_secs(10)).await.unwrap();
    assert!(matches!(told, try_it_now::store::RouteEvents::Changes(changes) if changes.len() == 1));
}
