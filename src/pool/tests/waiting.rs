//! The instances that are made for waiting visitors.

use std::time::Duration;

use futures_util::FutureExt;

use super::fixture::{Fixture, LONG, template};
use super::test_app::TestApp;
use super::test_runtime::StartFault;
use super::test_store::CallFault;
use crate::pool::supply::reconcile::fill;
use crate::store::Visitor;

#[tokio::test]
async fn one_instance_is_made_for_a_visitor_and_no_second_one_while_its_claim_is_under_way() {
    let fixture = Fixture::with(Some(TestApp::start().await), template("t", 1, 0, 4));
    let mut visitor = Box::pin(fixture.pool.claims.acquire("t", Visitor::new("192.0.2.1")));
    while fixture.template_pool().wait_queue.waiting() == 0 {
        assert!((&mut visitor).now_or_never().is_none(), "nothing is ready");
        tokio::task::yield_now().await;
    }
    fill(&fixture.pool.supply, &fixture.template_pool(), false).await.unwrap();
    fixture.tasks_ended().await;
    assert_eq!(fixture.runtime.running().len(), 1);

    fixture.store.fail_next("claim", CallFault::AnswerHangs);
    let claimed = async {
        tokio::select! {
            _ = &mut visitor => panic!("the answer has not come"),
            () = fixture.store.hanging.notified() => {}
        }
    };
    tokio::time::timeout(LONG, claimed).await.expect("the visitor claims the instance that was made for it");
    assert_eq!(fixture.records().await[0].state().name(), "assigned");
    fill(&fixture.pool.supply, &fixture.template_pool(), false).await.unwrap();
    fixture.tasks_ended().await;
    assert_eq!(fixture.runtime.running().len(), 1);
}

/// Begins an attempt whose start never returns, and waits until it is there.
async fn begin_hanging_start(fixture: &Fixture) {
    *fixture.runtime.next_start.lock() = Some(StartFault::Hang);
    fill(&fixture.pool.supply, &fixture.template_pool(), false).await.unwrap();
    tokio::time::timeout(LONG, fixture.runtime.hanging.notified()).await.expect("an attempt begins");
}

async fn no_instance_yields(fixture: &Fixture) {
    let ended = async {
        while !fixture.runtime.yielding.lock().is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(LONG, ended).await.expect("no instance yields any more");
}

#[tokio::test]
async fn an_instance_yields_until_it_is_offered() {
    let fixture = Fixture::with(Some(TestApp::start().await), template("t", 1, 1, 4));
    begin_hanging_start(&fixture).await;
    assert_eq!(*fixture.runtime.yielding.lock(), fixture.runtime.running());
    let fixture = Fixture::with(Some(TestApp::start().await), template("t", 1, 1, 4));
    fill(&fixture.pool.supply, &fixture.template_pool(), false).await.unwrap();
    fixture.tasks_ended().await;
    assert_eq!(fixture.runtime.running().len(), 1);
    assert_eq!(*fixture.runtime.yielding.lock(), []);
}

#[tokio::test]
async fn instances_that_are_being_made_yield_no_longer_when_a_visitor_waits() {
    let fixture = Fixture::with(None, template("t", 1, 1, 4));
    begin_hanging_start(&fixture).await;
    assert_eq!(fixture.runtime.yielding.lock().len(), 1);
    let mut visitor = Box::pin(fixture.pool.claims.acquire("t", Visitor::new("192.0.2.1")));
    tokio::select! {
        _ = &mut visitor => panic!("nothing is ready"),
        () = no_instance_yields(&fixture) => {}
    }
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_takes_long_yields_no_longer() {
    let fixture = Fixture::with(None, template("t", 1, 1, 4));
    begin_hanging_start(&fixture).await;
    assert_eq!(fixture.runtime.yielding.lock().len(), 1);
    no_instance_yields(&fixture).await;
}
