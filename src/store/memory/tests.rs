//! What only the embedded store promises; the rest is in the conformance suite.

use std::time::Duration;

use super::MemoryStore;
use super::route_log::EVENTS_PER_BATCH;
use crate::clock::{Clock, Millis};
use crate::instance::{ClaimToken, Instance, InstanceId, NodeId, RateLimits, TemplateName};
use crate::store::{CONFIRM_TIMEOUT, Claim, Claimed, Cursor, RouteEvents, Store as _, Visitor};

const NO_LIMITS: RateLimits = RateLimits::NONE;

struct Fixture {
    store: MemoryStore,
    clock: Clock,
    template: TemplateName,
    node: NodeId,
}

impl Fixture {
    fn new() -> Self {
        let clock = Clock::manual(Millis(1_000_000));
        let store = MemoryStore::new(clock.clone());
        Self { store, clock, template: TemplateName::new("t").unwrap(), node: NodeId::parse("n").unwrap() }
    }

    async fn ready(&self) -> InstanceId {
        let id = InstanceId::random(&self.template);
        let new = Instance::warming(id.clone(), self.node.clone(), 1, self.clock.now());
        self.store.insert(new).await.unwrap();
        self.store.offer(&id, ([127, 0, 0, 1], 4000).into()).await.unwrap();
        id
    }

    async fn claim(&self, visitor: usize, limits: RateLimits) -> Claimed {
        let claim = Claim {
            template: self.template.clone(),
            token: ClaimToken::random(),
            node: self.node.clone(),
            visitor: Visitor::new(visitor.to_string()),
            limits,
            ttl: Duration::from_secs(60),
        };
        self.store.claim(&claim).await.unwrap()
    }

    /// How many tokens, visitors and slots for records are stored.
    fn stored(&self) -> (usize, usize, usize) {
        self.store.with_table("t", |table, _| table.stored()).unwrap()
    }
}

#[tokio::test]
async fn claims_alone_keep_the_memory_bounded() {
    let fixture = Fixture::new();
    let limits = RateLimits { hourly: 2, daily: 5, concurrent: 0 };
    for visitor in 0..5_000 {
        let id = fixture.ready().await;
        assert!(fixture.claim(visitor, limits).await.instance().is_some());
        fixture.store.release(&id).await.unwrap();
        fixture.clock.advance(Duration::from_secs(60));
        let (tokens, visitors, slots) = fixture.stored();
        assert_eq!(slots, 1, "the slot of a released instance is reused");
        assert!(tokens <= 12, "{tokens} tokens of the last ten minutes");
        assert!(visitors <= 2 * 24 * 60, "{visitors} visitors of the last two days");
    }
}

#[tokio::test]
async fn a_sweep_removes_visitors_and_tokens_that_are_stale() {
    let fixture = Fixture::new();
    for visitor in 0..100 {
        let id = fixture.ready().await;
        assert!(
            fixture
                .claim(visitor, RateLimits { hourly: 2, daily: 5, concurrent: 0 })
                .await
                .instance()
                .is_some()
        );
        fixture.store.release(&id).await.unwrap();
    }
    assert_eq!(fixture.stored(), (100, 100, 1));
    fixture.clock.advance(Duration::from_secs(48 * 3600));
    fixture.store.sweep(1).await.unwrap();
    assert_eq!(fixture.stored(), (0, 0, 1));
}

#[tokio::test]
async fn visitors_without_limits_are_not_stored() {
    let fixture = Fixture::new();
    fixture.ready().await;
    assert!(fixture.claim(1, NO_LIMITS).await.instance().is_some());
    assert_eq!(fixture.stored(), (1, 0, 1));
}

#[tokio::test]
async fn the_networks_of_ended_instances_are_not_stored() {
    let fixture = Fixture::new();
    let limits = RateLimits { concurrent: 1, ..NO_LIMITS };
    for visitor in 0..100 {
        let id = fixture.ready().await;
        assert!(fixture.claim(visitor, limits).await.instance().is_some());
        assert_eq!(fixture.stored().1, 1);
        fixture.store.release(&id).await.unwrap();
        assert_eq!(fixture.stored().1, 0);
    }
}

