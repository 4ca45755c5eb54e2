//! containerd ends and comes back.

use std::collections::BTreeSet;

use super::{ContainerHost, FULL_TIMEOUT, post_note, read_page, release};
use crate::support::harness::{AcquiredInstance, Server, eventually_within, get};
use crate::support::private_containerd::PrivateContainerd;

/// Acquires an instance as soon as one is ready.
async fn acquire(server: &Server) -> AcquiredInstance {
    eventually_within(FULL_TIMEOUT, "an instance is acquired", async || {
        let answer = server.call("POST", "/api/v1/demo/acquire", "").await;
        (answer.status == 200).then(|| AcquiredInstance::from_json(&answer.json()))
    })
    .await
}

#[tokio::test]
async fn instances_survive_an_outage_of_containerd_and_are_managed_again() {
    let Some(mut containerd) = PrivateContainerd::start().await else { return };
    let ready = "path = \"/up\"\nbody = \"up\"";
    let Some(host) = ContainerHost::new(containerd.stack(), "php", "warm_up = [\"/up\"]", ready) else {
        return;
    };
    let mut server = host.start_server(&[]).await.full_within(FULL_TIMEOUT).await;
    let (a, b) = (server.acquire().await, server.acquire().await);
    post_note(server.port, &a, "before").await;
    let server_full = server.full_within(FULL_TIMEOUT).await;
    server = server_full;

    containerd.kill();
    assert_eq!(read_page(server.port, &a).await, (1, vec!["before".to_owned()]));
    let c = server.acquire().await;
    post_note(server.port, &c, "meanwhile").await;
    release(&server, &b.id).await;
    assert_eq!(get(server.port, &b.host, "/").await.status, 404);
    assert_eq!(read_page(server.port, &a).await.0, 2);

    containerd.start_daemon().await;
    assert_eq!(read_page(server.port, &a).await.0, 3);
    assert_eq!(read_page(server.port, &c).await.1, ["meanwhile"]);
    let d = acquire(&server).await;
    assert_eq!(read_page(server.port, &d).await.0, 1);
    eventually_within(FULL_TIMEOUT, "the instance released meanwhile is removed", async || {
        host.stack.resources_named(&[&b.id]).is_empty().then_some(())
    })
    .await;

    // The event stream is followed again: an exit is noticed at once and not by the next comparison.
    containerd.ctr(&["-n", "try-it-now", "tasks", "kill", "--signal", "SIGKILL", &a.id]);
    server.log_until(|line| line.contains(&a.id) && line.contains("instance failed")).await;
    assert_eq!(get(server.port, &a.host, "/").await.status, 410);
    let server_full = server.full_within(FULL_TIMEOUT).await;
    server = server_full;
    let e = server.acquire().await;
    assert_eq!(read_page(server.port, &e).await.0, 1);

    // `clean` removes what a server leaves that does not start again.
    server.signal("KILL");
    assert_eq!(server.wait_for_exit().await, None);
    assert!(!host.containers().is_empty());
    let cleaned = super::bake::command(&host, &["clean"]).output().unwrap();
    assert!(cleaned.status.success(), "{}", String::from_utf8_lossy(&cleaned.stderr));
    host.assert_nothing_left().await;
    let node = host.folder.join("nodes").join(&host.nodes()[0]);
    let kept: BTreeSet<_> =
        ["clock", "lock", "secret"].map(|name| node.join(name).display().to_string()).into();
    assert_eq!(BTreeSet::from_iter(crate::support::leak_check::files_below(&node)), kept);
    let snapshots = containerd.ctr(&["-n", "try-it-now", "snapshots", "list"]);
    assert!(!snapshots.contains("golden-"), "{snapshots}");
}
