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

/// gRPC takes 4 MiB in one message, which the records of 250 instances have together. A few large ones have it too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_takes_over_more_records_than_one_answer_of_containerd_holds() {
    let Some(test_node) = TestNode::new() else { return };
    let runtime = test_node.open().await;
    let (id, started) = start(&runtime, &php(COUNTER_APP)).await;
    drop(runtime);
    let specification = test_node.settings.node_dir.join("specification.json");
    let text =
        format!("{{\"ociVersion\": \"1.0.2\", \"annotations\": {{\"text\": \"{}\"}}}}", "x".repeat(1 << 20));
    fs::write(&specification, text).unwrap();
    let (config, label) =
        (specification.to_str().unwrap(), format!("try-it-now/node={}", test_node.settings.node));
    let abandoned: Vec<_> = (0..9).map(|number| format!("{}-{number}", test_node.settings.node)).collect();
    for name in &abandoned {
        test_node.stack.ctr(&["containers", "create", "--label", &label, "--config", config, name]);
    }

    let runtime = test_node.open().await;
    assert_eq!(runtime.list().await.unwrap(), std::slice::from_ref(&id));
    assert_eq!(send_command(&runtime, started.endpoint, "look").await, "0");
    let left = test_node.stack.ctr(&["containers", "list", "--quiet"]);
    assert!(!left.lines().any(|name| abandoned.iter().any(|abandoned| abandoned == name)), "{left}");
    with_timeout(runtime.stop(&id)).await.unwrap();
    assert_eq!(test_node.resources_of(id.as_str()), [""; 0]);
}
