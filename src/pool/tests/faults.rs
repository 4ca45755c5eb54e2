//! Each fault at each step of making an instance: nothing remains of the attempt, and the next attempt works.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::fixture::{BAKE, Fixture, LONG, OWN, READY, START, WARM, template, templates};
use super::test_app::AppBehavior;
use super::test_databases::CreateFault;
use super::test_runtime::StartFault;
use super::test_store::CallFault;
use crate::instance::{ClaimToken, EndReason, Instance, InstanceId, RateLimits, State};
use crate::pool::end::databases;
use crate::pool::end::gc::collect;
use crate::store::{Claim, Claimed, Store as _, Visitor};

/// The names of the steps in their table.
const STEPS: [&str; 8] = [
    "record",
    "create a database",
    "start",
    "answer",
    "warm up",
    "run the bake hooks",
    "run the hooks",
    "offer",
];

/// A fault, and the step that it happens at.
#[derive(Debug, Clone, Copy)]
enum Fault {
    Store(&'static str, CallFault),
    Database(CreateFault),
    Start(StartFault),
    App(&'static str, AppBehavior),
    /// The exit status, if the command ends.
    Command(Option<u32>),
}

fn step_of(fault: Fault) -> &'static str {
    match fault {
        Fault::Store("insert", _) => "record",
        Fault::Store(..) => "offer",
        Fault::Database(_) => "create a database",
        Fault::Start(_) => "start",
        Fault::App(READY, _) => "answer",
        Fault::App(BAKE, _) => "run the bake hooks",
        Fault::App(OWN, _) | Fault::Command(_) => "run the hooks",
        Fault::App(..) => "warm up",
    }
}

const FAULTS: [Fault; 22] = [
    Fault::Store("insert", CallFault::Refused),
    Fault::Store("insert", CallFault::AnswerLost),
    Fault::Store("insert", CallFault::Hangs),
    Fault::Store("insert", CallFault::AnswerHangs),
    Fault::Database(CreateFault::Fail),
    Fault::Start(StartFault::Fail),
    Fault::Start(StartFault::Exhausted),
    Fault::App(READY, AppBehavior::Error),
    Fault::App(READY, AppBehavior::Close),
    Fault::App(READY, AppBehavior::Hang),
    Fault::App(WARM, AppBehavior::Close),
    Fault::App(WARM, AppBehavior::Hang),
    Fault::App(BAKE, AppBehavior::Error),
    Fault::App(BAKE, AppBehavior::Hang),
    Fault::App(OWN, AppBehavior::Close),
    Fault::App(OWN, AppBehavior::Hang),
    Fault::Command(Some(1)),
    Fault::Command(None),
    Fault::Store("offer", CallFault::Refused),
    Fault::Store("offer", CallFault::AnswerLost),
    Fault::Store("offer", CallFault::Hangs),
    Fault::Store("offer", CallFault::AnswerHangs),
];

impl Fixture {
    /// Makes the fault happen in the next attempt; a fault of the app or the command until [`Fixture::repair_all`].
    fn arrange(&self, fault: Fault) {
        match fault {
            Fault::Store(call, how) => self.store.fail_next(call, how),
            Fault::Database(how) => *self.databases.next_create.lock() = Some(how),
            Fault::Start(how) => *self.runtime.next_start.lock() = Some(how),
            Fault::App(path, behavior) => self.app().set(path, behavior),
            Fault::Command(status) => *self.runtime.exec_status.lock() = Some(status),
        }
    }

    /// Ends the faults of the app and of the commands.
    fn repair_all(&self) {
        for path in [READY, WARM, BAKE, OWN] {
            self.app().set(path, AppBehavior::Fine);
        }
        *self.runtime.exec_status.lock() = None;
    }

    /// Begins an attempt, and returns when it hangs in the middle of this step.
    async fn hang_at(&self, step: &str) {
        let (fault, hanging) = match step {
            "record" => (Fault::Store("insert", CallFault::AnswerHangs), &self.store.hanging),
            "create a database" => (Fault::Database(CreateFault::Hang), &self.databases.hanging),
            "start" => (Fault::Start(StartFault::Hang), &self.runtime.hanging),
            "answer" => (Fault::App(READY, AppBehavior::Hang), &*self.app().hanging),
            "warm up" => (Fault::App(WARM, AppBehavior::Hang), &*self.app().hanging),
            "run the bake hooks" => (Fault::App(BAKE, AppBehavior::Hang), &*self.app().hanging),
            "run the hooks" => (Fault::App(OWN, AppBehavior::Hang), &*self.app().hanging),
            _ => (Fault::Store("offer", CallFault::AnswerHangs), &self.store.hanging),
        };
        self.arrange(fault);
        self.begin();
        tokio::time::timeout(LONG, hanging.notified()).await.expect("the step is reached");
    }

