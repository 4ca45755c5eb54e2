//! Faults of the connection to Valkey: no operation is done twice, no caller waits beyond the deadline, and the next
//! operation works without help.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, timeout};
use try_it_now::instance::{ClaimToken, ExtendRefused, Instance, InstanceId, RateLimits};
use try_it_now::store::valkey::{Address, CALL_TIMEOUT, Settings, ValkeyStore};
use try_it_now::store::{Claim, Claimed, Cursor, Store, StoreError};

use super::{ValkeyBackend, server, tcp};
use crate::suites::runtime::wait_until;
use crate::suites::store::fixture::{HOUR, MINUTE, NO_LIMITS, StoreFixture, TTL, new_claim, node, template};
use crate::suites::store::nodes::node_info;
use crate::support::fault_proxy::{Fault, FaultProxy};
use crate::support::valkey_server::MAX_WAIT;

/// The deadline of a call plus the delay of a busy machine.
const MAX_CALL_TIME: Duration = Duration::from_millis(2_500);

/// The operations that change a record.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Operation {
    Insert,
    Offer,
    Claim,
    Confirm,
    TakeBack,
    Extend,
    Release,
    Retire,
    Withdraw,
    Fail,
    Sweep,
    Bury,
}

const OPERATIONS: [Operation; 12] = [
    Operation::Insert,
    Operation::Offer,
    Operation::Claim,
    Operation::Confirm,
    Operation::TakeBack,
    Operation::Extend,
    Operation::Release,
    Operation::Retire,
    Operation::Withdraw,
    Operation::Fail,
    Operation::Sweep,
    Operation::Bury,
];

/// A store behind a fault proxy, and a fixture that accesses the same keys without the proxy.
struct FaultyStore {
    fixture: StoreFixture,
    proxy: FaultProxy,
    store: ValkeyStore,
    operation: Operation,
    id: InstanceId,
    new: Instance,
    claim: Claim,
    /// The number of events before the operation.
    events: usize,
}

impl FaultyStore {
    async fn new(operation: Operation) -> Option<Self> {
        let server = server()?;
        let proxy = FaultProxy::to(server.address()).await;
        let direct = Settings { addresses: vec![tcp(server.address())], ..Settings::default() };
        let direct = ValkeyBackend::new(server, direct);
        let settings = Settings {
            addresses: vec![Address::Tcp(proxy.address.ip().to_string(), proxy.address.port())],
            call_timeout: CALL_TIMEOUT,
            ..direct.settings.clone()
        };
        let store = ValkeyStore::new(settings);
        let fixture = StoreFixture::new(Arc::new(direct));
        let claim = Claim { ttl: HOUR, ..new_claim() };
        let id = match operation {
            Operation::Confirm | Operation::TakeBack => {
                fixture.add_ready("shop", "a").await;
                fixture.granted(&claim).await.id().clone()
            }
            Operation::Insert => InstanceId::random(&new_claim().template),
            Operation::Offer => fixture.add_warming("shop", "a").await,
            Operation::Claim | Operation::Retire | Operation::Withdraw => {
                fixture.add_ready("shop", "a").await
            }
            Operation::Extend | Operation::Release | Operation::Fail | Operation::Sweep | Operation::Bury => {
                fixture.add_assigned().await.id().clone()
            }
        };
        fixture.store.heartbeat(&node_info("a")).await.unwrap();
        load_scripts(&fixture).await;
        if operation == Operation::Sweep {
            fixture.advance(TTL).await;
        }
        // A second ready instance, which a claim that is done twice would get.
        fixture.add_ready("shop", "b").await;
        let new = Instance::warming(id.clone(), node("a"), 1, fixture.now().await);
        let events = fixture.events(Cursor(0)).await.len();
        // Then the proxy is connected, and the store has checked that Valkey has its data.
        wait_until("the store is connected", async || store.get(&id).await.ok()).await;
        Some(Self { fixture, proxy, store, operation, id, new, claim, events })
    }

