//! Memory of instances, and pools whose size follows the available memory.

use std::time::Duration;

use super::{ContainerHost, FULL_TIMEOUT, post_note, release, shut_down};
use crate::support::harness::{eventually_within, request};

/// The longest time until memory was measured several times.
const MEASURE_TIMEOUT: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_pool_follows_the_available_memory_and_reports_what_its_instances_use() {
    let Some(host) = ContainerHost::php() else { return };
    let sizes = [("POOL_TARGET_SIZE", "3"), ("POOL_MAX_SIZE", "auto"), ("LOG_LEVEL", "info")];
    let mut server = host.start_server(&sizes).await.full_within(FULL_TIMEOUT).await;
    let (instance, port) = (server.acquire().await, server.port);
    post_note(port, &instance, "words").await;
    let (stats, memory) = eventually_within(MEASURE_TIMEOUT, "all instances are measured", async || {
        let stats = server.stats().await;
        let memory = stats["templates"][0].get("memory")?.clone();
        let full = stats["ready"] == 3 && stats["warming"] == 0 && memory["instances"] == 4;
        full.then_some((stats, memory))
    })
    .await;
    let number = |value: &serde_json::Value| value.as_u64().unwrap();
    assert!(number(&memory["shared_bytes"]) > 1 << 20, "{memory}");
    assert!(number(&memory["charged_bytes"]) >= number(&memory["private_bytes"]), "{memory}");

    let by_memory = &stats["templates"][0]["by_memory"];
    let [each, available, reserve] =
        ["instance_bytes", "available_bytes", "reserve_bytes"].map(|name| number(&by_memory[name]));
    // Other programs of this machine use memory too: a quarter more or less still follows the memory.
    let max_instances = (available - reserve + 4 * each) as f64 / each as f64;
    let capacity = number(&stats["capacity"]) as f64;
    assert!(capacity >= 4.0 && capacity <= max_instances * 1.25, "{stats}");
    // The use of an instance is far less than its limit, which is assumed at first.
    assert!(each < 512 << 20 && each > 1 << 20, "{by_memory}");
    server.log_until(|line| line.contains("pool capacity changed")).await;

    let shown = eventually_within(MEASURE_TIMEOUT, "the assigned instance is measured", async || {
        let shown = server.call("GET", &format!("/api/v1/demo/{}", instance.id), "").await.json();
        shown.get("memory").cloned()
    })
    .await;
    assert!(number(&shown["private_bytes"]) > 0 && shown.get("shared_bytes").is_none(), "{shown}");
    let page = request(port, "GET", &format!("127.0.0.1:{port}"), "/metrics", &[], "").await.text();
    for name in ["instances", "private_bytes", "proportional_bytes", "charged_bytes", "shared_bytes"] {
        let begins = format!("demo_pool_memory_{name}{{template=\"{}\"}} ", host.template);
        let value = page.lines().find_map(|line| line.strip_prefix(&begins));
        assert!(value.is_some_and(|value| value.parse::<u64>().unwrap() > 0), "{name} in {page}");
    }
    release(&server, &instance.id).await;
    shut_down(&mut server).await;
    host.assert_nothing_left().await;
}
