//! A server is killed after a step or during one: the next server of its node removes its remains or adopts it.
//!
//! The killed server is this test program in another process, with variables that say what it does and when it dies.

use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Signal, getpid, kill_process};
use tokio::time::Instant;
use try_it_now::instance::{InstanceId, NodeId, TemplateName};
use try_it_now::runtime::containerd::{ContainerdRuntime, ContainerdSettings, FaultInjector, FaultPoint};
use try_it_now::runtime::{CheckpointStatus, Runtime, StartMethod, StartRequest};
use try_it_now::template::App;

use super::faults::{BAKE_STEPS, START_STEPS, STOP_STEPS};
use super::{
    COUNTER_APP, REVISION, TestNode, bake, php, send_command, start, start_request, wait_until, with_timeout,
};

/// The longest time that the next server may take to start with what the killed one left.
const MAX_TAKEOVER_TIME: Duration = Duration::from_secs(10);

/// What the killed server was doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Activity {
    /// Starting or restoring an instance.
    Start,
    /// Baking a checkpoint of an instance.
    Bake,
    /// Stopping an instance.
    Stop,
    /// Taking over what another server left.
    TakeOver,
}

const ACTIVITIES: [Activity; 4] = [Activity::Start, Activity::Bake, Activity::Stop, Activity::TakeOver];

/// When the server is killed: this long after the end of this step.
#[derive(Debug, Clone, Copy)]
struct KillPoint {
    activity: Activity,
    after: FaultPoint,
    millis: u64,
}

fn at_step(activity: Activity, after: FaultPoint) -> KillPoint {
    KillPoint { activity, after, millis: 0 }
}

fn after_step(activity: Activity, after: FaultPoint, millis: u64) -> KillPoint {
    KillPoint { activity, after, millis }
}

/// Acts as the server that is killed, if this process was started for that.
async fn run_as_server() -> bool {
    let Some(activity) = std::env::var("KILL_ACTIVITY").ok() else { return false };
    let value = |name: &str| std::env::var(name).unwrap();
    let activity = ACTIVITIES.into_iter().find(|one| format!("{one:?}") == activity).unwrap();
    let after = value("KILL_AFTER");
    let all = START_STEPS
        .into_iter()
        .chain(BAKE_STEPS)
        .chain(STOP_STEPS)
        .chain([FaultPoint::Adoption, FaultPoint::Memory]);
    let after = all.into_iter().find(|step| format!("{step:?}") == after).unwrap();
    let pause = Duration::from_millis(value("KILL_MILLIS").parse().unwrap());
    let armed = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(activity == Activity::TakeOver));
    let ready = armed.clone();
    let watcher = FaultInjector::new(move |step| {
        if step == after && ready.load(std::sync::atomic::Ordering::SeqCst) {
            if pause.is_zero() {
                die();
            }
            std::thread::spawn(move || {
                std::thread::sleep(pause);
                die();
            });
        }
        Ok(())
    });
    let node = NodeId::parse(&value("KILL_NODE")).unwrap();
    let settings = ContainerdSettings::new(value("KILL_ADDRESS").into(), value("KILL_FOLDER").into(), node);
    let settings = ContainerdSettings {
        faults: watcher,
        program: Some(env!("CARGO_BIN_EXE_try-it-now").into()),
        user_namespaces: crate::support::user_namespaces::setting(),
        ..settings
    };
    let arm = || armed.store(true, std::sync::atomic::Ordering::SeqCst);
    let runtime = ContainerdRuntime::open(settings).await.unwrap();
    let id = InstanceId::parse(&value("KILL_ID")).unwrap();
    let request = StartRequest { id: id.clone(), ..start_request(&php(COUNTER_APP)) };
    match activity {
        Activity::Start => {
            arm();
            runtime.start(&request).await.unwrap();
        }
        Activity::Bake => {
            let started = runtime.start(&request).await.unwrap();
            send_command(&runtime, started.endpoint, "add").await;
            arm();
            runtime.bake(&id, REVISION, &request.app).await.unwrap();
        }
        Activity::Stop => {
            runtime.start(&request).await.unwrap();
            arm();
            runtime.stop(&id).await.unwrap();
        }
        Activity::TakeOver => {}
    }
    // The kill comes later than all of this, if it comes at all.
    std::future::pending().await
}

fn die() {
    kill_process(getpid(), Signal::KILL).unwrap();
}