    /// Does the operation. Returns the instances that the answer names.
    async fn run(&self) -> Result<Vec<InstanceId>, StoreError> {
        let (store, id) = (&self.store, &self.id);
        let one = |record: Instance| vec![record.id().clone()];
        let many = |all: Vec<Instance>| all.iter().map(|it| it.id().clone()).collect();
        let begun = Instant::now();
        let answer = match self.operation {
            Operation::Insert => store.insert(self.new.clone()).await.map(|()| vec![id.clone()]),
            Operation::Offer => store.offer(id, self.fixture.endpoint()).await.map(one),
            Operation::Claim => store.claim(&self.claim).await.map(|claimed| match claimed {
                Claimed::Granted { instance, .. } => one(instance),
                other => panic!("{other:?}"),
            }),
            Operation::Confirm => store.confirm(std::slice::from_ref(id)).await.map(|()| vec![id.clone()]),
            Operation::TakeBack => store.undo_claim(&self.claim).await.map(one),
            Operation::Extend => store.extend(id, MINUTE, MINUTE * 60, NO_LIMITS).await.map(one),
            Operation::Release => store.release(id).await.map(|(record, _)| one(record)),
            Operation::Retire => store.retire(id).await.map(one),
            Operation::Withdraw => store.withdraw(id).await.map(one),
            Operation::Fail => store.fail(id).await.map(one),
            Operation::Sweep => store.sweep(10).await.map(many),
            Operation::Bury => store.evict_node(&node("a"), Duration::ZERO).await.map(many),
        };
        assert!(begun.elapsed() < MAX_CALL_TIME, "{:?} took {:?}", self.operation, begun.elapsed());
        answer
    }

    /// Returns whether the operation has a visible effect.
    async fn has_effect(&self) -> bool {
        let has_event = self.fixture.events(Cursor(0)).await.len() > self.events;
        let state = self.fixture.state(&self.id).await;
        has_event
            || self.is_confirmed().await
            || matches!(
                (self.operation, state),
                (Operation::Insert | Operation::Withdraw, "warming")
                    | (Operation::Offer, "ready")
                    | (Operation::Retire, "gone")
            )
    }

    /// Returns whether the claim is confirmed: then only the lease ends it.
    async fn is_confirmed(&self) -> bool {
        let deadline = self.fixture.get(&self.id).await.and_then(|it| Some(it.lease()?.deadline()));
        self.operation == Operation::Confirm && self.fixture.store.next_deadline().await.unwrap() == deadline
    }

    /// Returns whether the operation was done. Panics if it was done twice or in part.
    async fn is_done(&self) -> bool {
        let events = self.fixture.events(Cursor(0)).await.len() - self.events;
        let record = self.fixture.get(&self.id).await;
        let state = record.as_ref().map_or("gone", |record| record.state().name());
        let (before, after, expected_events) = match self.operation {
            Operation::Insert => ("gone", "warming", 0),
            Operation::Offer => ("warming", "ready", 0),
            Operation::Claim => ("ready", "assigned", 1),
            Operation::Confirm => ("assigned", "assigned", 0),
            Operation::TakeBack => ("assigned", "ready", 1),
            Operation::Extend => {
                let lease = *record.as_ref().unwrap().lease().unwrap();
                let by = lease.deadline().since(lease.assigned_at()) - TTL;
                assert!(by == MINUTE * events as u32, "{by:?} {events}");
                ("assigned", "assigned", 1)
            }
            Operation::Release => ("assigned", "gone", 1),
            Operation::Retire => ("ready", "gone", 0),
            Operation::Withdraw => ("ready", "warming", 0),
            Operation::Fail | Operation::Bury => ("assigned", "expired", 1),
            Operation::Sweep => ("expired", "expired", 1),
        };
        let done = match self.operation {
            Operation::Confirm => self.is_confirmed().await,
            _ if expected_events > 0 => events == 1,
            _ => state == after,
        };
        assert!(events <= expected_events, "{:?}: {events} events", self.operation);
        assert_eq!(state, if done { after } else { before }, "{:?}", self.operation);
        let others = if self.operation == Operation::Offer || self.operation == Operation::Claim {
            None
        } else {
            Some(1)
        };
        if let Some(ready) = others {
            let more = (matches!(self.operation, Operation::Retire | Operation::Withdraw) && !done)
                || (self.operation == Operation::TakeBack && done);
            let ready = ready + usize::from(more);
            assert_eq!(self.fixture.counts("shop").await.1, ready, "{:?}", self.operation);
        }
        done
    }

    /// Repeats the operation after an error that left open whether it was done.
    async fn repeat(&self) {
        let done = self.is_done().await;
        let again = self.run().await;
        match (self.operation, done) {
            // Only the maximum TTL limits repeated extensions.
            (Operation::Extend, true) => return assert!(again.is_ok()),
            (_, false) | (Operation::Claim | Operation::Confirm, true) => {
                assert_eq!(again, Ok(vec![self.id.clone()]), "{:?}", self.operation)
            }
            (Operation::Insert, true) => assert_eq!(again, Err(StoreError::Exists)),
            (Operation::Offer | Operation::Withdraw, true) => {
                assert!(matches!(again, Err(StoreError::Refused(_))), "{again:?}")
            }
            (Operation::Sweep | Operation::Bury, true) => assert_eq!(again, Ok(Vec::new())),
            (Operation::TakeBack | Operation::Release | Operation::Retire | Operation::Fail, true) => {
                assert_eq!(again, Err(StoreError::Unknown))
            }
        }
        assert!(self.is_done().await, "{:?}", self.operation);
    }
}

