//! A server that is killed at a step, or in the middle of one: the next one of its node removes what is left, or has it.
//!
//! The server is this very test, started once more with variables that say what to do and where to die.

use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Signal, getpid, kill_process};
use tokio::time::Instant;
use try_it_now::instance::{InstanceId, NodeId, TemplateName};
use try_it_now::runtime::containerd::{ContainerdRuntime, FaultPoint, Settings, Watcher};
use try_it_now::runtime::{CheckpointStatus, Runtime, StartMethod, StartRequest};
use try_it_now::template::App;

use super::faults::{BAKING, ENDING, MAKING};
use super::{KEEPER, Place, REVISION, bake, order, php, start, tell, until, within};

/// How long the next server may take to begin, with what the one before left.
const TAKE_OVER: Duration = Duration::from_secs(10);

/// What the server that is killed was doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doing {
    /// Starting or restoring an instance.
    Start,
    /// ProvisionTask a checkpoint of one.
    Bake,
    /// EndReason one.
    Stop,
    /// Taking over what another left.
    TakeOver,
}

const DOINGS: [Doing; 4] = [Doing::Start, Doing::Bake, Doing::Stop, Doing::TakeOver];

/// When it is killed: so long after the end of this step.
#[derive(Debug, Clone, Copy)]
struct Moment {
    doing: Doing,
    after: FaultPoint,
    millis: u64,
}

fn at(doing: Doing, after: FaultPoint) -> Moment {
    Moment { doing, after, millis: 0 }
}

fn later(doing: Doing, after: FaultPoint, millis: u64) -> Moment {
    Moment { doing, after, millis }
}