impl TestNode {
    /// Runs a server of this node that is killed at this point while it works on this instance.
    fn kill_server(&self, test: &str, kill_point: KillPoint, id: &InstanceId) {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &format!("containerd::crash::{test}"), "--nocapture"])
            .env("KILL_ACTIVITY", format!("{:?}", kill_point.activity))
            .env("KILL_AFTER", format!("{:?}", kill_point.after))
            .env("KILL_MILLIS", kill_point.millis.to_string())
            .env("KILL_ADDRESS", &self.settings.socket)
            .env("KILL_FOLDER", &self.settings.node_dir)
            .env("KILL_NODE", self.settings.node.as_str())
            .env("KILL_ID", id.as_str())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + crate::suites::runtime::MAX_WAIT;
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if Instant::now() > deadline {
                let _ = child.kill();
                let _ = child.wait();
                panic!("{kill_point:?} was not reached");
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        let signal = std::os::unix::process::ExitStatusExt::signal(&status);
        assert_eq!(signal, Some(9), "{kill_point:?}: the server was killed and did not fail");
    }

    /// Opens the next server of this node. Panics if that takes longer than [`MAX_TAKEOVER_TIME`].
    async fn next_server(&self, case: &str) -> ContainerdRuntime {
        let begun = Instant::now();
        let runtime = self.open().await;
        let took = begun.elapsed();
        assert!(took < MAX_TAKEOVER_TIME, "{case}: the takeover took {took:?}");
        runtime
    }

    /// Kills a server at each of these points. The instance that the next server adopts is stopped; then nothing must
    /// be left.
    async fn assert_recovers(&self, test: &str, kill_points: &[KillPoint]) {
        let app = php(COUNTER_APP);
        // Makes sure that the image is imported and that the files of the node exist.
        drop(self.open().await);
        let before = self.node_resources(&[]);
        // The first restore of a checkpoint leaves what runc recorded of it.
        let resources = |ids: &[String]| {
            let mut found = self.node_resources(ids);
            found.retain(|name| before.contains(name) || !name.ends_with("/runc.json"));
            found
        };
        for kill_point in kill_points {
            let (case, id) = (format!("{kill_point:?}"), new_id());
            self.kill_server(test, *kill_point, &id);
            let runtime = self.next_server(&case).await;
            let adopted = runtime.list().await.unwrap();
            assert!(adopted.is_empty() || adopted == [id.clone()], "{case}: {adopted:?}");
            let runs = matches!(
                (kill_point.activity, kill_point.after, kill_point.millis),
                (Activity::Start, FaultPoint::Start, 0)
            );
            assert!(!runs || adopted == [id.clone()], "{case}: a running instance is adopted");
            with_timeout(runtime.stop(&id)).await.unwrap();
            // A shim takes a moment to end.
            let ids = [id.as_str().to_owned()];
            let last = parking_lot::Mutex::new(std::collections::BTreeSet::new());
            let clean = async || {
                *last.lock() = resources(&ids);
                (*last.lock() == before).then_some(())
            };
            let settled =
                tokio::time::timeout(Duration::from_secs(5), wait_until("nothing is left", clean)).await;
            let left: Vec<_> = last.lock().difference(&before).cloned().collect();
            assert!(settled.is_ok(), "{case}: {left:#?}");
            drop(runtime);
        }
        let runtime = self.open().await;
        let (id, _) = start(&runtime, &app).await;
        with_timeout(runtime.stop(&id)).await.unwrap();
    }
}