/// Runs each script once. Else the next request would be the one that checks whether Valkey knows the script.
async fn load_scripts(fixture: &StoreFixture) {
    let (store, unknown) = (&fixture.store, InstanceId::random(&new_claim().template));
    fixture.add_ready("blog", "c").await;
    assert_eq!(store.extend(&unknown, MINUTE, MINUTE, NO_LIMITS).await, Err(StoreError::Unknown));
    assert_eq!(store.release(&unknown).await, Err(StoreError::Unknown));
    assert_eq!(store.retire(&unknown).await, Err(StoreError::Unknown));
    assert_eq!(store.withdraw(&unknown).await, Err(StoreError::Unknown));
    assert_eq!(store.fail(&unknown).await, Err(StoreError::Unknown));
    assert_eq!(store.sweep(1).await, Ok(Vec::new()));
    assert_eq!(store.evict_node(&node("none"), Duration::ZERO).await, Ok(Vec::new()));
    assert_eq!(store.confirm(&[unknown]).await, Ok(()));
    assert_eq!(store.undo_claim(&new_claim()).await, Err(StoreError::Unknown));
    let none = Claim { template: template("none"), ..new_claim() };
    assert_eq!(store.claim(&none).await, Ok(Claimed::Empty));
}

/// Runs `act` for all operations at the same time, each behind a proxy of its own.
async fn for_each_operation(run: impl AsyncFn(&FaultyStore)) {
    join_all(OPERATIONS.map(async |operation| {
        let Some(faulty) = FaultyStore::new(operation).await else { return };
        run(&faulty).await;
        faulty.proxy.set(Fault::None);
        faulty.store.ping().await.unwrap();
        faulty.fixture.check_invariants().await;
    }))
    .await;
}

#[tokio::test]
async fn an_operation_whose_request_is_lost_is_done_once() {
    for_each_operation(async |faulty| {
        faulty.proxy.set(Fault::LoseRequest);
        assert_eq!(faulty.run().await, Ok(vec![faulty.id.clone()]), "{:?}", faulty.operation);
        assert!(faulty.is_done().await);
    })
    .await;
}

#[tokio::test]
async fn an_operation_whose_answer_is_lost_is_done_once_and_returns_that_answer() {
    for_each_operation(async |faulty| {
        faulty.proxy.set(Fault::LoseAnswer);
        assert_eq!(faulty.run().await, Ok(vec![faulty.id.clone()]), "{:?}", faulty.operation);
        assert!(faulty.is_done().await);
    })
    .await;
}

#[tokio::test]
async fn an_operation_on_a_connection_that_broke_unnoticed_is_done_once() {
    for_each_operation(async |faulty| {
        faulty.proxy.reset_connections();
        assert_eq!(faulty.run().await, Ok(vec![faulty.id.clone()]), "{:?}", faulty.operation);
        faulty.proxy.reset_connections();
        assert!(faulty.is_done().await);
    })
    .await;
}

#[tokio::test]
async fn an_operation_can_be_repeated_when_all_answers_were_lost() {
    for_each_operation(async |faulty| {
        faulty.proxy.set(Fault::LoseAnswers);
        assert!(matches!(faulty.run().await, Err(StoreError::Unavailable(_))));
        assert!(faulty.is_done().await, "{:?} arrived", faulty.operation);
        faulty.proxy.set(Fault::None);
        faulty.repeat().await;
    })
    .await;
}

#[tokio::test]
async fn an_unreachable_server_is_an_error_at_once() {
    for_each_operation(async |faulty| {
        faulty.proxy.set(Fault::Refuse);
        faulty.proxy.reset_connections();
        let begun = Instant::now();
        assert!(matches!(faulty.run().await, Err(StoreError::Unavailable(_))));
        assert!(begun.elapsed() < Duration::from_millis(900), "a refused connection needs no wait");
        assert!(!faulty.is_done().await);
        faulty.proxy.set(Fault::None);
        faulty.repeat().await;
    })
    .await;
}

#[tokio::test]
async fn a_half_open_connection_is_an_error_at_the_deadline() {
    for_each_operation(async |faulty| {
        faulty.proxy.set(Fault::Silent);
        assert!(matches!(faulty.run().await, Err(StoreError::Unavailable(_))));
        // The second attempt uses a new connection, which is silent too.
        assert!(matches!(faulty.run().await, Err(StoreError::Unavailable(_))));
        assert!(!faulty.is_done().await);
        faulty.proxy.set(Fault::None);
        faulty.repeat().await;
    })
    .await;
}

