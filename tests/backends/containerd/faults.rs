//! A step that fails, once or again and again: nothing is left of it, and the next attempt works.

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use try_it_now::runtime::containerd::{ContainerdRuntime, FaultPoint, Watcher};
use try_it_now::runtime::{CheckpointStatus, Runtime, StartMethod};
use try_it_now::template::App;

use super::{KEEPER, Place, REVISION, bake, order, php, shell, start, tell, until, within};
use crate::support::leak_check::networks;

/// From nothing to an instance that runs.
pub(super) const MAKING: [FaultPoint; 8] = [
    FaultPoint::Network,
    FaultPoint::Snapshot,
    FaultPoint::Folder,
    FaultPoint::FirstFiles,
    FaultPoint::Disk,
    FaultPoint::Record,
    FaultPoint::Task,
    FaultPoint::Start,
];

/// From one that runs to a checkpoint.
pub(super) const BAKING: [FaultPoint; 6] = [
    FaultPoint::BakeFolder,
    FaultPoint::Freeze,
    FaultPoint::NoTask,
    FaultPoint::Share,
    FaultPoint::Commit,
    FaultPoint::Manifest,
];

/// From one that runs to nothing.
pub(super) const ENDING: [FaultPoint; 4] =
    [FaultPoint::NoTask, FaultPoint::NoRecord, FaultPoint::NoSnapshot, FaultPoint::NoFolder];

/// Network namespaces that are held with nothing running: the server's own, by two who enter others, and those made
/// ahead.
const NETWORKS: usize = 2 + 8;

/// Has steps fail on demand.
#[derive(Clone, Default)]
struct Faults(Arc<Mutex<Vec<FaultPoint>>>);

impl Faults {
    /// The next time that this step is done, it fails; as often as it is said.
    fn arrange(&self, step: FaultPoint, times: usize) {
        self.0.lock().extend(std::iter::repeat_n(step, times));
    }

    fn watcher(&self) -> Watcher {
        let faults = self.0.clone();
        Watcher::new(move |step| {
            let mut faults = faults.lock();
            match faults.iter().position(|fault| *fault == step) {
                Some(place) => {
                    faults.swap_remove(place);
                    Err(io::Error::other("as the test wants it"))
                }
                None => Ok(()),
            }
        })
    }

    /// Whether all of them happened.
    fn are_spent(&self) -> bool {
        self.0.lock().is_empty()
    }
}

/// A node with a runtime whose steps fail on demand.
struct Stage {
    place: Place,
    faults: Faults,
    runtime: ContainerdRuntime,
    /// All instances that were tried to be made.
    ids: Mutex<Vec<String>>,
}

impl Stage {
    async fn new() -> Option<Self> {
        let place = Place::new()?;
        let faults = Faults::default();
        let runtime = place.open_watched(faults.watcher()).await;
        Some(Self { place, faults, runtime, ids: Mutex::default() })
    }

    /// One attempt; `None` when it failed.
    async fn attempt(&self, app: &App) -> Option<(try_it_now::instance::InstanceId, StartMethod)> {
        let order = order(app);
        self.ids.lock().push(order.id.as_str().to_owned());
        within(self.runtime.start(&order)).await.ok().map(|started| (order.id, started.how))
    }

    /// One that answers: CRIU cannot freeze what is only about to become the app.
    async fn answering(&self, app: &App) -> try_it_now::instance::InstanceId {
        let (id, started) = start(&self.runtime, app).await;
        self.ids.lock().push(id.as_str().to_owned());
        tell(&self.runtime, started.endpoint, "look").await;
        id
    }

    /// One attempt that works, and its end.
    async fn works(&self, app: &App, how: StartMethod, case: &str) {
        let (id, made) = self.attempt(app).await.unwrap_or_else(|| panic!("{case}: the next one works"));
        assert_eq!(made, how, "{case}");
        within(self.runtime.stop(&id)).await.unwrap();
    }

    /// Takes the present state as the one with nothing running.
    async fn begin(&self) -> std::collections::BTreeSet<String> {
        let at_rest = async || (networks(std::process::id()) == NETWORKS).then_some(());
        until("spare networks are made", at_rest).await;
        self.place.traces(&[])
    }

