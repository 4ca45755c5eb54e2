//! Whatever goes wrong at whatever step of making an instance, nothing is left and the next attempt works.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::fixture::{BAKE, LONG, OWN, READY, Stage, WARM, template, templates};
use super::test_app::Manner;
use super::test_runtime::StartFault;
use super::test_store::Line;
use crate::instance::{ClaimToken, EndReason, Limits, State};
use crate::pool::end::gc::collect;
use crate::store::{Claim, Claimed, Store as _, Visitor};

/// The steps by their names in the table.
const STEPS: [&str; 7] =
    ["record", "start", "answer", "warm up", "run the bake hooks", "run the hooks", "offer"];

/// A fault, and the step that it happens at.
#[derive(Debug, Clone, Copy)]
enum Fault {
    Store(&'static str, Line),
    Start(StartFault),
    App(&'static str, Manner),
    /// The exit status, if the command ends.
    Command(Option<u32>),
}

fn step_of(fault: Fault) -> &'static str {
    match fault {
        Fault::Store("insert", _) => "record",
        Fault::Store(..) => "offer",
        Fault::Start(_) => "start",
        Fault::App(READY, _) => "answer",
        Fault::App(BAKE, _) => "run the bake hooks",
        Fault::App(OWN, _) | Fault::Command(_) => "run the hooks",
        Fault::App(..) => "warm up",
    }
}

const FAULTS: [Fault; 21] = [
    Fault::Store("insert", Line::Refused),
    Fault::Store("insert", Line::AnswerLost),
    Fault::Store("insert", Line::Hangs),
    Fault::Store("insert", Line::AnswerHangs),
    Fault::Start(StartFault::Fail),
    Fault::Start(StartFault::Exhausted),
    Fault::App(READY, Manner::Error),
    Fault::App(READY, Manner::Close),
    Fault::App(READY, Manner::Hang),
    Fault::App(WARM, Manner::Close),
    Fault::App(WARM, Manner::Hang),
    Fault::App(BAKE, Manner::Error),
    Fault::App(BAKE, Manner::Hang),
    Fault::App(OWN, Manner::Close),
    Fault::App(OWN, Manner::Hang),
    Fault::Command(Some(1)),
    Fault::Command(None),
    Fault::Store("offer", Line::Refused),
    Fault::Store("offer", Line::AnswerLost),
    Fault::Store("offer", Line::Hangs),
    Fault::Store("offer", Line::AnswerHangs),
];

impl Stage {
    fn arrange(&self, fault: Fault) {
        match fault {
            Fault::Store(question, how) => self.store.cut(question, how),
            Fault::Start(how) => *self.runtime.next_start.lock() = Some(how),
            Fault::App(path, manner) => self.app().set(path, manner),
            Fault::Command(status) => *self.runtime.exec_ends.lock() = Some(status),
        }
    }

    fn mend(&self) {
        for path in [READY, WARM, BAKE, OWN] {
            self.app().set(path, Manner::Fine);
        }
        *self.runtime.exec_ends.lock() = None;
    }

    /// Begins an attempt, and returns when it stands still in the middle of this step.
    async fn stand_still_at(&self, step: &str) {
        let (fault, bell) = match step {
            "record" => (Fault::Store("insert", Line::AnswerHangs), &self.store.hanging),
            "start" => (Fault::Start(StartFault::Hang), &self.runtime.hanging),
            "answer" => (Fault::App(READY, Manner::Hang), &*self.app().hanging),
            "warm up" => (Fault::App(WARM, Manner::Hang), &*self.app().hanging),
            "run the bake hooks" => (Fault::App(BAKE, Manner::Hang), &*self.app().hanging),
            "run the hooks" => (Fault::App(OWN, Manner::Hang), &*self.app().hanging),
            _ => (Fault::Store("offer", Line::AnswerHangs), &self.store.hanging),
        };
        self.arrange(fault);
        self.begin();
        tokio::time::timeout(LONG, bell.notified()).await.expect("the step is reached");
    }

