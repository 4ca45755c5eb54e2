//! Where the apps of images listen.

use serde_json::json;

use super::builder::{Layer, image};
use super::{Running, TestNode, cold_and_restored, get, wait_until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_on_the_ipv6_loopback_is_reached_there_started_or_restored() {
    let Some(test_node) = TestNode::new() else { return };
    let config = json!({ "Cmd": ["httpd", "-f", "-p", "[::1]:80", "-h", "/www"] });
    let app = image(&test_node, "six", vec![Layer::base().bytes()], config);
    cold_and_restored(&test_node, &app, async |instance| {
        let endpoint = instance.started.endpoint;
        assert_eq!(get(instance.runtime, endpoint.on_ipv6_loopback().unwrap()).await, "hello\n");
        let refused = instance.runtime.connect(endpoint).await.unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        assert_eq!(listeners(instance).await, ["[::1]:80"]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_listeners_of_an_instance_are_known_and_those_of_the_host_are_not_among_them() {
    let Some(test_node) = TestNode::new() else { return };
    let _of_host = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let script = "httpd -p 127.0.0.1:3000 -h /www; httpd -p '[::]:9229' -h /www; exec sleep 600";
    let config = json!({ "Entrypoint": ["/bin/sh", "-c", script] });
    let app = image(&test_node, "elsewhere", vec![Layer::base().bytes()], config);
    let runtime = test_node.open().await;
    let instance = Running::start(&runtime, &app).await;
    let both = wait_until("both listen", async || {
        let found = listeners(&instance).await;
        (found.len() == 2).then_some(found)
    });
    assert_eq!(both.await, ["127.0.0.1:3000", "[::]:9229"]);
}

async fn listeners(instance: &Running<'_>) -> Vec<String> {
    let found = instance.runtime.listeners(instance.id()).await.unwrap();
    found.iter().map(ToString::to_string).collect()
}
