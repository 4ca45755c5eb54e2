//! Templates whose containers another runtime handler starts.

use try_it_now::runtime::{CheckpointStatus, Runtime, StartMethod};
use try_it_now::template::{App, RuntimeHandler};

use super::{COUNTER_APP, REVISION, TestNode, fs, php, send_command, start, start_request, with_timeout};

fn with_handler(name: &str) -> App {
    App { runtime: RuntimeHandler::parse(name), ..php(COUNTER_APP) }
}

/// Returns whether an instance has a shim of its own.
fn has_own_shim(id: &str) -> bool {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let mut commands = processes.filter_map(|entry| fs::read_to_string(entry.path().join("cmdline")).ok());
    commands.any(|command| command.contains("containerd-shim-runc-v2") && command.contains(id))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_of_a_template_with_a_runtime_handler_are_started_and_never_restored() {
    let Some(test_node) = TestNode::new() else { return };
    let runtime = test_node.open().await;
    let counter = with_handler("runc");
    assert_eq!(runtime.checkpoint_status(REVISION, &counter).await, CheckpointStatus::Never);
    let about = runtime.describe_checkpoint(REVISION, &counter).await.unwrap();
    assert_eq!(about, "started, not restored, because its runtime is io.containerd.runc.v2");
    // A checkpoint of the same revision and image is not used.
    let usual = php(COUNTER_APP);
    let (id, started) = start(&runtime, &usual).await;
    assert_eq!(send_command(&runtime, started.endpoint, "add").await, "1");
    with_timeout(runtime.bake(&id, REVISION, &usual)).await.unwrap();
    for _ in 0..2 {
        let (id, started) = start(&runtime, &counter).await;
        assert_eq!(started.method, StartMethod::Cold);
        assert_eq!(send_command(&runtime, started.endpoint, "add").await, "1");
        assert!(has_own_shim(id.as_str()));
        let error = with_timeout(runtime.bake(&id, REVISION, &counter)).await.unwrap_err();
        assert!(error.to_string().contains("cannot be restored"), "{error}");
        assert_eq!(send_command(&runtime, started.endpoint, "add").await, "2");
        with_timeout(runtime.stop(&id)).await.unwrap();
        assert_eq!(test_node.resources_of(id.as_str()), [""; 0]);
    }
    let (id, started) = start(&runtime, &usual).await;
    assert_eq!(started.method, StartMethod::Restored);
    assert!(!has_own_shim(id.as_str()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_runtime_handler_is_an_error_that_names_what_to_install() {
    let Some(test_node) = TestNode::new() else { return };
    let runtime = test_node.open().await;
    let request = start_request(&with_handler("io.containerd.nowhere.v1"));
    let error = with_timeout(runtime.start(&request)).await.unwrap_err().to_string();
    assert!(error.contains("io.containerd.nowhere.v1 is not installed"), "{error}");
    assert!(error.contains("install containerd-shim-nowhere-v1"), "{error}");
    assert_eq!(test_node.resources_of(request.id.as_str()), [""; 0]);
    let (_, good) = start(&runtime, &php(COUNTER_APP)).await;
    assert_eq!(send_command(&runtime, good.endpoint, "add").await, "1");
}
