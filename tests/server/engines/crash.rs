//! Servers that are killed, servers that share an engine, and containers that an operator removes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use try_it_now::runtime::engine::EngineKind;
use try_it_now::telemetry::task;

use super::EngineHost;
use crate::containers::{FULL_TIMEOUT, post_note, read_page, release, shut_down};
use crate::lifecycle::crash::visit_until_gone;
use crate::support::engine_stack::{remove_by_hand, with_each_engine};
use crate::support::harness::{Server, eventually_within, get};

with_each_engine! {
    the_next_server_adopts_ready_and_assigned_instances_of_a_killed_one
    another_process_takes_the_place_of_a_server_and_keeps_all_instances
    a_server_killed_under_load_leaves_no_container_without_a_record
    two_servers_on_one_engine_never_touch_each_others_containers
    containers_that_are_removed_by_hand_are_replaced
}

async fn the_next_server_adopts_ready_and_assigned_instances_of_a_killed_one(kind: EngineKind) {
    let Some(host) = EngineHost::php(kind) else { return };
    let mut first = host.start_server(&[]).await.full_within(FULL_TIMEOUT).await;
    let instance = first.acquire().await;
    post_note(first.port, &instance, "kept").await;
    let (assigned, ready) = host.settled(&first, 2).await;
    assert_eq!(assigned, [instance.id.clone()].into());
    first.signal("KILL");
    assert_eq!(first.wait_for_exit().await, None);
    let before: BTreeSet<String> = assigned.union(&ready).cloned().collect();
    assert_eq!(host.containers().await, before, "a killed server removes nothing");

    let mut second = host.start_server(&[]).await;
    assert_eq!(second.node(), first.node());
    assert_eq!(read_page(second.port, &instance).await, (1, vec!["kept".to_owned()]));
    let second_full = second.full_within(FULL_TIMEOUT).await;
    second = second_full;
    assert_eq!(host.settled(&second, 2).await, (assigned, ready));
    // No visitor gets what another one has.
    let (b, c) = (second.acquire().await, second.acquire().await);
    assert_eq!(BTreeSet::from([&instance.id, &b.id, &c.id]).len(), 3);
    assert_eq!(read_page(second.port, &b).await, (1, vec![]));
    for id in [&instance.id, &b.id, &c.id] {
        release(&second, id).await;
    }
    shut_down(&mut second).await;
    host.assert_nothing_left().await;
}

async fn another_process_takes_the_place_of_a_server_and_keeps_all_instances(kind: EngineKind) {
    let Some(host) = EngineHost::php(kind) else { return };
    let mut server = host.start_server(&[]).await.full_within(FULL_TIMEOUT).await;
    let instance = server.acquire().await;
    post_note(server.port, &instance, "kept").await;
    let before = host.settled(&server, 2).await;
    server.replace().await;
    assert_eq!(read_page(server.port, &instance).await, (1, vec!["kept".to_owned()]));
    assert_eq!(host.settled(&server, 2).await, before);
    let next = server.acquire().await;
    assert!(before.1.contains(&next.id), "{next:?} of {before:?}");
    for id in [&instance.id, &next.id] {
        release(&server, id).await;
    }
    shut_down(&mut server).await;
    host.assert_nothing_left().await;
}

async fn a_server_killed_under_load_leaves_no_container_without_a_record(kind: EngineKind) {
    let Some(host) = EngineHost::php(kind) else { return };
    let settings = [("POOL_TARGET_SIZE", "2"), ("POOL_MAX_SIZE", "20")];
    // All servers are kept until the end, because the first one that is dropped removes the folder.
    let mut servers: Vec<Server> = Vec::new();
    let mut kept = Vec::new();
    for visits in [0, 2, 4] {
        let mut server = host.start_server(&settings).await.full_within(FULL_TIMEOUT).await;
        let instance = server.acquire().await;
        post_note(server.port, &instance, &format!("note{}", kept.len())).await;
        kept.push(instance);
        let visited = Arc::new(AtomicUsize::new(0));
        let visitors =
            [(); 2].map(|()| task::spawn("visitor", visit_until_gone(server.port, visited.clone())));
        eventually_within(FULL_TIMEOUT, "as many visits", async || {
            (visited.load(SeqCst) >= visits).then_some(())
        })
        .await;
        server.signal("KILL");
        assert_eq!(server.wait_for_exit().await, None);
        for visitor in visitors {
            visitor.await.unwrap();
        }
        servers.push(server);
    }
    let mut last = host.start_server(&settings).await.full_within(FULL_TIMEOUT).await;
    let (assigned, _) = host.settled(&last, 2).await;
    for (number, instance) in kept.iter().enumerate() {
        assert!(assigned.contains(&instance.id), "{instance:?} in {assigned:?}");
        assert_eq!(read_page(last.port, instance).await.1, [format!("note{number}")]);
    }
    for id in &assigned {
        release(&last, id).await;
    }
    shut_down(&mut last).await;
    host.assert_nothing_left().await;
}

async fn two_servers_on_one_engine_never_touch_each_others_containers(kind: EngineKind) {
    let Some(host) = EngineHost::php(kind) else { return };
    let mut a = host.start_server(&[]).await.full_within(FULL_TIMEOUT).await;
    let b = host.start_server(&[]).await.full_within(FULL_TIMEOUT).await;
    assert_ne!(a.node(), b.node());
    let of_b = b.acquire().await;
    post_note(b.port, &of_b, "of b").await;
    let (assigned, ready) = host.settled(&b, 2).await;
    let everything_of_b: BTreeSet<String> = assigned.union(&ready).cloned().collect();

    // The next server of the first node removes and adopts what is its own.
    a.signal("KILL");
    assert_eq!(a.wait_for_exit().await, None);
    let mut c = host.start_server(&[]).await.full_within(FULL_TIMEOUT).await;
    assert_eq!(c.node(), a.node());
    host.settled(&c, 2).await;
    assert_eq!(c.call("GET", &format!("/api/v1/demo/{}", of_b.id), "").await.status, 404);
    shut_down(&mut c).await;
    assert_eq!(host.containers().await, everything_of_b);
    assert_eq!(read_page(b.port, &of_b).await, (1, vec!["of b".to_owned()]));
}

async fn containers_that_are_removed_by_hand_are_replaced(kind: EngineKind) {
    let Some(host) = EngineHost::php(kind) else { return };
    let server = host.start_server(&[]).await.full_within(FULL_TIMEOUT).await;
    let (kept, lost) = (server.acquire().await, server.acquire().await);
    post_note(server.port, &kept, "kept").await;
    let (_, ready) = host.settled(&server, 2).await;
    let gone = ready.first().unwrap();
    for id in [gone, &lost.id] {
        remove_by_hand(&host.socket, id).await;
    }
    eventually_within(FULL_TIMEOUT, "the visitor's page says that the instance is gone", async || {
        (get(server.port, &lost.host, "/").await.status == 410).then_some(())
    })
    .await;
    let replaced = async || (!host.settled(&server, 2).await.1.contains(gone)).then_some(());
    eventually_within(FULL_TIMEOUT, "the ready one is replaced", replaced).await;
    let next = server.acquire().await;
    assert_eq!(read_page(server.port, &next).await, (1, vec![]));
    assert_eq!(read_page(server.port, &kept).await.1, ["kept"]);
}
