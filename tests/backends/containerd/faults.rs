//! Each step fails, once or repeatedly: no container, file or network of it remains, and the next attempt works.

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use try_it_now::runtime::containerd::{ContainerdRuntime, FaultInjector, FaultPoint};
use try_it_now::runtime::{CheckpointStatus, Runtime, StartMethod};
use try_it_now::template::App;

use super::{
    COUNTER_APP, REVISION, TestNode, bake, php, send_command, shell, start, start_request, wait_until,
    with_timeout,
};
use crate::support::leak_check::open_network_namespaces;
use crate::support::user_namespaces;

/// The steps of a start.
pub(super) const START_STEPS: [FaultPoint; 8] = [
    FaultPoint::Network,
    FaultPoint::Snapshot,
    FaultPoint::Folder,
    FaultPoint::FirstFiles,
    FaultPoint::Disk,
    FaultPoint::Record,
    FaultPoint::Task,
    FaultPoint::Start,
];

/// The steps of a bake.
pub(super) const BAKE_STEPS: [FaultPoint; 8] = [
    FaultPoint::BakeFolder,
    FaultPoint::Freeze,
    FaultPoint::NoTask,
    FaultPoint::Connections,
    FaultPoint::RandomNumbers,
    FaultPoint::Share,
    FaultPoint::Commit,
    FaultPoint::Manifest,
];

/// The steps of a stop.
pub(super) const STOP_STEPS: [FaultPoint; 4] =
    [FaultPoint::NoTask, FaultPoint::NoRecord, FaultPoint::NoSnapshot, FaultPoint::NoFolder];

/// Returns the network namespaces that an idle server holds open: its own, held by two threads that enter others, and the
/// spare ones. Instances with user namespaces have no spare ones, because each network belongs to a user namespace.
fn idle_networks() -> usize {
    if user_namespaces::are_in_use() { 2 } else { 2 + 8 }
}

/// Makes steps fail on demand.
#[derive(Clone, Default)]
struct Faults(Arc<Mutex<Vec<FaultPoint>>>);

impl Faults {
    /// Makes the next `times` executions of this step fail.
    fn inject(&self, step: FaultPoint, times: usize) {
        self.0.lock().extend(std::iter::repeat_n(step, times));
    }

    fn watcher(&self) -> FaultInjector {
        let faults = self.0.clone();
        FaultInjector::new(move |step| {
            let mut faults = faults.lock();
            match faults.iter().position(|fault| *fault == step) {
                Some(test_node) => {
                    faults.swap_remove(test_node);
                    Err(io::Error::other("injected fault"))
                }
                None => Ok(()),
            }
        })
    }

    /// Returns whether all injected faults have happened.
    fn are_used_up(&self) -> bool {
        self.0.lock().is_empty()
    }
}

/// A node with a runtime whose steps fail on demand.
struct FaultyNode {
    test_node: TestNode,
    faults: Faults,
    runtime: ContainerdRuntime,
    /// The ids of all instances that the test tried to start.
    ids: Mutex<Vec<String>>,
}

impl FaultyNode {
    async fn new() -> Option<Self> {
        let test_node = TestNode::new()?;
        let faults = Faults::default();
        let runtime = test_node.open_watched(faults.watcher()).await;
        Some(Self { test_node, faults, runtime, ids: Mutex::default() })
    }

    /// Tries to start an instance. Returns `None` if that failed.
    async fn try_start(&self, app: &App) -> Option<(try_it_now::instance::InstanceId, StartMethod)> {
        let request = start_request(app);
        self.ids.lock().push(request.id.as_str().to_owned());
        with_timeout(self.runtime.start(&request)).await.ok().map(|started| (request.id, started.method))
    }

    /// Starts an instance and waits until it answers: CRIU cannot freeze a process that has not executed the app yet.
    async fn start_answering(&self, app: &App) -> try_it_now::instance::InstanceId {
        let (id, started) = start(&self.runtime, app).await;
        self.ids.lock().push(id.as_str().to_owned());
        send_command(&self.runtime, started.endpoint, "look").await;
        id
    }

