//! Sealed instances reach neither each other nor their host.

use std::net::TcpListener;

use super::{COUNTER_APP, TestNode, php, send_command, start};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_reaches_only_itself() {
    let Some(test_node) = TestNode::new() else { return };
    let runtime = test_node.open().await;
    let host = TcpListener::bind("0.0.0.0:0").unwrap();
    let (counter, mut elsewhere) = (php(COUNTER_APP), php(COUNTER_APP));
    elsewhere.port = 8081;
    let (_, a) = start(&runtime, &counter).await;
    let (_, b) = start(&runtime, &elsewhere).await;
    assert_eq!(send_command(&runtime, b.endpoint, "add").await, "1");
    // The backlog accepts the connection while the only process answers.
    assert_eq!(send_command(&runtime, a.endpoint, "reach 127.0.0.1:8080").await, "reached");
    let at_host = format!("reach 127.0.0.1:{}", host.local_addr().unwrap().port());
    // An address reserved for documentation stands for the whole internet.
    for there in ["reach 127.0.0.1:8081", &at_host, "reach 192.0.2.1:80"] {
        let answer = send_command(&runtime, a.endpoint, there).await;
        assert!(answer.starts_with("unreachable"), "{there}: {answer}");
    }
    host.set_nonblocking(true).unwrap();
    assert!(host.accept().is_err());
}