    async fn nothing_left(&self, before: &std::collections::BTreeSet<String>, case: &str) {
        assert!(self.faults.are_spent(), "{case}: it failed where it should");
        assert_eq!(within(self.runtime.list()).await.unwrap(), [], "{case}");
        let ids = self.ids.lock().clone();
        assert_eq!(self.place.traces(&ids), *before, "{case}");
        let at_rest = async || (networks(std::process::id()) == NETWORKS).then_some(());
        until("its network is let go, and spare ones are made", at_rest).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cold_start_that_fails_at_any_step_leaves_nothing_and_the_next_works() {
    let Some(stage) = Stage::new().await else { return };
    let app = php(KEEPER);
    stage.works(&app, StartMethod::Cold, "before").await;
    let before = stage.begin().await;
    for step in MAKING {
        let case = format!("{step:?}");
        for _ in 0..3 {
            stage.faults.arrange(step, 1);
            assert!(stage.attempt(&app).await.is_none(), "{case}");
            stage.nothing_left(&before, &case).await;
        }
        stage.works(&app, StartMethod::Cold, &case).await;
        stage.nothing_left(&before, &case).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_that_fails_at_any_step_is_a_cold_start_and_leaves_nothing() {
    let Some(stage) = Stage::new().await else { return };
    let app = bake(&stage.runtime).await;
    stage.works(&app, StartMethod::Restored, "before").await;
    let before = stage.begin().await;
    for step in MAKING {
        let case = format!("{step:?}");
        stage.faults.arrange(step, 1);
        stage.works(&app, StartMethod::Cold, &case).await;
        stage.nothing_left(&before, &case).await;
        // The restore and the cold start after it.
        stage.faults.arrange(step, 2);
        assert!(stage.attempt(&app).await.is_none(), "{case}");
        stage.nothing_left(&before, &case).await;
        stage.works(&app, StartMethod::Restored, &case).await;
        stage.nothing_left(&before, &case).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bake_that_fails_at_any_step_leaves_nothing_and_the_next_works() {
    let Some(stage) = Stage::new().await else { return };
    let app = php(KEEPER);
    stage.works(&app, StartMethod::Cold, "before").await;
    let before = stage.begin().await;
    for step in BAKING {
        let case = format!("{step:?}");
        for _ in 0..2 {
            let id = stage.answering(&app).await;
            stage.faults.arrange(step, 1);
            let error = within(stage.runtime.bake(&id, REVISION, &app)).await.unwrap_err();
            assert!(error.to_string().contains(&case), "{case}: {error}");
            assert_eq!(
                stage.runtime.checkpoint_status(REVISION, &app).await,
                CheckpointStatus::Missing,
                "{case}"
            );
            within(stage.runtime.stop(&id)).await.unwrap();
            stage.nothing_left(&before, &case).await;
        }
    }
    // What was frozen resists: the checkpoint is whole all the same, and the rest goes with a stop.
    for step in ENDING {
        let case = format!("{step:?} afterwards");
        let (id, started) = start(&stage.runtime, &app).await;
        stage.ids.lock().push(id.as_str().to_owned());
        tell(&stage.runtime, started.endpoint, "add").await;
        // A bake ends a task too, before it commits.
        stage.faults.arrange(step, 1);
        let baked = within(stage.runtime.bake(&id, REVISION, &app)).await;
        assert_eq!(baked.is_ok(), step != FaultPoint::NoTask, "{case}: {baked:?}");
        within(stage.runtime.stop(&id)).await.unwrap();
        assert_eq!(stage.runtime.list().await.unwrap(), [], "{case}");
        if step != FaultPoint::NoTask {
            stage.works(&app, StartMethod::Restored, &case).await;
            assert_eq!(
                stage.runtime.checkpoint_status(REVISION, &app).await,
                CheckpointStatus::Present,
                "{case}"
            );
            // To be started cold again.
            stage.faults.arrange(FaultPoint::Start, 6);
            for _ in 0..3 {
                assert!(stage.attempt(&app).await.is_none());
            }
            assert_eq!(
                stage.runtime.checkpoint_status(REVISION, &app).await,
                CheckpointStatus::Missing,
                "{case}: given up"
            );
        }
        stage.nothing_left(&before, &case).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bake_whose_memory_cannot_be_moved_shares_nothing_and_works() {
    let Some(stage) = Stage::new().await else { return };
    let app = php(KEEPER);
    let id = stage.answering(&app).await;
    stage.faults.arrange(FaultPoint::Memory, 1);
    within(stage.runtime.bake(&id, REVISION, &app)).await.unwrap();
    assert!(stage.faults.are_spent());
    let about = stage.runtime.describe_checkpoint(REVISION, &app).await.unwrap();
    assert!(about.starts_with("each copy has memory of its own: its memory could not be written"), "{about}");
    assert_eq!(crate::support::leak_check::files(&stage.place.settings.folder.join("memory")), [""; 0]);
    let files = crate::support::leak_check::files(&stage.place.checkpoints());
    assert!(!files.iter().any(|file| file.ends_with(".draft")), "{files:?}");
    stage.works(&app, StartMethod::Restored, "afterwards").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_that_fails_at_any_step_is_done_by_the_next() {
    let Some(stage) = Stage::new().await else { return };
    let app = php(KEEPER);
    stage.works(&app, StartMethod::Cold, "before").await;
    let before = stage.begin().await;
    for step in ENDING {
        let case = format!("{step:?}");
        let (id, _) = stage.attempt(&app).await.unwrap();
        for _ in 0..2 {
            stage.faults.arrange(step, 1);
            within(stage.runtime.stop(&id)).await.unwrap_err();
            assert_eq!(stage.runtime.list().await.unwrap(), std::slice::from_ref(&id), "{case}");
        }
        within(stage.runtime.stop(&id)).await.unwrap();
        stage.nothing_left(&before, &case).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_that_cannot_be_cleared_up_at_once_is_told_and_cleared_up_by_a_stop() {
    let Some(stage) = Stage::new().await else { return };
    let mut exits = stage.runtime.exits();
    stage.works(&php(KEEPER), StartMethod::Cold, "before").await;
    let before = stage.begin().await;
    for step in ENDING {
        let case = format!("{step:?}");
        stage.faults.arrange(step, 1);
        let (id, _) = stage.attempt(&shell("exit 3")).await.unwrap();
        assert_eq!(within(exits.recv()).await.unwrap().id, id, "{case}");
        until("the step has failed", async || stage.faults.are_spent().then_some(())).await;
        within(stage.runtime.stop(&id)).await.unwrap();
        stage.nothing_left(&before, &case).await;
    }
    assert!(exits.try_recv().is_err(), "each end is told once");
}