/// Runs as the server that is killed, if that is what this process was started for.
async fn play_the_server() -> bool {
    let Some(doing) = std::env::var("KILL_DOING").ok() else { return false };
    let value = |name: &str| std::env::var(name).unwrap();
    let doing = DOINGS.into_iter().find(|one| format!("{one:?}") == doing).unwrap();
    let after = value("KILL_AFTER");
    let all =
        MAKING.into_iter().chain(BAKING).chain(ENDING).chain([FaultPoint::Adoption, FaultPoint::Memory]);
    let after = all.into_iter().find(|step| format!("{step:?}") == after).unwrap();
    let pause = Duration::from_millis(value("KILL_MILLIS").parse().unwrap());
    let armed = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(doing == Doing::TakeOver));
    let ready = armed.clone();
    let watcher = Watcher::new(move |step| {
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
    let settings = Settings::new(value("KILL_ADDRESS").into(), value("KILL_FOLDER").into(), node);
    let settings = Settings { watcher, ..settings };
    let arm = || armed.store(true, std::sync::atomic::Ordering::SeqCst);
    let runtime = ContainerdRuntime::open(settings).await.unwrap();
    let id = InstanceId::parse(&value("KILL_ID")).unwrap();
    let order = StartRequest { id: id.clone(), ..order(&php(KEEPER)) };
    match doing {
        Doing::Start => {
            arm();
            runtime.start(&order).await.unwrap();
        }
        Doing::Bake => {
            let started = runtime.start(&order).await.unwrap();
            tell(&runtime, started.endpoint, "add").await;
            arm();
            runtime.bake(&id, REVISION, &order.app).await.unwrap();
        }
        Doing::Stop => {
            runtime.start(&order).await.unwrap();
            arm();
            runtime.stop(&id).await.unwrap();
        }
        Doing::TakeOver => {}
    }
    // Killed later than all this took, if at all.
    std::future::pending().await
}

fn die() {
    kill_process(getpid(), Signal::KILL).unwrap();
}

impl Place {
    /// Has a server of this node killed at a moment, while it does something to this instance.
    fn kill(&self, test: &str, moment: Moment, id: &InstanceId) {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &format!("containerd::crash::{test}"), "--nocapture"])
            .env("KILL_DOING", format!("{:?}", moment.doing))
            .env("KILL_AFTER", format!("{:?}", moment.after))
            .env("KILL_MILLIS", moment.millis.to_string())
            .env("KILL_ADDRESS", &self.settings.address)
            .env("KILL_FOLDER", &self.settings.folder)
            .env("KILL_NODE", self.settings.node.as_str())
            .env("KILL_ID", id.as_str())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + crate::suites::runtime::PATIENCE;
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if Instant::now() > deadline {
                let _ = child.kill();
                let _ = child.wait();
                panic!("{moment:?} never came");
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        let signal = std::os::unix::process::ExitStatusExt::signal(&status);
        assert_eq!(signal, Some(9), "{moment:?}: it was killed and did not fail");
    }

    /// The next server of this node, which has to be quick.
    async fn next(&self, case: &str) -> ContainerdRuntime {
        let begun = Instant::now();
        let runtime = self.open().await;
        let took = begun.elapsed();
        assert!(took < TAKE_OVER, "{case}: what was left was in the way for {took:?}");
        runtime
    }

    /// Has a server killed at each of these moments. What the next one picks up is stopped; then nothing is left.
    async fn survives(&self, test: &str, moments: &[Moment]) {
        let app = php(KEEPER);
        // containerd knows the image, and its own files are there.
        drop(self.open().await);
        let before = self.traces(&[]);
        for moment in moments {
            let (case, id) = (format!("{moment:?}"), new_id());
            self.kill(test, *moment, &id);
            let runtime = self.next(&case).await;
            let picked_up = runtime.list().await.unwrap();
            assert!(picked_up.is_empty() || picked_up == [id.clone()], "{case}: {picked_up:?}");
            let runs =
                matches!((moment.doing, moment.after, moment.millis), (Doing::Start, FaultPoint::Start, 0));
            assert!(!runs || picked_up == [id.clone()], "{case}: it runs, so it is picked up");
            within(runtime.stop(&id)).await.unwrap();
            // A shim that ends takes a moment.
            let ids = [id.as_str().to_owned()];
            let last = parking_lot::Mutex::new(std::collections::BTreeSet::new());
            let clean = async || {
                *last.lock() = self.traces(&ids);
                (*last.lock() == before).then_some(())
            };
            let settled = tokio::time::timeout(Duration::from_secs(5), until("nothing is left", clean)).await;
            let left: Vec<_> = last.lock().difference(&before).cloned().collect();
            assert!(settled.is_ok(), "{case}: {left:#?}");
            drop(runtime);
        }
        let runtime = self.open().await;
        let (id, _) = start(&runtime, &app).await;
        within(runtime.stop(&id)).await.unwrap();
    }
}

