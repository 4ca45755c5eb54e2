//! What happens to an instance whose visitor left, and when.

use std::sync::Arc;
use std::time::Duration;

use super::fixture::{Fixture, START, template, templates};
use super::test_app::TestApp;
use super::test_store::CallFault;
use crate::instance::{Instance, InstanceId};
use crate::pool::claim::delivery_worker::settle;
use crate::pool::{AcquireError, Acquired, Asker};
use crate::proxy::routes::RouteLookup;
use crate::store::{CONFIRM_TIMEOUT, Store as _, StoreError, Visitor};
use crate::template::Template;

const HOUR: Duration = Duration::from_secs(3600);

/// Returns a template whose leases are longer than a claim may be unconfirmed.
fn long_lease(revision: u64) -> Template {
    Template { ttl: HOUR, max_ttl: HOUR * 2, ..template("t", revision, 1, 4) }
}

/// Creates a fixture with one ready instance.
async fn fixture_with_one() -> (Fixture, InstanceId) {
    let fixture = Fixture::with(Some(TestApp::start().await), long_lease(1));
    fixture.run_attempt().await;
    let id = fixture.records().await[0].id().clone();
    (fixture, id)
}

async fn acquire(fixture: &Fixture) -> Result<Acquired, AcquireError> {
    fixture.pool.claims.acquire("t", Visitor::new("192.0.2.1")).await
}

async fn states(fixture: &Fixture) -> Vec<&'static str> {
    fixture.records().await.iter().map(|record| record.state().name()).collect()
}

/// Lets time pass, and sweeps the store.
async fn sweep_after(fixture: &Fixture, by: Duration) -> Vec<Instance> {
    fixture.pool.shared.clock.advance(by);
    fixture.store.inner.sweep(9).await.unwrap()
}

#[tokio::test]
async fn an_instance_whose_visitor_left_before_the_answer_began_is_assigned_to_the_next_visitor() {
    let (fixture, id) = fixture_with_one().await;
    let acquired = acquire(&fixture).await.unwrap();
    assert!(matches!(fixture.pool.shared.routes.find(id.as_str()), RouteLookup::Live(_)));
    drop(acquired);
    assert_eq!(states(&fixture).await, ["assigned"], "dropping it makes no call to the store");
    settle(&fixture.pool.claims, false).await;
    assert_eq!(states(&fixture).await, ["ready"]);
    assert!(!matches!(fixture.pool.shared.routes.find(id.as_str()), RouteLookup::Live(_)));
    let next = acquire(&fixture).await.unwrap();
    assert_eq!(*next.instance.id(), id);
    assert!(
        matches!(fixture.pool.shared.routes.find(id.as_str()), RouteLookup::Live(_)),
        "its new visitor reaches it"
    );
    next.delivery.complete();
}

#[tokio::test]
async fn an_instance_whose_visitor_left_in_the_middle_of_the_answer_is_released() {
    let (fixture, id) = fixture_with_one().await;
    let mut acquired = acquire(&fixture).await.unwrap();
    acquired.delivery.mark_attempted();
    drop(acquired);
    settle(&fixture.pool.claims, false).await;
    fixture.tasks_ended().await;
    fixture.assert_nothing_left("released").await;
    assert!(!matches!(fixture.pool.shared.routes.find(id.as_str()), RouteLookup::Live(_)));
}

#[tokio::test]
async fn a_delivery_is_confirmed_in_time_and_an_unconfirmed_claim_ends() {
    let (fixture, id) = fixture_with_one().await;
    acquire(&fixture).await.unwrap().delivery.complete();
    settle(&fixture.pool.claims, false).await;
    settle(&fixture.pool.claims, true).await;
    assert_eq!(sweep_after(&fixture, CONFIRM_TIMEOUT).await, []);
    assert_eq!(states(&fixture).await, ["assigned"]);
    fixture.run_attempt().await;
    let kept = acquire(&fixture).await.unwrap();
    assert_ne!(*kept.instance.id(), id);
    let swept = sweep_after(&fixture, CONFIRM_TIMEOUT).await;
    assert_eq!(swept.iter().map(Instance::id).collect::<Vec<_>>(), [kept.instance.id()]);
}

#[tokio::test]
async fn the_first_visit_confirms_a_claim_that_its_crashed_node_did_not_confirm() {
    let (fixture, id) = fixture_with_one().await;
    let acquired = acquire(&fixture).await.unwrap();
    let RouteLookup::Live(route) = fixture.pool.shared.routes.find(id.as_str()) else {
        panic!("it has no route")
    };
    for _ in 0..3 {
        fixture.pool.instances.record_use(&route);
    }
    settle(&fixture.pool.claims, true).await;
    assert_eq!(sweep_after(&fixture, CONFIRM_TIMEOUT).await, []);
    drop(acquired);
    settle(&fixture.pool.claims, true).await;
    assert_eq!(states(&fixture).await, ["assigned"], "the claim of an instance in use is not undone");
}

