//! What a flood of requests costs the store: refused visitors, invented ids, and many who want the counts.

use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;

use super::fixture::{Fixture, START, template};
use crate::instance::{Instance, InstanceId, RateLimits, TemplateName};
use crate::pool::claim::delivery_worker::settle;
use crate::pool::{AcquireError, Acquired, Asker, InstanceStatus};
use crate::store::{Store as _, StoreError, Visitor};
use crate::template::Template;

const CLIENT: Asker = Asker::Client(IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 9)));

/// Creates a fixture whose visitors get one instance an hour, with `ready` ready instances.
async fn fixture_with(ready: u16) -> Fixture {
    let limits = RateLimits { hourly: 1, daily: 0, concurrent: 0 };
    let fixture = Fixture::with(None, Template { rate_limit: limits, ..template("t", 1, 1, 9) });
    for n in 0..ready {
        insert(&fixture, n).await;
    }
    fixture
}

/// Puts one ready instance on record.
async fn insert(fixture: &Fixture, n: u16) -> InstanceId {
    let id = random_id("t");
    let new = Instance::warming(id.clone(), fixture.node.clone(), 1, START);
    fixture.store.inner.insert(new).await.unwrap();
    fixture.store.inner.offer(&id, ([127, 0, 0, 1], 4000 + n).into()).await.unwrap();
    id
}

fn random_id(template: &str) -> InstanceId {
    InstanceId::random(&TemplateName::new(template).unwrap())
}

async fn acquire(fixture: &Fixture, visitor: &str) -> Result<Acquired, AcquireError> {
    fixture.pool.claims.acquire("t", Visitor::new(visitor)).await
}

async fn get(fixture: &Fixture, id: &InstanceId, asker: Asker) -> Result<Option<Instance>, StoreError> {
    fixture.pool.instances.get(id, asker).await
}

#[tokio::test(start_paused = true)]
async fn a_refused_visitor_who_repeats_an_acquire_costs_the_store_one_claim_a_minute() {
    let fixture = fixture_with(3).await;
    acquire(&fixture, "a").await.unwrap().delivery.complete();
    let mut waits = Vec::new();
    for _ in 0..1000 {
        let Err(AcquireError::RateLimited(refused)) = acquire(&fixture, "a").await else { panic!() };
        waits.push(refused.retry_after);
    }
    assert_eq!(fixture.store.calls("claim"), 2);
    tokio::time::advance(Duration::from_secs(30)).await;
    fixture.store.down.store(true, Ordering::SeqCst);
    let Err(AcquireError::RateLimited(refused)) = acquire(&fixture, "a").await else { panic!() };
    assert_eq!(refused.retry_after, waits[0] - Duration::from_secs(30), "it counts down");
    assert!(matches!(acquire(&fixture, "b").await, Err(AcquireError::Store(_))));
    fixture.store.down.store(false, Ordering::SeqCst);
    acquire(&fixture, "b").await.unwrap().delivery.complete();
    tokio::time::advance(Duration::from_secs(30)).await;
    let before = fixture.store.calls("claim");
    for _ in 0..1000 {
        assert!(matches!(acquire(&fixture, "a").await, Err(AcquireError::RateLimited(_))));
    }
    assert_eq!(fixture.store.calls("claim"), before + 1);
}

#[tokio::test(start_paused = true)]
async fn a_refused_visitor_whose_claim_is_undone_gets_an_instance_at_once() {
    let fixture = fixture_with(1).await;
    let first = acquire(&fixture, "a").await.unwrap();
    assert!(matches!(acquire(&fixture, "a").await, Err(AcquireError::RateLimited(_))));
    drop(first);
    settle(&fixture.pool.claims, false).await;
    acquire(&fixture, "a").await.unwrap().delivery.complete();
}