    /// Asserts that an instance starts in this way, and stops it.
    async fn assert_works(&self, app: &App, how: StartMethod, case: &str) {
        let (id, made) =
            self.try_start(app).await.unwrap_or_else(|| panic!("{case}: the next attempt works"));
        assert_eq!(made, how, "{case}");
        with_timeout(self.runtime.stop(&id)).await.unwrap();
    }

    /// Waits until the node is idle and returns its resources.
    async fn baseline(&self) -> std::collections::BTreeSet<String> {
        let idle = async || (open_network_namespaces(std::process::id()) == idle_networks()).then_some(());
        wait_until("spare networks exist", idle).await;
        self.test_node.node_resources(&[])
    }

    async fn assert_nothing_left(&self, before: &std::collections::BTreeSet<String>, case: &str) {
        assert!(self.faults.are_used_up(), "{case}: the fault did not happen");
        assert_eq!(with_timeout(self.runtime.list()).await.unwrap(), [], "{case}");
        let ids = self.ids.lock().clone();
        assert_eq!(self.test_node.node_resources(&ids), *before, "{case}");
        let idle = async || (open_network_namespaces(std::process::id()) == idle_networks()).then_some(());
        wait_until("its network is released and spare ones exist", idle).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cold_start_that_fails_at_any_step_leaves_nothing_and_the_next_works() {
    let Some(faulty) = FaultyNode::new().await else { return };
    let app = php(COUNTER_APP);
    faulty.assert_works(&app, StartMethod::Cold, "before").await;
    let before = faulty.baseline().await;
    for step in START_STEPS {
        let case = format!("{step:?}");
        for _ in 0..3 {
            faulty.faults.inject(step, 1);
            assert!(faulty.try_start(&app).await.is_none(), "{case}");
            faulty.assert_nothing_left(&before, &case).await;
        }
        faulty.assert_works(&app, StartMethod::Cold, &case).await;
        faulty.assert_nothing_left(&before, &case).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_that_fails_at_any_step_falls_back_to_a_cold_start_and_leaves_nothing() {
    let Some(faulty) = FaultyNode::new().await else { return };
    let app = bake(&faulty.runtime).await;
    faulty.assert_works(&app, StartMethod::Restored, "before").await;
    let before = faulty.baseline().await;
    for step in START_STEPS {
        let case = format!("{step:?}");
        faulty.faults.inject(step, 1);
        faulty.assert_works(&app, StartMethod::Cold, &case).await;
        faulty.assert_nothing_left(&before, &case).await;
        // Both the restore and the cold start after it fail.
        faulty.faults.inject(step, 2);
        assert!(faulty.try_start(&app).await.is_none(), "{case}");
        faulty.assert_nothing_left(&before, &case).await;
        faulty.assert_works(&app, StartMethod::Restored, &case).await;
        faulty.assert_nothing_left(&before, &case).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bake_that_fails_at_any_step_leaves_nothing_and_the_next_works() {
    let Some(faulty) = FaultyNode::new().await else { return };
    let app = php(COUNTER_APP);
    faulty.assert_works(&app, StartMethod::Cold, "before").await;
    let before = faulty.baseline().await;
    for step in BAKE_STEPS {
        let case = format!("{step:?}");
        for _ in 0..2 {
            let id = faulty.start_answering(&app).await;
            faulty.faults.inject(step, 1);
            let error = with_timeout(faulty.runtime.bake(&id, REVISION, &app)).await.unwrap_err();
            assert!(error.to_string().contains(&case), "{case}: {error}");
            assert_eq!(
                faulty.runtime.checkpoint_status(REVISION, &app).await,
                CheckpointStatus::Missing,
                "{case}"
            );
            with_timeout(faulty.runtime.stop(&id)).await.unwrap();
            faulty.assert_nothing_left(&before, &case).await;
        }
    }
    // The cleanup of the frozen instance fails: the checkpoint is complete all the same, and a stop removes the rest.
    for step in STOP_STEPS {
        let case = format!("{step:?} after the bake");
        let (id, started) = start(&faulty.runtime, &app).await;
        faulty.ids.lock().push(id.as_str().to_owned());
        send_command(&faulty.runtime, started.endpoint, "add").await;
        // A bake also ends the task before it commits.
        faulty.faults.inject(step, 1);
        let baked = with_timeout(faulty.runtime.bake(&id, REVISION, &app)).await;
        assert_eq!(baked.is_ok(), step != FaultPoint::NoTask, "{case}: {baked:?}");
        with_timeout(faulty.runtime.stop(&id)).await.unwrap();
        assert_eq!(faulty.runtime.list().await.unwrap(), [], "{case}");
        if step != FaultPoint::NoTask {
            faulty.assert_works(&app, StartMethod::Restored, &case).await;
            assert_eq!(
                faulty.runtime.checkpoint_status(REVISION, &app).await,
                CheckpointStatus::Present,
                "{case}"
            );
            // Makes the next round start cold again.
            faulty.faults.inject(FaultPoint::Start, 6);
            for _ in 0..3 {
                assert!(faulty.try_start(&app).await.is_none());
            }
            assert_eq!(
                faulty.runtime.checkpoint_status(REVISION, &app).await,
                CheckpointStatus::Missing,
                "{case}: discarded"
            );
        }
        faulty.assert_nothing_left(&before, &case).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bake_whose_memory_cannot_be_moved_shares_nothing_and_works() {
    let Some(faulty) = FaultyNode::new().await else { return };
    let app = php(COUNTER_APP);
    let id = faulty.start_answering(&app).await;
    faulty.faults.inject(FaultPoint::Memory, 1);
    with_timeout(faulty.runtime.bake(&id, REVISION, &app)).await.unwrap();
    assert!(faulty.faults.are_used_up());
    let about = faulty.runtime.describe_checkpoint(REVISION, &app).await.unwrap();
    assert!(about.starts_with("each instance has its own memory: cannot write its memory"), "{about}");
    assert_eq!(
        crate::support::leak_check::files_below(&faulty.test_node.settings.node_dir.join("memory")),
        [""; 0]
    );
    let files = crate::support::leak_check::files_below(&faulty.test_node.checkpoints());
    assert!(!files.iter().any(|file| file.ends_with(".draft")), "{files:?}");
    faulty.assert_works(&app, StartMethod::Restored, "after the bake").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_that_fails_at_any_step_is_completed_by_the_next() {
    let Some(faulty) = FaultyNode::new().await else { return };
    let app = php(COUNTER_APP);
    faulty.assert_works(&app, StartMethod::Cold, "before").await;
    let before = faulty.baseline().await;
    for step in STOP_STEPS {
        let case = format!("{step:?}");
        let (id, _) = faulty.try_start(&app).await.unwrap();
        for _ in 0..2 {
            faulty.faults.inject(step, 1);
            with_timeout(faulty.runtime.stop(&id)).await.unwrap_err();
            assert_eq!(faulty.runtime.list().await.unwrap(), std::slice::from_ref(&id), "{case}");
        }
        with_timeout(faulty.runtime.stop(&id)).await.unwrap();
        faulty.assert_nothing_left(&before, &case).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exit_whose_cleanup_fails_is_reported_and_cleaned_up_by_a_stop() {
    let Some(faulty) = FaultyNode::new().await else { return };
    let mut exits = faulty.runtime.exits();
    faulty.assert_works(&php(COUNTER_APP), StartMethod::Cold, "before").await;
    let before = faulty.baseline().await;
    for step in STOP_STEPS {
        let case = format!("{step:?}");
        faulty.faults.inject(step, 1);
        let (id, _) = faulty.try_start(&shell("exit 3")).await.unwrap();
        assert_eq!(with_timeout(exits.recv()).await.unwrap().id, id, "{case}");
        wait_until("the step has failed", async || faulty.faults.are_used_up().then_some(())).await;
        with_timeout(faulty.runtime.stop(&id)).await.unwrap();
        faulty.assert_nothing_left(&before, &case).await;
    }
    assert!(exits.try_recv().is_err(), "each exit is reported once");
}