#[tokio::test]
async fn a_confirmation_that_fails_is_repeated() {
    let (fixture, _) = fixture_with_one().await;
    acquire(&fixture).await.unwrap().delivery.complete();
    fixture.store.fail_next("confirm", CallFault::Refused);
    settle(&fixture.pool.claims, true).await;
    settle(&fixture.pool.claims, true).await;
    assert_eq!(sweep_after(&fixture, CONFIRM_TIMEOUT).await, []);
}

#[tokio::test]
async fn a_claim_whose_answer_is_lost_is_undone_also_after_a_short_outage_of_the_store() {
    for how in [CallFault::AnswerLost, CallFault::Refused] {
        let (fixture, id) = fixture_with_one().await;
        fixture.store.fail_next("claim", how);
        let failed = acquire(&fixture).await.unwrap_err();
        assert!(matches!(failed, AcquireError::Store(StoreError::Unavailable(_))));
        fixture.store.fail_next("undo_claim", CallFault::Refused);
        settle(&fixture.pool.claims, false).await;
        settle(&fixture.pool.claims, true).await;
        assert_eq!(states(&fixture).await, ["ready"], "{how:?}");
        let next = acquire(&fixture).await.unwrap();
        assert_eq!(*next.instance.id(), id);
        next.delivery.complete();
    }
}

#[tokio::test]
async fn a_visitor_who_leaves_at_any_moment_of_an_acquire_leaves_the_instance_ready() {
    for polls in 0..12 {
        let (fixture, id) = fixture_with_one().await;
        let mut acquiring = Box::pin(acquire(&fixture));
        for _ in 0..polls {
            if futures_util::poll!(&mut acquiring).is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(acquiring);
        settle(&fixture.pool.claims, true).await;
        assert_eq!(states(&fixture).await, ["ready"], "after {polls} polls");
        let next = acquire(&fixture).await.unwrap();
        assert_eq!(*next.instance.id(), id);
        next.delivery.complete();
    }
}

#[tokio::test]
async fn an_instance_that_is_outdated_when_its_claim_is_undone_is_retired() {
    let (fixture, _) = fixture_with_one().await;
    let acquired = acquire(&fixture).await.unwrap();
    fixture.pool.reload(templates(vec![long_lease(2)])).await;
    drop(acquired);
    settle(&fixture.pool.claims, false).await;
    fixture.tasks_ended().await;
    fixture.assert_nothing_left("outdated").await;
}

#[tokio::test(start_paused = true)]
async fn a_doubtful_instance_is_released_unless_it_is_used() {
    let fixture = Fixture::with(None, long_lease(1));
    let mut ids = Vec::new();
    for n in 0..3 {
        let id = InstanceId::random(&long_lease(1).name);
        let new = Instance::warming(id.clone(), fixture.node.clone(), 1, START);
        fixture.store.inner.insert(new).await.unwrap();
        fixture.store.inner.offer(&id, ([127, 0, 0, 1], 4000 + n).into()).await.unwrap();
        let acquired = acquire(&fixture).await.unwrap();
        acquired.delivery.complete().unwrap().mark_doubtful();
        ids.push(id);
    }
    let RouteLookup::Live(visited) = fixture.pool.shared.routes.find(ids[1].as_str()) else {
        panic!("it has no route")
    };
    visited.mark_used();
    fixture.pool.instances.get(&ids[2], Asker::Trusted).await.unwrap();
    let pool = Arc::clone(&fixture.pool);
    tokio::time::advance(CONFIRM_TIMEOUT - Duration::from_millis(1)).await;
    settle(&pool.claims, true).await;
    assert_eq!(states(&fixture).await, ["assigned"; 3]);
    tokio::time::advance(Duration::from_millis(1)).await;
    settle(&pool.claims, true).await;
    let mut left: Vec<_> = fixture.records().await.iter().map(|record| record.id().clone()).collect();
    left.sort();
    ids.remove(0);
    ids.sort();
    assert_eq!(left, ids);
}

#[tokio::test]
async fn a_shutdown_settles_the_open_deliveries() {
    let (fixture, _) = fixture_with_one().await;
    drop(acquire(&fixture).await.unwrap());
    fixture.pool.shut_down().await;
    assert_eq!(states(&fixture).await, ["ready"]);
}