#[tokio::test(start_paused = true)]
async fn invented_ids_cost_the_store_no_more_than_the_budget_of_their_client() {
    let fixture = fixture_with(0).await;
    fixture.pool.shared.routes.apply_snapshot(&[], fixture.pool.shared.routes.mark());
    for n in 0..300 {
        let id = random_id("t");
        match n % 3 {
            0 => assert_eq!(get(&fixture, &id, CLIENT).await, Ok(None)),
            1 => {
                let extended = fixture.pool.instances.extend(&id, Duration::from_secs(60), CLIENT).await;
                assert_eq!(extended, Err(StoreError::Unknown));
            }
            _ => assert_eq!(fixture.pool.instances.release(&id, CLIENT).await, Err(StoreError::Unknown)),
        }
    }
    let calls = || ["get", "extend", "release"].map(|name| fixture.store.calls(name)).iter().sum::<usize>();
    assert_eq!(calls(), 20);
    // An operator is not counted.
    let ready = insert(&fixture, 1).await;
    assert!(get(&fixture, &ready, Asker::Trusted).await.unwrap().is_some());
    assert_eq!(calls(), 21);
}

#[tokio::test(start_paused = true)]
async fn an_id_of_a_template_that_no_node_has_is_refused_without_the_store() {
    let fixture = fixture_with(0).await;
    get(&fixture, &random_id("other"), CLIENT).await.unwrap();
    assert_eq!(
        fixture.store.calls("get"),
        1,
        "before the first snapshot it may be an instance of an earlier server"
    );
    fixture.pool.shared.routes.apply_snapshot(&[], fixture.pool.shared.routes.mark());
    for _ in 0..100 {
        assert_eq!(get(&fixture, &random_id("other"), Asker::Trusted).await, Ok(None));
    }
    assert_eq!(fixture.store.calls("get"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_repeated_unknown_id_costs_the_store_one_call() {
    let fixture = fixture_with(0).await;
    let id = random_id("t");
    for _ in 0..100 {
        assert_eq!(get(&fixture, &id, Asker::Trusted).await, Ok(None));
    }
    assert_eq!(fixture.store.calls("get"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_invented_ids_neither_hides_an_assigned_instance_nor_ends_its_status() {
    let fixture = fixture_with(1).await;
    let acquired = acquire(&fixture, "a").await.unwrap();
    let id = acquired.instance.id().clone();
    acquired.delivery.complete();
    fixture
        .pool
        .shared
        .routes
        .apply_snapshot(std::slice::from_ref(&acquired.instance), fixture.pool.shared.routes.mark());
    for _ in 0..100 {
        let _ = get(&fixture, &random_id("t"), CLIENT).await;
    }
    assert!(get(&fixture, &id, CLIENT).await.unwrap().is_some());
    let before = fixture.store.calls("get");
    fixture.store.down.store(true, Ordering::SeqCst);
    for _ in 0..100 {
        assert!(matches!(fixture.pool.instances.status(&id, CLIENT).await, Ok(InstanceStatus::Assigned(_))));
    }
    fixture.store.down.store(false, Ordering::SeqCst);
    fixture.pool.instances.release(&id, CLIENT).await.unwrap();
    assert!(matches!(fixture.pool.instances.status(&id, CLIENT).await, Ok(InstanceStatus::Gone)));
    assert_eq!(fixture.store.calls("get"), before, "the route table knows it");
}

#[tokio::test(start_paused = true)]
async fn beyond_the_budget_an_instance_may_exist_as_long_as_the_route_table_is_not_filled() {
    let fixture = fixture_with(0).await;
    let results = join_all((0..30).map(|_| async { get(&fixture, &random_id("t"), CLIENT).await })).await;
    let unavailable = |found: &&Result<_, _>| matches!(found, Err(StoreError::Unavailable(_)));
    assert_eq!(results.iter().filter(unavailable).count(), 10);
}

/// The time is real: it distinguishes the callers before a query from those after.
#[tokio::test]
async fn many_who_want_the_counts_at_once_cost_the_store_two_queries_and_get_no_old_ones() {
    let fixture = fixture_with(2).await;
    let all = join_all((0..500).map(|_| fixture.pool.statistics.of_templates())).await;
    assert!(all.iter().all(|stats| stats.as_ref().unwrap()[0].stats.ready == 2));
    let calls = fixture.store.calls("counts");
    // Each query counts this node's instances and those of all nodes.
    assert!(calls <= 4, "{calls}");
    acquire(&fixture, "a").await.unwrap().delivery.complete();
    assert_eq!(fixture.pool.statistics.of_templates().await.unwrap()[0].stats.ready, 1);
}
