//! Checkpoints: how they are baked, found again, discarded, and restored.

use try_it_now::runtime::{CheckpointStatus, Runtime, RuntimeError, StartMethod};

use super::{
    COUNTER_APP, REVISION, TestNode, bake, fs, php, send_command, start, start_request, with_timeout,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_instance_has_the_memory_and_files_of_the_checkpoint_and_sees_no_change_of_another() {
    let Some(test_node) = TestNode::new() else { return };
    let runtime = test_node.open().await;
    let counter = php(COUNTER_APP);
    with_timeout(runtime.fetch(&counter)).await.unwrap();
    assert_eq!(runtime.checkpoint_status(REVISION, &counter).await, CheckpointStatus::Missing);
    bake(&runtime).await;
    assert_eq!(runtime.checkpoint_status(REVISION, &counter).await, CheckpointStatus::Present);
    assert_eq!(runtime.checkpoint_status(REVISION + 1, &counter).await, CheckpointStatus::Missing);
    assert!(runtime.list().await.unwrap().is_empty());

    let (a_id, a) = start(&runtime, &counter).await;
    let (_, b) = start(&runtime, &counter).await;
    assert_eq!((a.method, b.method), (StartMethod::Restored, StartMethod::Restored));
    assert_eq!(send_command(&runtime, a.endpoint, "add").await, "2 old");
    assert_eq!(send_command(&runtime, a.endpoint, "note ,a").await, "2 old,a");
    assert_eq!(send_command(&runtime, b.endpoint, "note ,b").await, "1 old,b");
    with_timeout(runtime.stop(&a_id)).await.unwrap();
    assert_eq!(send_command(&runtime, b.endpoint, "look").await, "1 old,b");
    let (_, c) = start(&runtime, &counter).await;
    assert_eq!(send_command(&runtime, c.endpoint, "look").await, "1 old");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_survives_a_restart_and_an_incomplete_one_is_discarded() {
    let Some(test_node) = TestNode::new() else { return };
    let counter = bake(&test_node.open().await).await;

    let runtime = test_node.open().await;
    with_timeout(runtime.fetch(&counter)).await.unwrap();
    assert_eq!(runtime.checkpoint_status(REVISION, &counter).await, CheckpointStatus::Present);
    let (id, started) = start(&runtime, &counter).await;
    assert_eq!(started.method, StartMethod::Restored);
    assert_eq!(send_command(&runtime, started.endpoint, "look").await, "1 old");
    with_timeout(runtime.stop(&id)).await.unwrap();
    drop(runtime);

    for entry in fs::read_dir(test_node.checkpoints()).unwrap() {
        fs::remove_file(entry.unwrap().path().join("manifest.json")).unwrap();
    }
    let runtime = test_node.open().await;
    with_timeout(runtime.fetch(&counter)).await.unwrap();
    assert_eq!(runtime.checkpoint_status(REVISION, &counter).await, CheckpointStatus::Missing);
    assert_eq!(test_node.resources_of(test_node.settings.node.as_str()), [""; 0]);
    assert_eq!(fs::read_dir(test_node.checkpoints()).unwrap().count(), 0);
    let (_, started) = start(&runtime, &counter).await;
    assert_eq!(started.method, StartMethod::Cold);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_that_cannot_be_restored_is_discarded_and_instances_start_cold() {
    let Some(test_node) = TestNode::new() else { return };
    let runtime = test_node.open().await;
    let counter = bake(&runtime).await;
    for entry in fs::read_dir(test_node.checkpoints()).unwrap() {
        fs::remove_file(entry.unwrap().path().join("images/pstree.img")).unwrap();
    }
    let mut exits = runtime.exits();
    for _ in 0..3 {
        let (_, started) = start(&runtime, &counter).await;
        assert_eq!(started.method, StartMethod::Cold);
        assert_eq!(send_command(&runtime, started.endpoint, "look").await, "0");
    }
    assert_eq!(runtime.checkpoint_status(REVISION, &counter).await, CheckpointStatus::Missing);
    assert_eq!(test_node.resources_of(test_node.settings.node.as_str()), [""; 0]);
    assert!(exits.try_recv().is_err(), "a failed restore is not reported as an exit");
    bake(&runtime).await;
    assert_eq!(start(&runtime, &counter).await.1.method, StartMethod::Restored);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bake_that_is_dropped_leaves_a_complete_checkpoint_or_none() {
    let Some(test_node) = TestNode::new() else { return };
    let runtime = test_node.open().await;
    let counter = php(COUNTER_APP);
    let (id, started) = start(&runtime, &counter).await;
    send_command(&runtime, started.endpoint, "add").await;
    let mut bake = runtime.bake(&id, REVISION, &counter);
    // The bake has begun, because it was polled once.
    assert!(futures_util::poll!(&mut bake).is_pending());
    drop(bake);
    with_timeout(runtime.stop(&id)).await.unwrap();
    assert_eq!(test_node.resources_of(id.as_str()), [""; 0]);
    let whole = runtime.checkpoint_status(REVISION, &counter).await == CheckpointStatus::Present;
    let (_, started) = start(&runtime, &counter).await;
    assert_eq!(started.method == StartMethod::Restored, whole);
    assert_eq!(send_command(&runtime, started.endpoint, "look").await, if whole { "1" } else { "0" });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_does_not_run_cannot_be_baked() {
    let Some(test_node) = TestNode::new() else { return };
    let runtime = test_node.open().await;
    let counter = php(COUNTER_APP);
    let unknown = start_request(&counter).id;
    let error = with_timeout(runtime.bake(&unknown, REVISION, &counter)).await.unwrap_err();
    assert!(matches!(error, RuntimeError::Start(_)), "{error:?}");
    assert_eq!(test_node.resources_of(test_node.settings.node.as_str()), [""; 0]);
}
