//! The instances that are made for waiting visitors.

use futures_util::FutureExt;

use super::fixture::{Fixture, LONG, template};
use super::test_app::TestApp;
use super::test_store::CallFault;
use crate::pool::supply::reconcile::fill;
use crate::store::Visitor;

#[tokio::test]
async fn one_instance_is_made_for_a_visitor_and_no_second_one_while_its_claim_is_under_way() {
    let fixture = Fixture::with(Some(TestApp::start().await), template("t", 1, 0, 4));
    let mut visitor = Box::pin(fixture.pool.acquire("t", Visitor::new("192.0.2.1")));
    while fixture.template_pool().wait_queue.waiting() == 0 {
        assert!((&mut visitor).now_or_never().is_none(), "nothing is ready");
        tokio::task::yield_now().await;
    }
    fill(&fixture.pool, &fixture.template_pool(), false).await.unwrap();
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
    fill(&fixture.pool, &fixture.template_pool(), false).await.unwrap();
    fixture.tasks_ended().await;
    assert_eq!(fixture.runtime.running().len(), 1);
}