#[tokio::test]
async fn a_short_delay_is_waited_for_and_a_long_one_is_not() {
    for_each_operation(async |faulty| {
        faulty.proxy.set(Fault::Delay(Duration::from_millis(1_500)));
        assert!(matches!(faulty.run().await, Err(StoreError::Unavailable(_))));
        assert!(!faulty.is_done().await);
        // The delayed request still arrives.
        let arrives = async {
            while !faulty.has_effect().await {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(MAX_WAIT, arrives).await.unwrap_or_else(|_| panic!("{:?} never arrived", faulty.operation));
        assert!(faulty.is_done().await);
        faulty.proxy.set(Fault::Delay(Duration::from_millis(100)));
        faulty.repeat().await;
    })
    .await;
}

#[tokio::test]
async fn a_thousand_callers_at_a_silent_server_wait_no_longer_than_one() {
    let Some(faulty) = FaultyStore::new(Operation::Claim).await else { return };
    faulty.proxy.set(Fault::Silent);
    for _ in 0..2 {
        let begun = Instant::now();
        let answers = join_all((0..1_000).map(|_| faulty.store.ping())).await;
        assert!(answers.iter().all(|answer| matches!(answer, Err(StoreError::Unavailable(_)))));
        assert!(begun.elapsed() < MAX_CALL_TIME, "{:?}", begun.elapsed());
    }
    faulty.proxy.set(Fault::None);
    let answers = join_all((0..1_000).map(|_| faulty.store.ping())).await;
    assert!(answers.iter().all(Result::is_ok), "{:?}", answers.iter().find(|answer| answer.is_err()));
    // The callers share connections, both while nothing answers and after that.
    assert!(faulty.proxy.connection_count() < 50, "{} connections", faulty.proxy.connection_count());
}

#[tokio::test]
async fn a_claim_repeated_through_every_fault_gets_one_instance() {
    let Some(faulty) = FaultyStore::new(Operation::Claim).await else { return };
    let claim = Claim { token: ClaimToken::random(), ..new_claim() };
    let mut got = Vec::new();
    for fault in [Fault::LoseAnswers, Fault::LoseAnswer, Fault::LoseRequest, Fault::Refuse, Fault::None] {
        faulty.proxy.set(Fault::None);
        faulty.store.ping().await.unwrap();
        faulty.proxy.set(fault);
        if let Ok(claimed) = faulty.store.claim(&claim).await {
            got.push(claimed.instance().unwrap().clone());
        }
    }
    assert!(got.len() >= 4 && got.iter().all(|it| *it == got[0]), "{got:?}");
    assert_eq!(faulty.fixture.counts("shop").await, (0, 1, 1));
}

#[tokio::test]
async fn an_extension_whose_request_or_answer_is_lost_is_charged_once() {
    let Some(faulty) = FaultyStore::new(Operation::Extend).await else { return };
    let (fixture, store) = (&faulty.fixture, &faulty.store);
    let limits = RateLimits { hourly: 3, daily: 3, concurrent: 0 };
    let it = fixture.granted(&Claim { limits, ttl: HOUR, ..new_claim() }).await;
    for fault in [Fault::LoseAnswer, Fault::LoseRequest] {
        faulty.proxy.set(fault);
        store.extend(it.id(), MINUTE, 9 * HOUR, limits).await.unwrap();
    }
    faulty.proxy.set(Fault::None);
    let refused = store.extend(it.id(), MINUTE, 9 * HOUR, limits).await;
    assert!(matches!(refused, Err(StoreError::NotExtended(ExtendRefused::RateLimited(_)))), "{refused:?}");
    let deadline = fixture.get(it.id()).await.unwrap().lease().unwrap().deadline();
    assert_eq!(deadline, it.lease().unwrap().deadline() + 2 * MINUTE);
}

#[tokio::test]
async fn a_follower_resumes_at_its_cursor_when_its_connection_is_reset() {
    let Some(faulty) = FaultyStore::new(Operation::Release).await else { return };
    let (_, cursor) = faulty.fixture.snapshot().await;
    let waiting = faulty.store.route_events(cursor, Duration::from_secs(10));
    let cutting = async {
        // The follower waits by now, or it comes later and finds no connection. It must survive both.
        tokio::time::sleep(Duration::from_millis(100)).await;
        faulty.proxy.reset_connections();
    };
    let (waited, ()) = tokio::join!(timeout(MAX_WAIT, waiting), cutting);
    assert!(matches!(waited.unwrap(), Err(StoreError::Unavailable(_))));
    faulty.store.release(&faulty.id).await.unwrap();
    assert_eq!(faulty.fixture.events(cursor).await.len(), 1);
    let events = faulty.store.route_events(cursor, Duration::from_secs(10)).await.unwrap();
    assert!(matches!(events, try_it_now::store::RouteEvents::Changes(changes) if changes.len() == 1));
}
