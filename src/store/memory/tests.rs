//! What only this implementation promises; the rest is in the conformance suite.

use super::*;
use crate::instance::{ClaimToken, Limits};
use crate::store::{UNCONFIRMED_FOR, Visitor};

const NO_LIMITS: Limits = Limits { hourly: 0, daily: 0 };

struct Bench {
    store: MemoryStore,
    clock: Clock,
    template: TemplateName,
    node: NodeId,
}

impl Bench {
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

    async fn claim(&self, visitor: usize, limits: Limits) -> Claimed {
        let claim = Claim {
            template: self.template.clone(),
            token: ClaimToken::random(),
            node: self.node.clone(),
            visitor: Visitor(visitor.to_string()),
            limits,
            ttl: Duration::from_secs(60),
        };
        self.store.claim(&claim).await.unwrap()
    }

    /// Tokens, visitors, and places for records.
    fn remembered(&self) -> (usize, usize, usize) {
        self.store.on("t", |shelf, _| shelf.remembered()).unwrap()
    }
}

#[tokio::test]
async fn claims_alone_keep_the_memory_bounded() {
    let bench = Bench::new();
    let limits = Limits { hourly: 2, daily: 5 };
    for visitor in 0..5_000 {
        let id = bench.ready().await;
        assert!(bench.claim(visitor, limits).await.instance().is_some());
        bench.store.release(&id).await.unwrap();
        bench.clock.advance(Duration::from_secs(60));
        let (tokens, visitors, places) = bench.remembered();
        assert_eq!(places, 1, "the place of a released one is used again");
        assert!(tokens <= 12, "{tokens} tokens of the last ten minutes");
        assert!(visitors <= 2 * 24 * 60, "{visitors} visitors of the last two days");
    }
}

#[tokio::test]
async fn a_sweep_drops_what_is_remembered_of_visitors_and_tokens_long_gone() {
    let bench = Bench::new();
    for visitor in 0..100 {
        let id = bench.ready().await;
        assert!(bench.claim(visitor, Limits { hourly: 2, daily: 5 }).await.instance().is_some());
        bench.store.release(&id).await.unwrap();
    }
    assert_eq!(bench.remembered(), (100, 100, 1));
    bench.clock.advance(Duration::from_secs(48 * 3600));
    bench.store.sweep(1).await.unwrap();
    assert_eq!(bench.remembered(), (0, 0, 1));
}

#[tokio::test]
async fn visitors_without_limits_are_not_remembered() {
    let bench = Bench::new();
    bench.ready().await;
    assert!(bench.claim(1, NO_LIMITS).await.instance().is_some());
    assert_eq!(bench.remembered(), (1, 0, 1));
}

#[tokio::test]
async fn a_batch_of_events_is_bounded_and_the_next_one_goes_on_where_it_ended() {
    let bench = Bench::new();
    let id = bench.ready().await;
    bench.claim(1, NO_LIMITS).await;
    for _ in 0..BATCH {
        bench.store.extend(&id, Duration::ZERO, Duration::from_secs(60)).await.unwrap();
    }
    let mut cursor = Cursor(0);
    for expected in [BATCH, 1] {
        let RouteEvents::Changes(changes) = bench.store.route_events(cursor, Duration::ZERO).await.unwrap()
        else {
            panic!("a gap")
        };
        assert_eq!(changes.len(), expected);
        assert_eq!(changes[0].0, Cursor(cursor.0 + 1));
        cursor = changes[changes.len() - 1].0;
    }
}

#[tokio::test]
async fn what_nobody_confirmed_before_a_restart_has_a_minute_from_there_on() {
    let file = std::env::temp_dir().join(format!("try-it-now-store-{}", NodeId::random()));
    let mut bench = Bench::new();
    let open = |clock: &Clock| MemoryStore::open(clock.clone(), file.clone()).unwrap();
    bench.store = open(&bench.clock);
    let claim = || Claim {
        template: bench.template.clone(),
        token: ClaimToken::random(),
        node: bench.node.clone(),
        visitor: Visitor("v".to_owned()),
        limits: NO_LIMITS,
        ttl: Duration::from_secs(3600),
    };
    let mut ids = Vec::new();
    for _ in 0..2 {
        bench.ready().await;
        let claimed = bench.store.claim(&claim()).await.unwrap();
        ids.push(claimed.instance().unwrap().id().clone());
    }
    bench.store.confirm(&ids[..1]).await.unwrap();
    bench.clock.advance(Duration::from_secs(50));
    let store = open(&bench.clock);
    bench.clock.advance(UNCONFIRMED_FOR - Duration::from_millis(1));
    assert_eq!(store.sweep(9).await.unwrap(), []);
    bench.clock.advance(Duration::from_millis(1));
    let swept = store.sweep(9).await.unwrap();
    assert_eq!(swept.iter().map(Instance::id).collect::<Vec<_>>(), [&ids[1]]);
    std::fs::remove_file(file).unwrap();
}
