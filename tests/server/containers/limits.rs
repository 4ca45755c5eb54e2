//! Instances that use up memory and processors together, beside a good one and the server.

use std::time::Duration;

use tokio::time::Instant;

use super::{ContainerHost, FULL_TIMEOUT, exec_in, post_note, read_page, shut_down};
use crate::support::harness::{eventually_within, get};

/// The longest time until an instance ends that uses the most memory.
const END_TIMEOUT: Duration = Duration::from_secs(60);
/// The slowest of a hundred answers beside instances that burn all processors. Other tests use this machine too.
const SLOWEST: Duration = Duration::from_secs(1);

#[tokio::test]
async fn hostile_instances_together_leave_the_server_and_a_good_instance_alone() {
    let Some(host) = ContainerHost::php() else { return };
    let sizes = [
        ("POOL_TARGET_SIZE", "1"),
        ("POOL_MAX_SIZE", "5"),
        ("INSTANCES_MEMORY", "400M"),
        ("LOG_LEVEL", "info"),
    ];
    let mut server = host.start_server(&sizes).await.full_within(FULL_TIMEOUT).await;
    let port = server.port;
    let good = server.acquire().await;
    post_note(port, &good, "words").await;
    let mut hostile = Vec::new();
    for _ in 0..3 {
        hostile.push(server.acquire().await);
    }

    // Each of them could use both processors of a small host.
    for instance in &hostile {
        let burn = "for i in 1 2; do (while :; do :; done) >/dev/null 2>&1 & done";
        exec_in(&host, instance, &["sh", "-c", burn]);
    }
    let mut times = Vec::new();
    for _ in 0..100 {
        let begun = Instant::now();
        assert_eq!(server.call("GET", "/api/v1/pool/stats", "").await.status, 200);
        times.push(begun.elapsed());
        assert_eq!(read_page(port, &good).await.1, ["words"]);
    }
    times.sort_unstable();
    assert!(times[98] < SLOWEST, "{:?} is the 99th percentile", times[98]);

    // No instance reaches its own limit of 1 GiB, and together they would use more than they may.
    for (instance, mebibytes) in hostile.iter().zip([220, 120, 100]) {
        let eat = format!("$x = str_repeat(\"x\", {mebibytes} << 20); sleep(600);");
        let eat = format!("php -d memory_limit=-1 -r '{eat}' >/dev/null 2>&1 &");
        exec_in(&host, instance, &["sh", "-c", &eat]);
    }
    let largest = &hostile[0];
    let page = eventually_within(END_TIMEOUT, "the largest instance ends", async || {
        let answer = get(port, &largest.host, "/").await;
        (answer.status == 410).then(|| answer.text())
    })
    .await;
    assert!(page.contains("This copy stopped working"), "{page}");
    let line = server.log_until(|line| line.contains("instance failed") && line.contains(&largest.id)).await;
    assert!(format!("{line:?}").contains("this one uses the most"), "{line:?}");
    assert_eq!(read_page(port, &good).await.1, ["words"]);
    for instance in &hostile[1..] {
        assert_eq!(get(port, &instance.host, "/").await.status, 200);
    }
    assert_eq!(server.call("GET", "/health", "").await.status, 200);
    for instance in hostile[1..].iter().chain([&good]) {
        super::release(&server, &instance.id).await;
    }
    shut_down(&mut server).await;
    host.assert_nothing_left().await;
}
