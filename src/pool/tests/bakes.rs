//! Checkpoints: when they are baked, what a bake leaves, and what happens without one.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::fixture::{BAKE, Fixture, LONG, OWN, READY, WARM, template, templates};
use super::test_app::{AppBehavior, TestApp};
use super::test_runtime::StartFault;
use crate::pool::end::gc::collect;
use crate::pool::supply::bake;
use crate::runtime::StartMethod::{self, Cold, Restored};
use crate::store::Visitor;

/// Creates a pool with a target of one that is not running yet and has no apps, under a runtime that bakes.
fn baking_fixture() -> Fixture {
    let fixture = Fixture::with(None, template("t", 1, 1, 4));
    fixture.runtime.bakes.store(true, Ordering::SeqCst);
    fixture
}

impl Fixture {
    fn methods(&self) -> Vec<StartMethod> {
        self.runtime.methods.lock().clone()
    }

    fn baked(&self) -> Vec<u64> {
        self.runtime.baked.lock().clone()
    }

    /// Begins a bake. Returns whether instances may be made meanwhile.
    async fn begin_bake(&self) -> bool {
        bake::ensure_checkpoint(&self.pool.supply, &self.template_pool(), &self.template_pool().template())
            .await
    }

    async fn assert_full(&self, revision: u64) {
        let records = self.records().await;
        let seen: Vec<_> = records.iter().map(|r| (r.state().name(), r.revision())).collect();
        assert_eq!(seen, [("ready", revision)]);
        assert_eq!(self.runtime.running(), [records[0].id().clone()], "no other instance runs");
        self.assert_idle("full");
    }

    async fn acquire(&self) -> Result<(), crate::pool::AcquireError> {
        let acquired = self.pool.claims.acquire("t", Visitor::new("192.0.2.1")).await;
        acquired.map(|acquired| drop(acquired.delivery.complete()))
    }
}

#[tokio::test(start_paused = true)]
async fn a_template_is_baked_once_before_its_instances_are_made() {
    let fixture = baking_fixture();
    fixture.pool.run().await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    fixture.assert_full(1).await;
    assert_eq!((fixture.baked(), fixture.methods()), (vec![1], vec![Cold, Restored]));
    fixture.acquire().await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!((fixture.baked(), fixture.methods()), (vec![1], vec![Cold, Restored, Restored]));
}

#[tokio::test(start_paused = true)]
async fn a_pool_that_keeps_nothing_ready_is_baked_too() {
    let fixture = Fixture::with(None, template("t", 1, 0, 4));
    fixture.runtime.bakes.store(true, Ordering::SeqCst);
    fixture.pool.run().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!((fixture.baked(), fixture.methods()), (vec![1], vec![Cold]));
    fixture.assert_nothing_left("baked").await;
    fixture.acquire().await.unwrap();
    assert_eq!(fixture.methods(), [Cold, Restored]);
}