    async fn claim(&self) -> Claimed {
        let claim = Claim {
            template: self.keeper().template().name.clone(),
            token: ClaimToken::random(),
            node: self.node.clone(),
            visitor: Visitor("192.0.2.1".to_owned()),
            limits: Limits { hourly: 0, daily: 0 },
            ttl: Duration::from_secs(60),
        };
        self.store.inner.claim(&claim).await.unwrap()
    }
}

/// At most the first pause of a back-off, and not nothing.
fn is_first_pause(pause: Option<Duration>) -> bool {
    pause.is_some_and(|pause| !pause.is_zero() && pause <= Duration::from_secs(1))
}

#[test]
fn every_step_has_its_faults() {
    let names: Vec<_> = crate::pool::supply::provision::STEPS.iter().map(|step| step.name).collect();
    assert_eq!(names, STEPS);
    for step in STEPS {
        assert!(FAULTS.iter().any(|fault| step_of(*fault) == step), "{step}");
    }
}

#[tokio::test]
async fn a_step_that_fails_leaves_nothing_and_the_next_attempt_works() {
    futures_util::future::join_all(FAULTS.map(async |fault| {
        let (stage, case) = (Stage::new().await, format!("{fault:?}"));
        stage.arrange(fault);
        stage.attempt().await;
        stage.assert_nothing_left(&case).await;
        assert!(stage.keeper().problem().is_some(), "{case}: says why");
        stage.mend();
        stage.assert_next_works(&case).await;
    }))
    .await;
}

#[tokio::test]
async fn a_step_that_fails_again_and_again_leaves_nothing_each_time() {
    futures_util::future::join_all(FAULTS.map(async |fault| {
        let (stage, case) = (Stage::new().await, format!("{fault:?}"));
        for _ in 0..3 {
            stage.arrange(fault);
            stage.attempt().await;
            stage.assert_nothing_left(&case).await;
        }
        stage.mend();
        stage.assert_next_works(&case).await;
    }))
    .await;
}

#[tokio::test]
async fn attempts_that_fail_side_by_side_leave_nothing() {
    for fault in FAULTS {
        let (stage, case) = (Stage::new().await, format!("{fault:?}"));
        stage.arrange(fault);
        for _ in 0..3 {
            stage.begin();
        }
        stage.settled().await;
        let (records, running) = (stage.records().await.len(), stage.runtime.running().len());
        assert_eq!(records, running, "{case}");
        assert!(records <= 2, "{case}: {records}");
        stage.assert_idle(&case);
    }
}

#[tokio::test(start_paused = true)]
async fn a_template_that_cannot_be_made_is_tried_less_and_less_often() {
    let stage = Stage::with(None, template("t", 1, 1, 4));
    stage.runtime.bad_starts.store(usize::MAX, Ordering::SeqCst);
    stage.pool.run().await;
    // At 0, 1, 3, 7, 15 and 31 seconds.
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(stage.runtime.starts.load(Ordering::SeqCst), 6);
    stage.runtime.bad_starts.store(0, Ordering::SeqCst);
    // At 63.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!((stage.records().await.len(), stage.keeper().problem()), (1, None));
}

#[tokio::test]
async fn an_app_that_dies_during_a_step_leaves_nothing_and_the_next_attempt_works() {
    for step in &STEPS[1..] {
        let stage = Stage::new().await;
        stage.stand_still_at(step).await;
        assert!(stage.runtime.die(&stage.in_hand()), "{step}: it runs");
        stage.settled().await;
        stage.assert_nothing_left(step).await;
        assert!(is_first_pause(stage.keeper().pause()), "{step}");
        assert!(stage.keeper().problem().unwrap().starts_with("the app ended"), "{step}");
        stage.mend();
        stage.assert_next_works(step).await;
    }
}

#[tokio::test]
async fn a_server_that_stops_during_a_step_leaves_nothing_and_blames_nobody() {
    for step in STEPS {
        let stage = Stage::new().await;
        stage.stand_still_at(step).await;
        tokio::time::timeout(LONG, stage.pool.drain()).await.expect("it stops");
        stage.assert_nothing_left(step).await;
        assert_eq!((stage.keeper().pause(), stage.keeper().problem()), (None, None), "{step}");
    }
}

#[tokio::test]
async fn what_an_undo_could_not_take_off_the_record_is_taken_off_later() {
    for step in STEPS {
        let stage = Stage::new().await;
        stage.stand_still_at(step).await;
        stage.store.down.store(true, Ordering::SeqCst);
        match step {
            "record" | "offer" => {}
            _ => assert!(stage.runtime.die(&stage.in_hand())),
        }
        stage.settled().await;
        stage.assert_idle(step);
        assert_eq!(stage.records().await.len(), 1, "{step}: the store was away");
        assert!(!collect(&stage.pool).await, "{step}: it still is");
        stage.store.down.store(false, Ordering::SeqCst);
        assert!(collect(&stage.pool).await);
        stage.settled().await;
        stage.assert_nothing_left(step).await;
        stage.mend();
        stage.assert_next_works(step).await;
    }
}

#[tokio::test]
async fn what_an_undo_could_not_stop_is_stopped_later() {
    for fault in FAULTS.into_iter().filter(|fault| !matches!(step_of(*fault), "record" | "start")) {
        let (stage, case) = (Stage::new().await, format!("{fault:?}"));
        stage.arrange(fault);
        stage.runtime.bad_stops.store(1, Ordering::SeqCst);
        stage.attempt().await;
        assert_eq!(stage.runtime.running().len(), 1, "{case}: it resisted");
        assert_eq!(stage.records().await, [], "{case}");
        assert!(collect(&stage.pool).await);
        stage.settled().await;
        stage.assert_nothing_left(&case).await;
    }
}

#[tokio::test]
async fn an_abandoned_attempt_is_ended_although_its_app_runs() {
    let stage = Stage::new().await;
    stage.stand_still_at("answer").await;
    // Neither end of it can be undone now.
    stage.store.down.store(true, Ordering::SeqCst);
    stage.runtime.bad_stops.store(1, Ordering::SeqCst);
    stage.settled().await;
    assert_eq!((stage.records().await.len(), stage.runtime.running().len()), (1, 1));
    stage.store.down.store(false, Ordering::SeqCst);
    assert!(collect(&stage.pool).await);
    stage.settled().await;
    stage.assert_nothing_left("abandoned").await;
}

#[tokio::test]
async fn a_visitor_keeps_what_was_offered_although_the_pool_never_heard_so() {
    let stage = Stage::new().await;
    stage.stand_still_at("offer").await;
    let claimed = stage.claim().await;
    stage.settled().await;
    let id = claimed.instance().unwrap().id().clone();
    assert_eq!(stage.runtime.running(), [id]);
    assert_eq!(stage.records().await[0].life().name(), "assigned");
    assert_eq!((stage.keeper().pause(), stage.keeper().problem()), (None, None));
    stage.assert_idle("offered");
}

#[tokio::test]
async fn a_visitor_is_told_when_an_app_dies_while_it_is_being_offered() {
    let stage = Stage::new().await;
    stage.stand_still_at("offer").await;
    let claimed = stage.claim().await;
    assert!(stage.runtime.die(claimed.instance().unwrap().id()));
    stage.settled().await;
    let records = stage.records().await;
    assert!(matches!(records[0].life(), State::Expired { ending: EndReason::Failed, .. }), "{records:?}");
    assert_eq!(stage.runtime.running(), []);
}

#[tokio::test]
async fn a_template_that_changes_during_a_step_is_not_offered_and_not_blamed() {
    for step in STEPS {
        let stage = Stage::new().await;
        stage.stand_still_at(step).await;
        stage.pool.reload(templates(vec![template("t", 2, 1, 4)])).await;
        stage.settled().await;
        stage.assert_nothing_left(step).await;
        assert_eq!((stage.keeper().pause(), stage.keeper().problem()), (None, None), "{step}");
        stage.mend();
        stage.assert_next_works(step).await;
        assert_eq!(stage.records().await[0].revision(), 2);
    }
}

#[tokio::test]
async fn an_instance_has_random_texts_of_its_own_in_all_its_hooks_and_they_are_never_told() {
    let stage = Stage::new().await;
    *stage.runtime.exec_ends.lock() = Some(Some(7));
    stage.attempt().await;
    let problem = stage.keeper().problem().unwrap();
    assert_eq!(problem, "the hook `make-own` ended with status 7; its last output: so make-own {KEY}");
    stage.mend();
    stage.attempt().await;
    stage.attempt().await;
    let ran = stage.runtime.ran.lock().clone();
    let texts: Vec<_> = ran.iter().map(|(_, words)| words[1].clone()).collect();
    assert!(texts.iter().all(|text| text.len() == 16));
    assert!(texts[0] != texts[1] && texts[1] != texts[2], "{texts:?}");
    // The request to each of them had the same.
    let each_twice: Vec<_> = texts.iter().flat_map(|text| [text.clone(), text.clone()]).collect();
    assert_eq!(*stage.app().keys.lock(), each_twice);
    for record in stage.records().await {
        let text = ran.iter().find(|(id, _)| id == record.id()).map(|(_, words)| words[1].as_str());
        assert_eq!(stage.pool.credentials(&record).unwrap().reveal(), text.unwrap());
    }
}

#[tokio::test]
async fn a_command_that_hangs_is_given_up_when_its_instance_dies() {
    let stage = Stage::new().await;
    stage.runtime.exec_hangs.store(true, Ordering::SeqCst);
    stage.begin();
    tokio::time::timeout(LONG, stage.runtime.hanging.notified()).await.expect("it is run");
    assert!(stage.runtime.die(&stage.in_hand()));
    stage.settled().await;
    stage.assert_nothing_left("dead").await;
    stage.assert_next_works("dead").await;
}
