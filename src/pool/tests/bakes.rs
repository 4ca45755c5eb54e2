//! Golden checkpoints: when they are made, what their making leaves, and what is done without one.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::fixture::{BAKE, LONG, OWN, READY, Stage, WARM, template, templates};
use super::test_app::Manner;
use super::test_runtime::StartFault;
use crate::pool::end::gc::collect;
use crate::pool::supply::bake;
use crate::runtime::StartMethod::{self, Cold, Restored};
use crate::store::Visitor;

/// A pool of one that is not running yet and has no apps, under a runtime that bakes.
fn baking() -> Stage {
    let stage = Stage::with(None, template("t", 1, 1, 4));
    stage.runtime.bakes.store(true, Ordering::SeqCst);
    stage
}

impl Stage {
    fn methods(&self) -> Vec<StartMethod> {
        self.runtime.methods.lock().clone()
    }

    fn baked(&self) -> Vec<u64> {
        self.runtime.baked.lock().clone()
    }

    /// Begins a bake. Whether instances may be made meanwhile.
    async fn begin_bake(&self) -> bool {
        bake::prepare(&self.pool, &self.keeper(), &self.keeper().template()).await
    }

    async fn assert_full(&self, revision: u64) {
        let records = self.records().await;
        let seen: Vec<_> = records.iter().map(|r| (r.life().name(), r.revision())).collect();
        assert_eq!(seen, [("ready", revision)]);
        assert_eq!(self.runtime.running(), [records[0].id().clone()], "nothing else runs");
        self.assert_idle("full");
    }

    async fn acquire(&self) -> Result<(), crate::pool::AcquireError> {
        let acquired = self.pool.acquire("t", Visitor("192.0.2.1".to_owned())).await;
        acquired.map(|acquired| drop(acquired.delivery.done()))
    }
}

#[tokio::test(start_paused = true)]
async fn a_template_is_baked_once_before_its_instances_are_made() {
    let stage = baking();
    stage.pool.run().await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    stage.assert_full(1).await;
    assert_eq!((stage.baked(), stage.methods()), (vec![1], vec![Cold, Restored]));
    stage.acquire().await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!((stage.baked(), stage.methods()), (vec![1], vec![Cold, Restored, Restored]));
}

#[tokio::test(start_paused = true)]
async fn a_pool_that_keeps_nothing_ready_is_baked_too() {
    let stage = Stage::with(None, template("t", 1, 0, 4));
    stage.runtime.bakes.store(true, Ordering::SeqCst);
    stage.pool.run().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!((stage.baked(), stage.methods()), (vec![1], vec![Cold]));
    stage.assert_nothing_left("baked").await;
    stage.acquire().await.unwrap();
    assert_eq!(stage.methods(), [Cold, Restored]);
}