#[tokio::test(start_paused = true)]
async fn while_baking_fails_instances_are_started_cold_and_baking_is_tried_with_growing_pauses() {
    let fixture = baking_fixture();
    fixture.runtime.failing_bakes.store(usize::MAX, Ordering::SeqCst);
    fixture.pool.run().await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    // At 0, 1, 3, 7, 15 and 31 seconds.
    assert_eq!(fixture.runtime.bake_attempts.load(Ordering::SeqCst), 6);
    fixture.assert_full(1).await;
    assert_eq!(fixture.template_pool().problem(), None, "instances can be made");
    let page = fixture.pool.shared.metrics.render(crate::telemetry::MetricsFormat::Text);
    assert!(page.contains(r#"demo_bakes_total{template="t",result="error"} 6"#), "{page}");

    fixture.runtime.failing_bakes.store(0, Ordering::SeqCst);
    // At 63.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(fixture.baked(), [1]);
    fixture.assert_full(1).await;
    fixture.acquire().await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let methods = fixture.methods();
    assert_eq!(methods.iter().filter(|how| **how == Restored).count(), 1);
    assert_eq!(methods.last(), Some(&Restored));
}

#[tokio::test]
async fn a_checkpoint_whose_instances_are_not_ready_is_discarded_and_baked_again_later() {
    let mut impatient = template("t", 1, 1, 8);
    impatient.ready.timeout = Duration::from_millis(20);
    let fixture = Fixture::with(Some(TestApp::start().await), impatient);
    fixture.runtime.bakes.store(true, Ordering::SeqCst);
    fixture.runtime.broken_restores.store(usize::MAX, Ordering::SeqCst);
    let bakes = || fixture.runtime.bake_attempts.load(Ordering::SeqCst);
    assert!(!fixture.begin_bake().await);
    fixture.tasks_ended().await;
    for attempt in 1..=3 {
        assert_eq!(fixture.baked(), [1], "before attempt {attempt}");
        fixture.run_attempt().await;
        assert_eq!(fixture.methods().last(), Some(&Restored));
    }
    assert_eq!((bakes(), fixture.baked()), (1, vec![]));
    assert_eq!(fixture.template_pool().problem(), None, "instances can be made");

    assert!(fixture.begin_bake().await, "instances are started cold, without a wait for the next bake");
    fixture.run_attempt().await;
    assert_eq!((bakes(), fixture.methods().last()), (1, Some(&Cold)));
    fixture.assert_full(1).await;

    fixture.runtime.broken_restores.store(0, Ordering::SeqCst);
    while fixture.template_pool().bake_state.pause().is_some() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(fixture.begin_bake().await);
    fixture.tasks_ended().await;
    assert_eq!((bakes(), fixture.baked()), (2, vec![1]));
    fixture.run_attempt().await;
    assert_eq!(fixture.methods().last(), Some(&Restored));
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_that_the_runtime_removes_again_and_again_is_baked_with_growing_pauses() {
    let fixture = baking_fixture();
    let bakes = || fixture.runtime.bake_attempts.load(Ordering::SeqCst);
    for pause in [1, 2, 4] {
        assert_eq!(fixture.template_pool().bake_state.pause(), None);
        fixture.begin_bake().await;
        fixture.tasks_ended().await;
        assert!(fixture.begin_bake().await);
        let before = bakes();
        fixture.runtime.baked.lock().clear();
        assert!(fixture.begin_bake().await, "instances are started cold meanwhile");
        assert_eq!(bakes(), before);
        let left = fixture.template_pool().bake_state.pause().unwrap();
        assert!(left > Duration::from_millis(pause * 900) && left <= Duration::from_secs(pause), "{left:?}");
        while fixture.template_pool().bake_state.pause().is_some() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_changed_template_is_baked_anew() {
    let fixture = baking_fixture();
    fixture.pool.run().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    fixture.pool.reload(templates(vec![template("t", 2, 1, 4)])).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(fixture.baked(), [1, 2]);
    fixture.assert_full(2).await;
    // Back to the revision that has a checkpoint.
    fixture.pool.reload(templates(vec![template("t", 1, 1, 4)])).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    fixture.assert_full(1).await;
    assert_eq!(
        (fixture.baked(), fixture.methods()),
        (vec![1, 2], vec![Cold, Restored, Cold, Restored, Restored])
    );
}

#[tokio::test(start_paused = true)]
async fn a_bake_that_hangs_is_abandoned_for_a_new_revision() {
    let fixture = baking_fixture();
    fixture.runtime.bake_hangs.store(true, Ordering::SeqCst);
    fixture.pool.run().await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(fixture.records().await, [], "nothing is made meanwhile");
    fixture.pool.reload(templates(vec![template("t", 2, 1, 4)])).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(fixture.baked(), [2]);
    fixture.assert_full(2).await;
}

#[tokio::test(start_paused = true)]
async fn a_bake_that_never_returns_does_not_keep_the_pool_empty_for_ever() {
    let fixture = baking_fixture();
    fixture.runtime.bake_hangs.store(true, Ordering::SeqCst);
    fixture.pool.run().await;
    tokio::time::sleep(Duration::from_secs(302)).await;
    fixture.assert_full(1).await;
}

#[tokio::test(start_paused = true)]
async fn an_acquire_waits_for_a_restore_however_long_a_cold_start_took() {
    let fixture = baking_fixture();
    *fixture.runtime.cold_takes.lock() = Duration::from_secs(20);
    fixture.runtime.failing_bakes.store(1, Ordering::SeqCst);
    fixture.pool.run().await;
    // The first bake fails at 20, the pool is full by a cold start at 40, and the second bake works at 41.
    tokio::time::sleep(Duration::from_secs(50)).await;
    assert_eq!((fixture.baked(), fixture.template_pool().median_time()), (vec![1], None));
    for _ in 0..3 {
        fixture.acquire().await.unwrap();
    }
    assert!(fixture.template_pool().median_time().unwrap() < Duration::from_secs(1));
}

#[tokio::test]
async fn the_baked_instance_is_warmed_up_and_the_restored_ones_are_not_again() {
    let fixture = Fixture::new().await;
    fixture.runtime.bakes.store(true, Ordering::SeqCst);
    assert!(!fixture.begin_bake().await);
    fixture.tasks_ended().await;
    fixture.assert_nothing_left("baked").await;
    assert_eq!(fixture.baked(), [1]);
    // Two instances are compared, by two answers of each.
    let compared = [READY, OWN, WARM, WARM];
    let requested = std::mem::take(&mut *fixture.app().requested.lock());
    assert_eq!(requested, [&[READY, WARM, BAKE], &compared[..], &compared[..]].concat());
    assert!(fixture.begin_bake().await, "there is nothing to bake");
    fixture.run_attempt().await;
    fixture.assert_full(1).await;
    assert_eq!(*fixture.app().requested.lock(), [READY, OWN]);
    let page = fixture.pool.shared.metrics.render(crate::telemetry::MetricsFormat::Text);
    for line in [
        r#"demo_provisions_total{template="t",method="criu_restore",result="success"} 1"#,
        "demo_criu_restore_duration_seconds_count 3",
        r#"demo_bakes_total{template="t",result="success"} 1"#,
    ] {
        assert!(page.contains(line), "no {line} in {page}");
    }
}

#[tokio::test]
async fn a_comparison_that_fails_leaves_nothing_but_the_checkpoint() {
    for step in ["stop", "run the hooks", "compare"] {
        let fixture = Fixture::new().await;
        fixture.runtime.bakes.store(true, Ordering::SeqCst);
        match step {
            "stop" => fixture.runtime.failing_stops.store(1, Ordering::SeqCst),
            "run the hooks" => fixture.app().set(OWN, AppBehavior::Error),
            // The page that is compared has no answer, which the warm-up before the bake had.
            _ => fixture.app().set_after(WARM, 1, AppBehavior::Close),
        }
        assert!(!fixture.begin_bake().await);
        fixture.tasks_ended().await;
        // An instance that could not be stopped is not on record.
        assert!(collect(&fixture.pool.supply).await);
        fixture.tasks_ended().await;
        fixture.assert_nothing_left(step).await;
        assert_eq!(fixture.baked(), [1], "{step}");
        assert!(fixture.template_pool().bake_state.pause().is_none(), "{step}");
    }
}

#[tokio::test]
async fn a_bake_that_fails_at_any_step_leaves_nothing() {
    for step in ["start", "answer", "warm up", "run the bake hooks", "freeze"] {
        let fixture = Fixture::new().await;
        fixture.runtime.bakes.store(true, Ordering::SeqCst);
        match step {
            "start" => *fixture.runtime.next_start.lock() = Some(StartFault::Fail),
            "answer" => fixture.app().set(READY, AppBehavior::Error),
            "warm up" => fixture.app().set(WARM, AppBehavior::Close),
            "run the bake hooks" => fixture.app().set(BAKE, AppBehavior::Error),
            _ => fixture.runtime.failing_bakes.store(1, Ordering::SeqCst),
        }
        assert!(!fixture.begin_bake().await);
        fixture.tasks_ended().await;
        fixture.assert_nothing_left(step).await;
        assert!(fixture.template_pool().bake_state.pause().is_some(), "{step}");
        assert!(fixture.begin_bake().await, "{step}: cold starts meanwhile");
        assert!(fixture.baked().is_empty(), "{step}");
        fixture.app().set(READY, AppBehavior::Fine);
        fixture.app().set(WARM, AppBehavior::Fine);
        fixture.app().set(BAKE, AppBehavior::Fine);
        fixture.assert_next_works(step).await;
    }
}

#[tokio::test]
async fn an_app_that_dies_and_a_shutdown_during_a_bake_leave_nothing() {
    for dies in [true, false] {
        let fixture = Fixture::new().await;
        fixture.runtime.bakes.store(true, Ordering::SeqCst);
        fixture.runtime.bake_hangs.store(true, Ordering::SeqCst);
        fixture.begin_bake().await;
        tokio::time::timeout(LONG, fixture.runtime.hanging.notified())
            .await
            .expect("the instance is being frozen");
        assert!(collect(&fixture.pool.supply).await);
        assert_eq!(
            fixture.runtime.running(),
            [fixture.only_locked()],
            "the baked instance is not stopped as unrecorded"
        );
        if dies {
            assert!(fixture.runtime.die(&fixture.only_locked()));
            fixture.tasks_ended().await;
        } else {
            tokio::time::timeout(LONG, fixture.pool.shut_down()).await.expect("the pools shut down");
        }
        fixture.assert_nothing_left("bake").await;
        assert_eq!(fixture.template_pool().bake_state.pause().is_some(), dies);
    }
}
