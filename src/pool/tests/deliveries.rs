//! What becomes of an instance whose visitor left, and when.

use std::sync::Arc;
use std::time::Duration;

use super::fixture::{START, Stage, template, templates};
use super::test_app::TestApp;
use super::test_store::Line;
use crate::instance::{Instance, InstanceId};
use crate::pool::claim::delivery_worker::settle;
use crate::pool::{AcquireError, Acquired};
use crate::proxy::routes::Found;
use crate::store::{Store as _, StoreError, UNCONFIRMED_FOR, Visitor};
use crate::template::Template;

const HOUR: Duration = Duration::from_secs(3600);

/// For longer than a claim may be unconfirmed.
fn long(revision: u64) -> Template {
    Template { ttl: HOUR, max_ttl: HOUR * 2, ..template("t", revision, 1, 4) }
}

/// With one ready instance.
async fn stage() -> (Stage, InstanceId) {
    let stage = Stage::with(Some(TestApp::start().await), long(1));
    stage.attempt().await;
    let id = stage.records().await[0].id().clone();
    (stage, id)
}

async fn acquire(stage: &Stage) -> Result<Acquired, AcquireError> {
    stage.pool.acquire("t", Visitor("192.0.2.1".to_owned())).await
}

async fn states(stage: &Stage) -> Vec<&'static str> {
    stage.records().await.iter().map(|record| record.life().name()).collect()
}

/// Lets time pass for the store, which sweeps.
async fn sweep_after(stage: &Stage, by: Duration) -> Vec<Instance> {
    stage.pool.clock.advance(by);
    stage.store.inner.sweep(9).await.unwrap()
}

#[tokio::test]
async fn one_whose_visitor_left_before_the_answer_began_is_the_next_visitors() {
    let (stage, id) = stage().await;
    let acquired = acquire(&stage).await.unwrap();
    assert!(matches!(stage.pool.routes.find(id.as_str()), Found::Live(_)));
    drop(acquired);
    assert_eq!(states(&stage).await, ["assigned"], "the store is not asked by whoever drops it");
    settle(&stage.pool, false).await;
    assert_eq!(states(&stage).await, ["ready"]);
    assert!(!matches!(stage.pool.routes.find(id.as_str()), Found::Live(_)));
    let next = acquire(&stage).await.unwrap();
    assert_eq!(*next.instance.id(), id);
    assert!(matches!(stage.pool.routes.find(id.as_str()), Found::Live(_)), "its new visitor reaches it");
    next.delivery.done();
}

#[tokio::test]
async fn one_whose_visitor_left_in_the_middle_of_the_answer_is_released() {
    let (stage, id) = stage().await;
    let mut acquired = acquire(&stage).await.unwrap();
    acquired.delivery.begun();
    drop(acquired);
    settle(&stage.pool, false).await;
    stage.settled().await;
    stage.assert_nothing_left("released").await;
    assert!(!matches!(stage.pool.routes.find(id.as_str()), Found::Live(_)));
}

#[tokio::test]
async fn a_delivery_is_confirmed_in_time_and_what_is_not_confirmed_ends() {
    let (stage, id) = stage().await;
    acquire(&stage).await.unwrap().delivery.done();
    settle(&stage.pool, false).await;
    settle(&stage.pool, true).await;
    assert_eq!(sweep_after(&stage, UNCONFIRMED_FOR).await, []);
    assert_eq!(states(&stage).await, ["assigned"]);
    stage.attempt().await;
    let kept = acquire(&stage).await.unwrap();
    assert_ne!(*kept.instance.id(), id);
    let swept = sweep_after(&stage, UNCONFIRMED_FOR).await;
    assert_eq!(swept.iter().map(Instance::id).collect::<Vec<_>>(), [kept.instance.id()]);
}

#[tokio::test]
async fn a_first_visit_confirms_what_the_server_that_claimed_did_not_live_to_confirm() {
    let (stage, id) = stage().await;
    let acquired = acquire(&stage).await.unwrap();
    let Found::Live(route) = stage.pool.routes.find(id.as_str()) else { panic!("it has no route") };
    for _ in 0..3 {
        stage.pool.used(&route);
    }
    settle(&stage.pool, true).await;
    assert_eq!(sweep_after(&stage, UNCONFIRMED_FOR).await, []);
    drop(acquired);
    settle(&stage.pool, true).await;
    assert_eq!(states(&stage).await, ["assigned"], "and nobody takes back what is in use");
}

