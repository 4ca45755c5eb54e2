//! Checks of a ready instance whose app fails in one way or another.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::fixture::{Fixture, LONG, READY};
use super::test_app::AppBehavior;
use super::test_store::CallFault;
use crate::pool::supply::ready_watch::check;

impl Fixture {
    /// Makes an instance. Returns how many requests of the ready check its app got until it was offered.
    async fn make_ready(&self) -> usize {
        self.run_attempt().await;
        assert_eq!(self.states().await, ["ready"]);
        self.checks()
    }

    async fn states(&self) -> Vec<&'static str> {
        self.records().await.iter().map(|record| record.state().name()).collect()
    }

    fn checks(&self) -> usize {
        self.app().requested.lock().iter().filter(|path| *path == READY).count()
    }

    /// Checks the instance whose check is next, whenever it is due.
    async fn check_next(&self) {
        let due = Instant::now() + Duration::from_secs(7200);
        self.pool.supply.ready_watch.sort_in(due, |_| true);
        let (id, instance) = self.pool.supply.ready_watch.next_due(due).expect("an instance is watched");
        check(&self.pool.supply, &id, instance).await;
    }

    async fn wait_for_checks(&self, count: usize) {
        let waiting = async {
            while self.checks() < count {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(LONG, waiting).await.expect("the app is asked");
    }
}

#[tokio::test]
async fn one_failure_of_a_busy_app_changes_nothing() {
    let fixture = Arc::new(Fixture::new().await);
    let checks = fixture.make_ready().await;
    for behavior in [AppBehavior::Error, AppBehavior::Close] {
        fixture.app().set(READY, behavior);
        let before = fixture.checks();
        let asking = fixture.clone();
        let checking = crate::telemetry::task::spawn("check", async move { asking.check_next().await });
        fixture.wait_for_checks(before + 1).await;
        fixture.app().set(READY, AppBehavior::Fine);
        checking.await.unwrap();
        assert_eq!((fixture.checks(), fixture.states().await), (before + 2, vec!["ready"]), "{behavior:?}");
    }
    assert_eq!(fixture.checks(), checks + 4);
    fixture.assert_idle("after the checks");
}

#[tokio::test]
async fn an_instance_that_recovers_is_offered_again_and_watched_again() {
    let fixture = Fixture::new().await;
    let checks = fixture.make_ready().await;
    fixture.app().set(READY, AppBehavior::Error);
    fixture.check_next().await;
    assert_eq!((fixture.checks(), fixture.states().await), (checks + 2, vec!["warming"]));
    fixture.app().set(READY, AppBehavior::Fine);
    fixture.tasks_ended().await;
    assert_eq!(fixture.states().await, ["ready"]);
    fixture.check_next().await;
    assert_eq!((fixture.checks(), fixture.states().await), (checks + 4, vec!["ready"]));
    fixture.assert_idle("after the recovery");
}

#[tokio::test]
async fn an_instance_that_does_not_recover_is_ended_unless_the_template_fails_too() {
    let fixture = Fixture::new().await;
    fixture.make_ready().await;
    fixture.app().set(READY, AppBehavior::Error);
    fixture.template_pool().record_failure("an outage".to_owned());
    let checks = fixture.checks();
    fixture.check_next().await;
    fixture.wait_for_checks(checks + 4).await;
    assert_eq!(fixture.states().await, ["warming"], "nothing could take its place");
    fixture.template_pool().record_success(crate::runtime::StartMethod::Cold, Duration::ZERO);
    fixture.tasks_ended().await;
    fixture.assert_nothing_left("after its end").await;
}

#[tokio::test]
async fn a_withdrawal_that_the_store_does_not_answer_is_repeated() {
    let fixture = Fixture::new().await;
    fixture.make_ready().await;
    fixture.app().set(READY, AppBehavior::Error);
    fixture.store.fail_next("withdraw", CallFault::Refused);
    fixture.check_next().await;
    assert_eq!(fixture.states().await, ["ready"]);
    fixture.assert_idle("after the failed call");
    fixture.check_next().await;
    fixture.app().set(READY, AppBehavior::Fine);
    fixture.tasks_ended().await;
    assert_eq!(fixture.states().await, ["ready"]);
}

#[tokio::test]
async fn an_instance_that_a_visitor_has_is_not_asked() {
    let fixture = Fixture::new().await;
    let checks = fixture.make_ready().await;
    let visitor = crate::store::Visitor::new("192.0.2.1");
    let acquired = fixture.pool.claims.acquire("t", visitor).await.unwrap();
    fixture.check_next().await;
    assert_eq!(fixture.checks(), checks);
    assert_eq!(fixture.pool.supply.ready_watch.next_due(Instant::now() + Duration::from_secs(7200)), None);
    drop(acquired);
}
