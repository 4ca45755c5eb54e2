//! What instances take of the memory, and pools that go by it.

use std::time::Duration;

use super::{FULL, Host, note, release, stop};
use crate::support::harness::{eventually_within, request};

/// Several readings.
const READ: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_pool_goes_by_the_memory_and_tells_what_its_instances_take() {
    let Some(host) = Host::php() else { return };
    let sizes = [("POOL_TARGET_SIZE", "3"), ("POOL_MAX_SIZE", "auto"), ("LOG_LEVEL", "info")];
    let mut server = host.serve(&sizes).await.full_within(FULL).await;
    let (demo, port) = (server.acquire().await, server.port);
    note(port, &demo, "words").await;
    let (stats, memory) = eventually_within(READ, "all are measured", async || {
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
    // Others use the machine, too, and take some of it meanwhile: a quarter more or less is still by the memory.
    let room = (available - reserve + 4 * each) as f64 / each as f64;
    let capacity = number(&stats["capacity"]) as f64;
    assert!(capacity >= 4.0 && capacity <= room * 1.25, "{stats}");
    // What copies take is far less than their limit, which is what one counted for at first.
    assert!(each < 512 << 20 && each > 1 << 20, "{by_memory}");
    server.log_until(|line| line.contains("the memory has room for another number of instances")).await;

    let shown = eventually_within(READ, "it is measured in a visitor's hands", async || {
        let shown = server.call("GET", &format!("/api/v1/demo/{}", demo.id), "").await.json();
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
    release(&server, &demo.id).await;
    stop(&mut server).await;
    host.nothing_left().await;
}