    pub(super) async fn claim(&self) -> Claimed {
        let claim = Claim {
            template: self.template_pool().template().name.clone(),
            token: ClaimToken::random(),
            node: self.node.clone(),
            visitor: Visitor::new("192.0.2.1"),
            limits: RateLimits::NONE,
            ttl: Duration::from_secs(60),
        };
        self.store.inner.claim(&claim).await.unwrap()
    }
}

/// Returns whether the app runs when the fault happens.
fn has_started(fault: Fault) -> bool {
    !matches!(step_of(fault), "record" | "create a database" | "start")
}

/// Returns whether a pause is that after the first failure, or a part of it.
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
        let (fixture, case) = (Fixture::new().await, format!("{fault:?}"));
        fixture.arrange(fault);
        fixture.run_attempt().await;
        fixture.assert_nothing_left(&case).await;
        assert!(fixture.template_pool().problem().is_some(), "{case}: the problem is stated");
        fixture.repair_all();
        fixture.assert_next_works(&case).await;
    }))
    .await;
}

#[tokio::test]
async fn a_step_that_fails_again_and_again_leaves_nothing_each_time() {
    futures_util::future::join_all(FAULTS.map(async |fault| {
        let (fixture, case) = (Fixture::new().await, format!("{fault:?}"));
        for _ in 0..3 {
            fixture.arrange(fault);
            fixture.run_attempt().await;
            fixture.assert_nothing_left(&case).await;
        }
        fixture.repair_all();
        fixture.assert_next_works(&case).await;
    }))
    .await;
}

#[tokio::test]
async fn concurrent_attempts_of_which_one_fails_leave_nothing_of_it() {
    for fault in FAULTS {
        let (fixture, case) = (Fixture::new().await, format!("{fault:?}"));
        fixture.arrange(fault);
        for _ in 0..3 {
            fixture.begin();
        }
        fixture.tasks_ended().await;
        let (records, running) = (fixture.records().await.len(), fixture.runtime.running().len());
        assert_eq!(records, running, "{case}");
        assert!(records <= 2, "{case}: {records}");
        fixture.assert_idle(&case);
    }
}

#[tokio::test(start_paused = true)]
async fn a_template_that_cannot_be_made_is_tried_with_growing_pauses() {
    let fixture = Fixture::with(None, template("t", 1, 1, 4));
    fixture.runtime.failing_starts.store(usize::MAX, Ordering::SeqCst);
    fixture.pool.run().await;
    // At 0, 1, 3, 7, 15 and 31 seconds.
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(fixture.runtime.starts.load(Ordering::SeqCst), 6);
    fixture.runtime.failing_starts.store(0, Ordering::SeqCst);
    // At 63.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!((fixture.records().await.len(), fixture.template_pool().problem()), (1, None));
}

#[tokio::test]
async fn an_app_that_dies_during_a_step_leaves_nothing_and_the_next_attempt_works() {
    for step in &STEPS[2..] {
        let fixture = Fixture::new().await;
        fixture.hang_at(step).await;
        assert!(fixture.runtime.die(&fixture.only_locked()), "{step}: the app runs");
        fixture.tasks_ended().await;
        fixture.assert_nothing_left(step).await;
        assert!(is_first_pause(fixture.template_pool().pause()), "{step}");
        assert!(fixture.template_pool().problem().unwrap().starts_with("the app ended"), "{step}");
        fixture.repair_all();
        fixture.assert_next_works(step).await;
    }
}

#[tokio::test]
async fn a_shutdown_during_a_step_leaves_nothing_and_counts_as_no_failure() {
    for step in STEPS {
        let fixture = Fixture::new().await;
        fixture.hang_at(step).await;
        tokio::time::timeout(LONG, fixture.pool.shut_down()).await.expect("the pools shut down");
        fixture.assert_nothing_left(step).await;
        assert_eq!(
            (fixture.template_pool().pause(), fixture.template_pool().problem()),
            (None, None),
            "{step}"
        );
    }
}