#[tokio::test]
async fn a_confirmation_that_the_store_does_not_hear_is_made_again() {
    let (stage, _) = stage().await;
    acquire(&stage).await.unwrap().delivery.done();
    stage.store.cut("confirm", Line::Refused);
    settle(&stage.pool, true).await;
    settle(&stage.pool, true).await;
    assert_eq!(sweep_after(&stage, UNCONFIRMED_FOR).await, []);
}

#[tokio::test]
async fn a_claim_whose_answer_is_lost_is_undone_also_when_the_store_is_away_for_a_while() {
    for how in [Line::AnswerLost, Line::Refused] {
        let (stage, id) = stage().await;
        stage.store.cut("claim", how);
        let failed = acquire(&stage).await.unwrap_err();
        assert!(matches!(failed, AcquireError::Store(StoreError::Unavailable(_))));
        stage.store.cut("take_back", Line::Refused);
        settle(&stage.pool, false).await;
        settle(&stage.pool, true).await;
        assert_eq!(states(&stage).await, ["ready"], "{how:?}");
        let next = acquire(&stage).await.unwrap();
        assert_eq!(*next.instance.id(), id);
        next.delivery.done();
    }
}

#[tokio::test]
async fn a_visitor_who_leaves_at_any_moment_of_an_acquire_leaves_no_trace() {
    for polls in 0..12 {
        let (stage, id) = stage().await;
        let mut acquiring = Box::pin(acquire(&stage));
        for _ in 0..polls {
            if futures_util::poll!(&mut acquiring).is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(acquiring);
        settle(&stage.pool, true).await;
        assert_eq!(states(&stage).await, ["ready"], "after {polls} polls");
        let next = acquire(&stage).await.unwrap();
        assert_eq!(*next.instance.id(), id);
        next.delivery.done();
    }
}

#[tokio::test]
async fn one_that_is_outdated_when_it_is_taken_back_is_not_given_to_anybody() {
    let (stage, _) = stage().await;
    let acquired = acquire(&stage).await.unwrap();
    stage.pool.reload(templates(vec![long(2)])).await;
    drop(acquired);
    settle(&stage.pool, false).await;
    stage.settled().await;
    stage.assert_nothing_left("outdated").await;
}

#[tokio::test(start_paused = true)]
async fn one_in_doubt_is_released_unless_somebody_uses_it() {
    let stage = Stage::with(None, long(1));
    let mut ids = Vec::new();
    for n in 0..3 {
        let id = InstanceId::random(&long(1).name);
        let new = Instance::warming(id.clone(), stage.node.clone(), 1, START);
        stage.store.inner.insert(new).await.unwrap();
        stage.store.inner.offer(&id, ([127, 0, 0, 1], 4000 + n).into()).await.unwrap();
        let acquired = acquire(&stage).await.unwrap();
        acquired.delivery.done().unwrap().doubted();
        ids.push(id);
    }
    let Found::Live(visited) = stage.pool.routes.find(ids[1].as_str()) else { panic!("it has no route") };
    visited.uses();
    stage.pool.get(&ids[2]).await.unwrap();
    let pool = Arc::clone(&stage.pool);
    tokio::time::advance(UNCONFIRMED_FOR - Duration::from_millis(1)).await;
    settle(&pool, true).await;
    assert_eq!(states(&stage).await, ["assigned"; 3]);
    tokio::time::advance(Duration::from_millis(1)).await;
    settle(&pool, true).await;
    let mut left: Vec<_> = stage.records().await.iter().map(|record| record.id().clone()).collect();
    left.sort();
    ids.remove(0);
    ids.sort();
    assert_eq!(left, ids);
}

#[tokio::test]
async fn a_server_that_stops_settles_what_is_open() {
    let (stage, _) = stage().await;
    drop(acquire(&stage).await.unwrap());
    stage.pool.drain().await;
    assert_eq!(states(&stage).await, ["ready"]);
}
