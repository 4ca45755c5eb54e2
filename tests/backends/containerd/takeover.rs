//! A server takes over the instances of a server that ended without cleanup.

use try_it_now::runtime::Runtime;

use super::{COUNTER_APP, TestNode, fs, php, send_command, shell, start, with_timeout};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_instance_is_adopted_and_its_stop_leaves_nothing() {
    let Some(test_node) = TestNode::new() else { return };
    let runtime = test_node.open().await;
    let (id, started) = start(&runtime, &php(COUNTER_APP)).await;
    assert_eq!(send_command(&runtime, started.endpoint, "add").await, "1");
    assert!(
        test_node.resources_of(id.as_str()).len() >= 4,
        "a container, its task, its snapshot and its folder"
    );
    drop(runtime);

    let runtime = test_node.open().await;
    assert_eq!(runtime.list().await.unwrap(), std::slice::from_ref(&id));
    assert_eq!(send_command(&runtime, started.endpoint, "look").await, "1");
    // The numbers of networks continue where the server before stopped.
    let (other, newcomer) = start(&runtime, &php(COUNTER_APP)).await;
    assert_ne!(newcomer.endpoint, started.endpoint);
    with_timeout(runtime.stop(&id)).await.unwrap();
    assert_eq!(test_node.resources_of(id.as_str()), [""; 0]);
    assert!(runtime.connect(started.endpoint).await.is_err());
    assert_eq!(runtime.list().await.unwrap(), [other]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_without_an_owner_is_removed() {
    let Some(test_node) = TestNode::new() else { return };
    let runtime = test_node.open().await;
    let (id, _) = start(&runtime, &shell("exec sleep 600")).await;
    drop(runtime);
    let crashed = test_node.open().await;
    assert_eq!(crashed.list().await.unwrap(), std::slice::from_ref(&id));
    let unowned = test_node.settings.node_dir.join("instances/sample-unknown");
    fs::create_dir(&unowned).unwrap();
    drop(crashed);
    let last = test_node.open().await;
    assert!(!unowned.exists());
    with_timeout(last.stop(&id)).await.unwrap();
    assert_eq!(test_node.resources_of(id.as_str()), [""; 0]);
}
