//! Memory of instances, and pools whose size follows the available memory.

use serde_json::Value;
use try_it_now::runtime::engine::EngineKind;

use super::{EngineHost, PHP_READY};
use crate::containers::{FULL_TIMEOUT, post_note, read_page, release, shut_down};
use crate::support::engine_stack::{engine_socket, with_each_engine};
use crate::support::harness::eventually_within;

with_each_engine! {
    a_disk_limit_that_the_engine_cannot_keep_is_reported_once_and_instances_start
    a_pool_follows_the_available_memory_and_reports_what_its_instances_use
}

async fn a_disk_limit_that_the_engine_cannot_keep_is_reported_once_and_instances_start(kind: EngineKind) {
    let Some(socket) = engine_socket(kind) else { return };
    let host = EngineHost::new(kind, socket, "php", &format!("{PHP_READY}limits = {{ disk = \"64M\" }}\n"));
    let mut server = host.start_server(&[]).await.full_within(FULL_TIMEOUT).await;
    let instance = server.acquire().await;
    assert_eq!(read_page(server.port, &instance).await.1, [""; 0]);
    host.settled(&server, 2).await;
    let log = server.log();
    let warnings = log.iter().filter(|line| line.contains("limits.disk has no effect"));
    let warnings: Vec<_> = warnings.collect();
    assert!(warnings.len() == 1 && warnings[0].contains("pquota"), "{warnings:?}");
    release(&server, &instance.id).await;
    shut_down(&mut server).await;
    host.assert_nothing_left().await;
}

async fn a_pool_follows_the_available_memory_and_reports_what_its_instances_use(kind: EngineKind) {
    let Some(host) = EngineHost::php(kind) else { return };
    let sizes = [("POOL_TARGET_SIZE", "2"), ("POOL_MAX_SIZE", "auto")];
    let mut server = host.start_server(&sizes).await.full_within(FULL_TIMEOUT).await;
    let instance = server.acquire().await;
    post_note(server.port, &instance, "words").await;
    let (stats, memory) = eventually_within(FULL_TIMEOUT, "all instances are measured", async || {
        let stats = server.stats().await;
        let memory = stats["templates"][0].get("memory")?.clone();
        let full = stats["ready"] == 2 && stats["warming"] == 0 && memory["instances"] == 3;
        full.then_some((stats, memory))
    })
    .await;
    let number = |value: &Value| value.as_u64().unwrap();
    // Each PHP has some megabytes of its own, and nothing is shared.
    let [private, proportional, charged] =
        ["private_bytes", "proportional_bytes", "charged_bytes"].map(|name| number(&memory[name]));
    assert!(private > 3 << 20 && private < 300 << 20, "{memory}");
    assert!(proportional >= private && charged >= private, "{memory}");
    assert_eq!(number(&memory["shared_bytes"]), 0, "{memory}");
    // The use of an instance is far less than its limit, which is assumed at first.
    let each = number(&stats["templates"][0]["by_memory"]["instance_bytes"]);
    assert!(each < 512 << 20 && each > 1 << 20, "{stats}");
    assert!(number(&stats["capacity"]) >= 3, "{stats}");
    let shown = eventually_within(FULL_TIMEOUT, "the assigned instance is measured", async || {
        let shown = server.call("GET", &format!("/api/v1/demo/{}", instance.id), "").await.json();
        shown.get("memory").cloned()
    })
    .await;
    assert!(number(&shown["private_bytes"]) > 1 << 20, "{shown}");
    release(&server, &instance.id).await;
    shut_down(&mut server).await;
    host.assert_nothing_left().await;
}