fn new_id() -> InstanceId {
    InstanceId::random(&TemplateName::new("sample").unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_killed_at_any_step_of_a_cold_start_leaves_nothing_to_the_next() {
    const NAME: &str = "a_server_killed_at_any_step_of_a_cold_start_leaves_nothing_to_the_next";
    if run_as_server().await {
        return;
    }
    let Some(test_node) = TestNode::new() else { return };
    let steps = START_STEPS.map(|step| at_step(Activity::Start, step));
    let between =
        [2, 8, 15, 25, 35, 45, 55, 65].map(|millis| after_step(Activity::Start, FaultPoint::Record, millis));
    let starting = [1, 3, 8].map(|millis| after_step(Activity::Start, FaultPoint::Task, millis));
    test_node.assert_recovers(NAME, &[&steps[..], &between, &starting].concat()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_killed_at_any_step_of_a_restore_leaves_nothing_to_the_next() {
    const NAME: &str = "a_server_killed_at_any_step_of_a_restore_leaves_nothing_to_the_next";
    if run_as_server().await {
        return;
    }
    let Some(test_node) = TestNode::new() else { return };
    let app: App = bake(&test_node.open().await).await;
    let steps = START_STEPS.map(|step| at_step(Activity::Start, step));
    let between = [5, 12, 19, 26, 33].map(|millis| after_step(Activity::Start, FaultPoint::Record, millis));
    let restoring = [1, 3, 5, 10, 25, 50].map(|millis| after_step(Activity::Start, FaultPoint::Task, millis));
    // Runc does the first restore, and CRIU those that follow it.
    test_node.assert_recovers(NAME, &[&restoring[..], &steps, &between, &restoring].concat()).await;
    let runtime = test_node.open().await;
    let (_, started) = start(&runtime, &app).await;
    assert_eq!(started.method, StartMethod::Restored, "the checkpoint is intact");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_killed_at_any_step_of_a_stop_leaves_nothing_to_the_next() {
    const NAME: &str = "a_server_killed_at_any_step_of_a_stop_leaves_nothing_to_the_next";
    if run_as_server().await {
        return;
    }
    let Some(test_node) = TestNode::new() else { return };
    test_node.assert_recovers(NAME, &STOP_STEPS.map(|step| at_step(Activity::Stop, step))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_killed_at_any_step_of_a_bake_leaves_a_complete_checkpoint_or_none() {
    const NAME: &str = "a_server_killed_at_any_step_of_a_bake_leaves_a_complete_checkpoint_or_none";
    if run_as_server().await {
        return;
    }
    let Some(test_node) = TestNode::new() else { return };
    let unfinished = BAKE_STEPS.into_iter().filter(|step| *step != FaultPoint::Manifest);
    let mut kill_points: Vec<_> = unfinished.map(|step| at_step(Activity::Bake, step)).collect();
    // While memory is moved to the shared file system.
    kill_points.extend([
        at_step(Activity::Bake, FaultPoint::Memory),
        after_step(Activity::Bake, FaultPoint::Memory, 1),
    ]);
    kill_points.extend([1, 3].map(|millis| after_step(Activity::Bake, FaultPoint::NoTask, millis)));
    kill_points
        .extend([3, 10, 20, 40, 80].map(|millis| after_step(Activity::Bake, FaultPoint::BakeFolder, millis)));
    test_node.assert_recovers(NAME, &kill_points).await;

    let app = php(COUNTER_APP);
    for step in [FaultPoint::Manifest, FaultPoint::NoRecord, FaultPoint::NoFolder] {
        let (case, id) = (format!("{step:?}"), new_id());
        test_node.kill_server(NAME, at_step(Activity::Bake, step), &id);
        let runtime = test_node.next_server(&case).await;
        assert_eq!(runtime.list().await.unwrap(), [], "{case}");
        with_timeout(runtime.fetch(&app)).await.unwrap();
        assert_eq!(runtime.checkpoint_status(REVISION, &app).await, CheckpointStatus::Present, "{case}");
        assert_eq!(test_node.resources_of(id.as_str()), [""; 0], "{case}");
        let (copy, started) = start(&runtime, &app).await;
        assert_eq!(started.method, StartMethod::Restored, "{case}");
        assert_eq!(send_command(&runtime, started.endpoint, "look").await, "1", "{case}");
        with_timeout(runtime.stop(&copy)).await.unwrap();
        drop(runtime);
        std::fs::remove_dir_all(test_node.checkpoints()).unwrap();
        drop(test_node.open().await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_takeover_that_is_killed_is_completed_by_the_next_server() {
    const NAME: &str = "a_takeover_that_is_killed_is_completed_by_the_next_server";
    if run_as_server().await {
        return;
    }
    let Some(test_node) = TestNode::new() else { return };
    let runtime = test_node.open().await;
    let app = php(COUNTER_APP);
    // The memory of this instance is not traced, because a takeover would end the trace.
    let request = StartRequest { will_be_baked: false, ..start_request(&app) };
    let (living, started) = (request.id.clone(), with_timeout(runtime.start(&request)).await.unwrap());
    assert_eq!(send_command(&runtime, started.endpoint, "add").await, "1");
    drop(runtime);
    let before = test_node.node_resources(&[living.as_str().to_owned()]);
    for step in [FaultPoint::Adoption, FaultPoint::NoTask, FaultPoint::NoRecord, FaultPoint::NoSnapshot] {
        let (case, dead) = (format!("{step:?}"), new_id());
        test_node.kill_server(NAME, at_step(Activity::Start, FaultPoint::Record), &dead);
        test_node.kill_server(NAME, at_step(Activity::TakeOver, step), &dead);
        let runtime = test_node.next_server(&case).await;
        assert_eq!(runtime.list().await.unwrap(), std::slice::from_ref(&living), "{case}");
        assert_eq!(send_command(&runtime, started.endpoint, "look").await, "1", "{case}");
        let ids = [living.as_str().to_owned(), dead.as_str().to_owned()];
        assert_eq!(test_node.node_resources(&ids), before, "{case}");
        drop(runtime);
    }
}