#[tokio::test]
async fn a_record_that_an_undo_could_not_remove_is_removed_later() {
    for step in STEPS {
        let fixture = Fixture::new().await;
        fixture.hang_at(step).await;
        fixture.store.down.store(true, Ordering::SeqCst);
        match step {
            "record" | "offer" => {}
            // No app runs yet.
            "create a database" => {
                assert!(fixture.pool.supply.in_flight.report_death(&fixture.only_locked()))
            }
            _ => assert!(fixture.runtime.die(&fixture.only_locked())),
        }
        fixture.tasks_ended().await;
        fixture.assert_idle(step);
        assert_eq!(fixture.records().await.len(), 1, "{step}: the store was down");
        assert!(!collect(&fixture.pool.supply).await, "{step}: the store is still down");
        fixture.store.down.store(false, Ordering::SeqCst);
        assert!(collect(&fixture.pool.supply).await);
        fixture.tasks_ended().await;
        fixture.assert_nothing_left(step).await;
        fixture.repair_all();
        fixture.assert_next_works(step).await;
    }
}

#[tokio::test]
async fn an_instance_that_an_undo_could_not_stop_is_stopped_later() {
    for fault in FAULTS.into_iter().filter(|fault| has_started(*fault)) {
        let (fixture, case) = (Fixture::new().await, format!("{fault:?}"));
        fixture.arrange(fault);
        fixture.runtime.failing_stops.store(1, Ordering::SeqCst);
        fixture.run_attempt().await;
        assert_eq!(fixture.runtime.running().len(), 1, "{case}: the stop failed");
        assert_eq!(fixture.records().await, [], "{case}");
        assert!(collect(&fixture.pool.supply).await);
        fixture.tasks_ended().await;
        fixture.assert_nothing_left(&case).await;
    }
}

#[tokio::test]
async fn a_database_that_an_undo_could_not_drop_is_dropped_later() {
    for fault in FAULTS.into_iter().filter(|fault| step_of(*fault) != "record") {
        let (fixture, case) = (Fixture::new().await, format!("{fault:?}"));
        fixture.arrange(fault);
        fixture.databases.failing_drops.store(1, Ordering::SeqCst);
        fixture.run_attempt().await;
        assert_eq!(fixture.databases.names().len(), 1, "{case}: the drop failed");
        assert_eq!(databases::sweep(&fixture.pool.supply).await.unwrap(), 1, "{case}");
        fixture.assert_nothing_left(&case).await;
    }
}

#[tokio::test]
async fn a_sweep_leaves_the_databases_of_instances_that_are_made_or_on_record() {
    let fixture = Fixture::new().await;
    fixture.run_attempt().await;
    fixture.hang_at("create a database").await;
    assert_eq!(fixture.databases.names().len(), 2);
    assert_eq!(databases::sweep(&fixture.pool.supply).await.unwrap(), 0);
    assert_eq!(fixture.databases.names().len(), 2);
}

#[tokio::test]
async fn an_abandoned_attempt_is_ended_although_its_app_runs() {
    let fixture = Fixture::new().await;
    fixture.hang_at("answer").await;
    // Neither the record nor the running instance can be undone now.
    fixture.store.down.store(true, Ordering::SeqCst);
    fixture.runtime.failing_stops.store(1, Ordering::SeqCst);
    fixture.tasks_ended().await;
    assert_eq!((fixture.records().await.len(), fixture.runtime.running().len()), (1, 1));
    fixture.store.down.store(false, Ordering::SeqCst);
    assert!(collect(&fixture.pool.supply).await);
    fixture.tasks_ended().await;
    fixture.assert_nothing_left("abandoned").await;
}

#[tokio::test]
async fn a_visitor_keeps_an_instance_that_was_offered_although_the_pool_got_no_answer() {
    let fixture = Fixture::new().await;
    fixture.hang_at("offer").await;
    let claimed = fixture.claim().await;
    fixture.tasks_ended().await;
    let id = claimed.instance().unwrap().id().clone();
    assert_eq!(fixture.runtime.running(), [id]);
    assert_eq!(fixture.records().await[0].state().name(), "assigned");
    assert_eq!((fixture.template_pool().pause(), fixture.template_pool().problem()), (None, None));
    fixture.assert_idle("offered");
}

/// An offer is interrupted by a shutdown, by a template that changes, or by an answer that is lost.
#[tokio::test]
async fn a_visitor_keeps_an_instance_whose_offer_was_interrupted() {
    for case in ["shutdown", "reload", "lost answer"] {
        let fixture = Fixture::new().await;
        fixture.hang_at("offer").await;
        let id = fixture.claim().await.instance().unwrap().id().clone();
        let calls = fixture.store.calls("retire");
        match case {
            "shutdown" => fixture.pool.shared.stopping.cancel(),
            "reload" => fixture.pool.reload(templates(vec![template("t", 2, 1, 4)])).await,
            _ => {}
        }
        fixture.tasks_ended().await;
        assert_eq!(fixture.store.calls("retire"), calls + 1, "{case}: the store is asked before any undo");
        assert_eq!(fixture.records().await[0].state().name(), "assigned", "{case}");
        assert_eq!(fixture.runtime.running(), std::slice::from_ref(&id), "{case}");
        assert_eq!(fixture.databases.names(), [id.as_str()], "{case}");
        assert_eq!(fixture.template_pool().problem(), None, "{case}");
        fixture.assert_idle(case);
    }
}