#[tokio::test(start_paused = true)]
async fn while_baking_fails_instances_are_started_cold_and_it_is_tried_less_and_less_often() {
    let stage = baking();
    stage.runtime.bad_bakes.store(usize::MAX, Ordering::SeqCst);
    stage.pool.run().await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    // At 0, 1, 3, 7, 15 and 31 seconds.
    assert_eq!(stage.runtime.bakes_tried.load(Ordering::SeqCst), 6);
    stage.assert_full(1).await;
    assert_eq!(stage.keeper().problem(), None, "instances can be made");
    let page = stage.pool.metrics.page(crate::telemetry::Format::Text);
    assert!(page.contains(r#"demo_bakes_total{template="t",result="error"} 6"#), "{page}");

    stage.runtime.bad_bakes.store(0, Ordering::SeqCst);
    // At 63.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(stage.baked(), [1]);
    stage.assert_full(1).await;
    stage.acquire().await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let methods = stage.methods();
    assert_eq!(methods.iter().filter(|how| **how == Restored).count(), 1);
    assert_eq!(methods.last(), Some(&Restored));
}

#[tokio::test(start_paused = true)]
async fn a_changed_template_is_baked_anew() {
    let stage = baking();
    stage.pool.run().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    stage.pool.reload(templates(vec![template("t", 2, 1, 4)])).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(stage.baked(), [1, 2]);
    stage.assert_full(2).await;
    // Back to what there is a checkpoint of.
    stage.pool.reload(templates(vec![template("t", 1, 1, 4)])).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    stage.assert_full(1).await;
    assert_eq!(
        (stage.baked(), stage.methods()),
        (vec![1, 2], vec![Cold, Restored, Cold, Restored, Restored])
    );
}

#[tokio::test(start_paused = true)]
async fn a_bake_that_hangs_is_given_up_for_a_new_version() {
    let stage = baking();
    stage.runtime.bake_hangs.store(true, Ordering::SeqCst);
    stage.pool.run().await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(stage.records().await, [], "nothing is made meanwhile");
    stage.pool.reload(templates(vec![template("t", 2, 1, 4)])).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(stage.baked(), [2]);
    stage.assert_full(2).await;
}

#[tokio::test(start_paused = true)]
async fn a_bake_that_hangs_for_ever_does_not_keep_the_pool_empty_for_ever() {
    let stage = baking();
    stage.runtime.bake_hangs.store(true, Ordering::SeqCst);
    stage.pool.run().await;
    tokio::time::sleep(Duration::from_secs(302)).await;
    stage.assert_full(1).await;
}

#[tokio::test(start_paused = true)]
async fn an_acquire_waits_for_a_copy_however_long_a_cold_start_took() {
    let stage = baking();
    *stage.runtime.cold_takes.lock() = Duration::from_secs(20);
    stage.runtime.bad_bakes.store(1, Ordering::SeqCst);
    stage.pool.run().await;
    // The first bake fails at 20, the pool is full by a cold start at 40, and the second bake works at 41.
    tokio::time::sleep(Duration::from_secs(50)).await;
    assert_eq!((stage.baked(), stage.keeper().median()), (vec![1], None));
    for _ in 0..3 {
        stage.acquire().await.unwrap();
    }
    assert!(stage.keeper().median().unwrap() < Duration::from_secs(1));
}

#[tokio::test]
async fn what_is_frozen_has_been_warmed_up_and_its_copies_are_not_again() {
    let stage = Stage::new().await;
    stage.runtime.bakes.store(true, Ordering::SeqCst);
    assert!(!stage.begin_bake().await);
    stage.settled().await;
    stage.assert_nothing_left("baked").await;
    assert_eq!(
        (stage.baked(), stage.app().asked.lock().clone()),
        (vec![1], vec![READY.into(), WARM.into(), BAKE.into()])
    );
    assert!(stage.begin_bake().await, "there is nothing to bake");
    stage.attempt().await;
    stage.assert_full(1).await;
    assert_eq!(*stage.app().asked.lock(), [READY, WARM, BAKE, READY, OWN]);
    let page = stage.pool.metrics.page(crate::telemetry::Format::Text);
    for line in [
        r#"demo_provisions_total{template="t",method="criu_restore",result="success"} 1"#,
        "demo_criu_restore_duration_seconds_count 1",
        r#"demo_bakes_total{template="t",result="success"} 1"#,
    ] {
        assert!(page.contains(line), "no {line} in {page}");
    }
}

#[tokio::test]
async fn a_bake_that_fails_at_any_step_leaves_nothing() {
    for step in ["start", "answer", "warm up", "run the bake hooks", "freeze"] {
        let stage = Stage::new().await;
        stage.runtime.bakes.store(true, Ordering::SeqCst);
        match step {
            "start" => *stage.runtime.next_start.lock() = Some(StartFault::Fail),
            "answer" => stage.app().set(READY, Manner::Error),
            "warm up" => stage.app().set(WARM, Manner::Close),
            "run the bake hooks" => stage.app().set(BAKE, Manner::Error),
            _ => stage.runtime.bad_bakes.store(1, Ordering::SeqCst),
        }
        assert!(!stage.begin_bake().await);
        stage.settled().await;
        stage.assert_nothing_left(step).await;
        assert!(stage.keeper().bakery.pause().is_some(), "{step}");
        assert!(stage.begin_bake().await, "{step}: cold starts meanwhile");
        assert!(stage.baked().is_empty(), "{step}");
        stage.app().set(READY, Manner::Fine);
        stage.app().set(WARM, Manner::Fine);
        stage.app().set(BAKE, Manner::Fine);
        stage.assert_next_works(step).await;
    }
}

#[tokio::test]
async fn an_app_that_dies_or_a_server_that_stops_during_a_bake_leaves_nothing() {
    for dies in [true, false] {
        let stage = Stage::new().await;
        stage.runtime.bakes.store(true, Ordering::SeqCst);
        stage.runtime.bake_hangs.store(true, Ordering::SeqCst);
        stage.begin_bake().await;
        tokio::time::timeout(LONG, stage.runtime.hanging.notified()).await.expect("it is being frozen");
        assert!(collect(&stage.pool).await);
        assert_eq!(stage.runtime.running(), [stage.in_hand()], "it is no stray");
        if dies {
            assert!(stage.runtime.die(&stage.in_hand()));
            stage.settled().await;
        } else {
            tokio::time::timeout(LONG, stage.pool.drain()).await.expect("it stops");
        }
        stage.assert_nothing_left("bake").await;
        assert_eq!(stage.keeper().bakery.pause().is_some(), dies);
    }
}
