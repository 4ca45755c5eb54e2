//! What is made for those who wait.

use futures_util::FutureExt;

use super::fixture::{LONG, Stage, template};
use super::test_app::TestApp;
use super::test_store::Line;
use crate::pool::supply::reconcile::fill;
use crate::store::Visitor;

#[tokio::test]
async fn one_is_made_for_a_visitor_and_no_second_one_while_the_answer_to_its_claim_is_under_way() {
    let stage = Stage::with(Some(TestApp::start().await), template("t", 1, 0, 4));
    let mut visitor = Box::pin(stage.pool.acquire("t", Visitor("192.0.2.1".to_owned())));
    while stage.keeper().line.waiting() == 0 {
        assert!((&mut visitor).now_or_never().is_none(), "nothing is ready");
        tokio::task::yield_now().await;
    }
    fill(&stage.pool, &stage.keeper(), false).await.unwrap();
    stage.settled().await;
    assert_eq!(stage.runtime.running().len(), 1);

    stage.store.cut("claim", Line::AnswerHangs);
    let claimed = async {
        tokio::select! {
            _ = &mut visitor => panic!("the answer has not come"),
            () = stage.store.hanging.notified() => {}
        }
    };
    tokio::time::timeout(LONG, claimed).await.expect("it claims what was made for it");
    assert_eq!(stage.records().await[0].life().name(), "assigned");
    fill(&stage.pool, &stage.keeper(), false).await.unwrap();
    stage.settled().await;
    assert_eq!(stage.runtime.running().len(), 1);
}