#[tokio::test]
async fn an_app_that_dies_while_it_is_being_offered_fails_the_instance_of_its_visitor() {
    let fixture = Fixture::new().await;
    fixture.hang_at("offer").await;
    let claimed = fixture.claim().await;
    assert!(fixture.runtime.die(claimed.instance().unwrap().id()));
    fixture.tasks_ended().await;
    let records = fixture.records().await;
    assert!(matches!(records[0].state(), State::Expired { reason: EndReason::Failed, .. }), "{records:?}");
    assert_eq!(fixture.runtime.running(), []);
}

#[tokio::test]
async fn an_attempt_at_a_template_that_changes_during_a_step_is_not_offered_and_counts_as_no_failure() {
    for step in STEPS {
        let fixture = Fixture::new().await;
        fixture.hang_at(step).await;
        fixture.pool.reload(templates(vec![template("t", 2, 1, 4)])).await;
        fixture.tasks_ended().await;
        fixture.assert_nothing_left(step).await;
        assert_eq!(
            (fixture.template_pool().pause(), fixture.template_pool().problem()),
            (None, None),
            "{step}"
        );
        fixture.repair_all();
        fixture.assert_next_works(step).await;
        assert_eq!(fixture.records().await[0].revision(), 2);
    }
}

#[tokio::test]
async fn an_instance_has_random_texts_of_its_own_in_all_its_hooks_and_no_error_contains_them() {
    let fixture = Fixture::new().await;
    *fixture.runtime.exec_status.lock() = Some(Some(7));
    fixture.run_attempt().await;
    let problem = fixture.template_pool().problem().unwrap();
    assert_eq!(problem, "the hook `make-own` ended with status 7; its last output: so make-own {KEY}");
    fixture.repair_all();
    fixture.run_attempt().await;
    fixture.run_attempt().await;
    let ran = fixture.runtime.ran.lock().clone();
    let texts: Vec<_> = ran.iter().map(|(_, words)| words[1].clone()).collect();
    assert!(texts.iter().all(|text| text.len() == 16));
    assert!(texts[0] != texts[1] && texts[1] != texts[2], "{texts:?}");
    // The request to each instance had the same text as its command.
    let each_twice: Vec<_> = texts.iter().flat_map(|text| [text.clone(), text.clone()]).collect();
    assert_eq!(*fixture.app().keys.lock(), each_twice);
    for record in fixture.records().await {
        let text = ran.iter().find(|(id, _)| id == record.id()).map(|(_, words)| words[1].as_str());
        assert_eq!(fixture.pool.instances.credentials(&record).unwrap().reveal(), text.unwrap());
    }
}

#[tokio::test]
async fn an_instance_that_an_earlier_version_made_keeps_its_credentials() {
    let fixture = Fixture::new().await;
    let template = fixture.template_pool().template();
    let id = InstanceId::parse("t-aaaaaaaaaaaaaaaa").unwrap();
    let credentials = |revision| {
        let record = Instance::warming(id.clone(), fixture.node.clone(), revision, START);
        fixture.pool.instances.credentials(&record).map(|text| text.reveal().to_owned())
    };
    let (current, earlier) = (credentials(template.revision), credentials(template.earlier_revision()));
    // As earlier versions derived it: HMAC-SHA256("secret", "t-aaaaaaaaaaaaaaaa KEY 0"), computed with Python.
    assert_eq!(earlier.as_deref(), Some("sy6biq87dgps7gem"));
    assert!(current.is_some() && current != earlier);
    assert_eq!(credentials(template.revision + 1), None, "of a template that has changed since");
}

#[tokio::test]
async fn a_command_that_hangs_is_abandoned_when_its_instance_dies() {
    let fixture = Fixture::new().await;
    fixture.runtime.exec_hangs.store(true, Ordering::SeqCst);
    fixture.begin();
    tokio::time::timeout(LONG, fixture.runtime.hanging.notified()).await.expect("the command is run");
    assert!(fixture.runtime.die(&fixture.only_locked()));
    fixture.tasks_ended().await;
    fixture.assert_nothing_left("dead").await;
    fixture.assert_next_works("dead").await;
}