#[tokio::test]
async fn after_a_restart_the_instances_of_a_visitor_still_count() {
    let file = std::env::temp_dir().join(format!("try-it-now-store-{}", NodeId::random()));
    let mut fixture = Fixture::new();
    let limits = RateLimits { hourly: 2, daily: 5, concurrent: 1 };
    fixture.store = MemoryStore::open(fixture.clock.clone(), file.clone()).unwrap();
    let id = fixture.ready().await;
    assert!(fixture.claim(1, limits).await.instance().is_some());
    fixture.store = MemoryStore::open(fixture.clock.clone(), file.clone()).unwrap();
    fixture.ready().await;
    assert!(matches!(fixture.claim(1, limits).await, Claimed::RateLimited(_)));
    assert!(fixture.claim(2, limits).await.instance().is_some());
    let by = Duration::from_secs(1);
    fixture.store.extend(&id, by, by * 999, RateLimits { hourly: 1, ..NO_LIMITS }).await.unwrap();
    let refused = fixture.store.extend(&id, by, by * 999, RateLimits { hourly: 1, ..NO_LIMITS }).await;
    assert!(refused.is_err(), "an extension is charged to the visitor of the lease: {refused:?}");
    fixture.store.release(&id).await.unwrap();
    fixture.ready().await;
    assert!(matches!(fixture.claim(1, limits).await, Claimed::Granted { .. }));
    std::fs::remove_file(file).unwrap();
}

#[tokio::test]
async fn a_batch_of_events_is_bounded_and_the_next_batch_begins_where_it_ended() {
    let fixture = Fixture::new();
    let id = fixture.ready().await;
    fixture.claim(1, NO_LIMITS).await;
    for _ in 0..EVENTS_PER_BATCH {
        fixture.store.extend(&id, Duration::ZERO, Duration::from_secs(60), NO_LIMITS).await.unwrap();
    }
    let mut cursor = Cursor(0);
    for expected in [EVENTS_PER_BATCH, 1] {
        let RouteEvents::Changes(changes) = fixture.store.route_events(cursor, Duration::ZERO).await.unwrap()
        else {
            panic!("a gap")
        };
        assert_eq!(changes.len(), expected);
        assert_eq!(changes[0].0, Cursor(cursor.0 + 1));
        cursor = changes[changes.len() - 1].0;
    }
}

#[tokio::test]
async fn a_claim_unconfirmed_before_a_restart_may_be_confirmed_for_a_minute_after_it() {
    let file = std::env::temp_dir().join(format!("try-it-now-store-{}", NodeId::random()));
    let mut fixture = Fixture::new();
    let open = |clock: &Clock| MemoryStore::open(clock.clone(), file.clone()).unwrap();
    fixture.store = open(&fixture.clock);
    let claim = || Claim {
        template: fixture.template.clone(),
        token: ClaimToken::random(),
        node: fixture.node.clone(),
        visitor: Visitor::new("v"),
        limits: NO_LIMITS,
        ttl: Duration::from_secs(3600),
    };
    let mut ids = Vec::new();
    for _ in 0..2 {
        fixture.ready().await;
        let claimed = fixture.store.claim(&claim()).await.unwrap();
        ids.push(claimed.instance().unwrap().id().clone());
    }
    fixture.store.confirm(&ids[..1]).await.unwrap();
    fixture.clock.advance(Duration::from_secs(50));
    let store = open(&fixture.clock);
    fixture.clock.advance(CONFIRM_TIMEOUT - Duration::from_millis(1));
    assert_eq!(store.sweep(9).await.unwrap(), []);
    fixture.clock.advance(Duration::from_millis(1));
    let swept = store.sweep(9).await.unwrap();
    assert_eq!(swept.iter().map(Instance::id).collect::<Vec<_>>(), [&ids[1]]);
    std::fs::remove_file(file).unwrap();
}
