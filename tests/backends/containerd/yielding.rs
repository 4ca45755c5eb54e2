//! Instances that yield: they get only the processor time that the others of the node leave.

use std::path::PathBuf;

use try_it_now::instance::InstanceId;
use try_it_now::runtime::{Runtime, StartMethod, StartRequest};
use try_it_now::template::{App, ResourceLimits};

use super::{COUNTER_APP, TestNode, app, bake, fs, php, start, start_request, wait_until, with_timeout};

/// Keeps four processes busy.
const BURN: &str = "for i in 1 2 3; do (while :; do :; done) & done; while :; do :; done";

impl TestNode {
    /// Returns a file of the controller `cpu` or `cpuacct` in an instance's group.
    fn processor_file(&self, id: &InstanceId, controller: &str, file: &str) -> PathBuf {
        self.group(controller).join(id.as_str()).join(file)
    }

    /// Returns whether the kernel gives an instance only what others leave.
    fn is_idle(&self, id: &InstanceId) -> bool {
        fs::read_to_string(self.processor_file(id, "cpu", "cpu.idle")).unwrap().trim() == "1"
    }

    /// Returns how much processor time an instance has had, in microseconds.
    fn processor_micros(&self, id: &InstanceId) -> u64 {
        if super::restore::restores_without_runc() {
            let nanos = fs::read_to_string(self.processor_file(id, "cpuacct", "cpuacct.usage")).unwrap();
            return nanos.trim().parse::<u64>().unwrap() / 1000;
        }
        let stat = fs::read_to_string(self.processor_file(id, "cpu", "cpu.stat")).unwrap();
        stat.lines().find_map(|line| line.strip_prefix("usage_usec ")).unwrap().parse().unwrap()
    }
}

/// Starts an instance that yields.
async fn start_yielding(runtime: &dyn Runtime, app: &App) -> (InstanceId, StartMethod) {
    let request = StartRequest { yields: true, will_be_baked: false, ..start_request(app) };
    let started = with_timeout(runtime.start(&request)).await.unwrap();
    (request.id, started.method)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_yields_until_that_is_ended_however_it_was_started() {
    let Some(test_node) = TestNode::new() else { return };
    let runtime = test_node.open().await;
    let cold = start_yielding(&runtime, &php(COUNTER_APP)).await;
    let app = bake(&runtime).await;
    // runc restores the first one.
    let restored = [start_yielding(&runtime, &app).await, start_yielding(&runtime, &app).await];
    assert_eq!(
        [cold.1, restored[0].1, restored[1].1],
        [StartMethod::Cold, StartMethod::Restored, StartMethod::Restored]
    );
    for (id, _) in [cold].iter().chain(&restored) {
        assert!(test_node.is_idle(id), "{id}");
        assert!(runtime.end_yielding(id).await);
        assert!(!test_node.is_idle(id), "{id}");
    }
    let (id, _) = start(&runtime, &app).await;
    assert!(!test_node.is_idle(&id));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_yielding_of_an_instance_can_be_ended_at_any_moment_of_its_start() {
    let Some(test_node) = TestNode::new() else { return };
    let runtime = test_node.open().await;
    let counter = bake(&runtime).await;
    for millis in 0..12 {
        let request = StartRequest { yields: true, will_be_baked: false, ..start_request(&counter) };
        let end = async {
            while !runtime.end_yielding(&request.id).await {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
            // The group is made meanwhile: whatever comes last, the instance must not yield at last.
            tokio::time::sleep(std::time::Duration::from_millis(millis * 4)).await;
            assert!(runtime.end_yielding(&request.id).await);
        };
        let (started, ()) = tokio::join!(with_timeout(runtime.start(&request)), end);
        started.unwrap();
        assert!(!test_node.is_idle(&request.id), "{millis}");
        with_timeout(runtime.stop(&request.id)).await.unwrap();
    }
    assert!(!runtime.end_yielding(&start_request(&counter).id).await, "an unknown instance");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_instance_gets_the_processors_before_one_that_yields() {
    let Some(test_node) = TestNode::new() else { return };
    let runtime = test_node.open().await;
    let limits = ResourceLimits { millicpus: Some(8000), ..ResourceLimits::default() };
    let burner = App { limits, ..app(&["sh", "-c", BURN]) };
    let (busy, _) = start(&runtime, &burner).await;
    let (yielding, _) = start_yielding(&runtime, &burner).await;
    let (from_busy, from_yielding) =
        (test_node.processor_micros(&busy), test_node.processor_micros(&yielding));
    wait_until("the busy one has had a second of processor time", async || {
        (test_node.processor_micros(&busy) - from_busy > 1_000_000).then_some(())
    })
    .await;
    let given = test_node.processor_micros(&yielding) - from_yielding;
    assert!(given < 200_000, "the one that yields has had {given} \u{b5}s");
    assert!(runtime.end_yielding(&yielding).await);
    let (from_busy, from_yielding) =
        (test_node.processor_micros(&busy), test_node.processor_micros(&yielding));
    wait_until("the other one has had half a second", async || {
        (test_node.processor_micros(&yielding) - from_yielding > 500_000).then_some(())
    })
    .await;
    assert!(test_node.processor_micros(&busy) - from_busy < 1_500_000, "both have the same share");
}