fn new_id() -> InstanceId {
    InstanceId::random(&TemplateName::new("sample").unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_killed_at_any_step_of_a_cold_start_leaves_nothing_to_the_next() {
    const NAME: &str = "a_server_killed_at_any_step_of_a_cold_start_leaves_nothing_to_the_next";
    if play_the_server().await {
        return;
    }
    let Some(place) = Place::new() else { return };
    let steps = MAKING.map(|step| at(Doing::Start, step));
    let between =
        [2, 8, 15, 25, 35, 45, 55, 65].map(|millis| later(Doing::Start, FaultPoint::Record, millis));
    let starting = [1, 3, 8].map(|millis| later(Doing::Start, FaultPoint::Task, millis));
    place.survives(NAME, &[&steps[..], &between, &starting].concat()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_killed_at_any_step_of_a_restore_leaves_nothing_to_the_next() {
    const NAME: &str = "a_server_killed_at_any_step_of_a_restore_leaves_nothing_to_the_next";
    if play_the_server().await {
        return;
    }
    let Some(place) = Place::new() else { return };
    let app: App = bake(&place.open().await).await;
    let steps = MAKING.map(|step| at(Doing::Start, step));
    let between = [5, 12, 19, 26, 33].map(|millis| later(Doing::Start, FaultPoint::Record, millis));
    let restoring = [1, 3, 5, 10, 25, 50].map(|millis| later(Doing::Start, FaultPoint::Task, millis));
    place.survives(NAME, &[&steps[..], &between, &restoring].concat()).await;
    let runtime = place.open().await;
    let (_, started) = start(&runtime, &app).await;
    assert_eq!(started.how, StartMethod::Restored, "the checkpoint was not harmed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_killed_at_any_step_of_a_stop_leaves_nothing_to_the_next() {
    const NAME: &str = "a_server_killed_at_any_step_of_a_stop_leaves_nothing_to_the_next";
    if play_the_server().await {
        return;
    }
    let Some(place) = Place::new() else { return };
    place.survives(NAME, &ENDING.map(|step| at(Doing::Stop, step))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_killed_at_any_step_of_a_bake_leaves_a_whole_checkpoint_or_none() {
    const NAME: &str = "a_server_killed_at_any_step_of_a_bake_leaves_a_whole_checkpoint_or_none";
    if play_the_server().await {
        return;
    }
    let Some(place) = Place::new() else { return };
    let unfinished = BAKING.into_iter().filter(|step| *step != FaultPoint::Manifest);
    let mut moments: Vec<_> = unfinished.map(|step| at(Doing::Bake, step)).collect();
    // While its memory is being moved to where copies share it.
    moments.extend([at(Doing::Bake, FaultPoint::Memory), later(Doing::Bake, FaultPoint::Memory, 1)]);
    moments.extend([1, 3].map(|millis| later(Doing::Bake, FaultPoint::NoTask, millis)));
    moments.extend([3, 10, 20, 40, 80].map(|millis| later(Doing::Bake, FaultPoint::BakeFolder, millis)));
    place.survives(NAME, &moments).await;

    let app = php(KEEPER);
    for step in [FaultPoint::Manifest, FaultPoint::NoRecord, FaultPoint::NoFolder] {
        let (case, id) = (format!("{step:?}"), new_id());
        place.kill(NAME, at(Doing::Bake, step), &id);
        let runtime = place.next(&case).await;
        assert_eq!(runtime.list().await.unwrap(), [], "{case}");
        within(runtime.fetch(&app)).await.unwrap();
        assert_eq!(runtime.checkpoint_status(REVISION, &app).await, CheckpointStatus::Present, "{case}");
        assert_eq!(place.all_of(id.as_str()), [""; 0], "{case}");
        let (copy, started) = start(&runtime, &app).await;
        assert_eq!(started.how, StartMethod::Restored, "{case}");
        assert_eq!(tell(&runtime, started.endpoint, "look").await, "1", "{case}");
        within(runtime.stop(&copy)).await.unwrap();
        drop(runtime);
        std::fs::remove_dir_all(place.checkpoints()).unwrap();
        drop(place.open().await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_killed_while_it_takes_over_leaves_it_to_the_next() {
    const NAME: &str = "a_server_killed_while_it_takes_over_leaves_it_to_the_next";
    if play_the_server().await {
        return;
    }
    let Some(place) = Place::new() else { return };
    let runtime = place.open().await;
    let app = php(KEEPER);
    // Nobody watches it, for whoever takes over ends that.
    let order = StartRequest { to_be_frozen: false, ..order(&app) };
    let (living, started) = (order.id.clone(), within(runtime.start(&order)).await.unwrap());
    assert_eq!(tell(&runtime, started.endpoint, "add").await, "1");
    drop(runtime);
    let before = place.traces(&[living.as_str().to_owned()]);
    for step in [FaultPoint::Adoption, FaultPoint::NoTask, FaultPoint::NoRecord, FaultPoint::NoSnapshot] {
        let (case, dead) = (format!("{step:?}"), new_id());
        place.kill(NAME, at(Doing::Start, FaultPoint::Record), &dead);
        place.kill(NAME, at(Doing::TakeOver, step), &dead);
        let runtime = place.next(&case).await;
        assert_eq!(runtime.list().await.unwrap(), std::slice::from_ref(&living), "{case}");
        assert_eq!(tell(&runtime, started.endpoint, "look").await, "1", "{case}");
        let ids = [living.as_str().to_owned(), dead.as_str().to_owned()];
        assert_eq!(place.traces(&ids), before, "{case}");
        drop(runtime);
    }
}
