//! A server is killed under load, several times.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use super::{ContainerHost, FULL_TIMEOUT, post_note, read_page, release, shut_down};
use crate::lifecycle::crash::visit_until_gone;
use crate::support::harness::{Server, eventually, eventually_within};

#[tokio::test]
async fn ready_instances_outlive_a_server_that_is_killed_and_dead_ones_are_not_offered() {
    let Some(host) = ContainerHost::php() else { return };
    let settings = [("POOL_TARGET_SIZE", "3"), ("POOL_MIN_SIZE", "0"), ("POOL_MAX_SIZE", "3")];
    let mut first = host.start_server(&settings).await.full_within(FULL_TIMEOUT).await;
    // The bake may have a container of its own for a while.
    let ready = eventually("only the pool has containers", async || {
        Some(host.containers()).filter(|containers| containers.len() == 3)
    })
    .await;
    let taken = first.acquire().await;
    post_note(first.port, &taken, "kept").await;
    first.signal("KILL");
    assert_eq!(first.wait_for_exit().await, None);
    // One of the two that are left dies while no server runs.
    let dead = ready.iter().find(|id| **id != taken.id).unwrap();
    host.stack.ctr(&["tasks", "kill", "--signal", "SIGKILL", dead]);

    let mut second = host.start_server(&settings).await;
    assert_eq!(read_page(second.port, &taken).await.1, ["kept"]);
    let next = second.acquire().await;
    assert!(ready.contains(&next.id) && next.id != taken.id && next.id != *dead, "{next:?} of {ready:?}");
    assert_eq!(read_page(second.port, &next).await.1, Vec::<String>::new());
    for id in [&taken.id, &next.id] {
        release(&second, id).await;
    }
    shut_down(&mut second).await;
    host.assert_nothing_left().await;
}

#[tokio::test]
async fn a_server_killed_at_any_moment_under_load_leaves_only_the_assigned_instances_running() {
    let Some(host) = ContainerHost::php() else { return };
    let settings = [("POOL_TARGET_SIZE", "2"), ("POOL_MAX_SIZE", "40")];
    // All servers are kept until the end, because the first one that is dropped removes the folder.
    let mut servers: Vec<Server> = Vec::new();
    let mut kept = Vec::new();
    for visits in [0, 2, 5, 9] {
        let server = host.start_server(&settings).await;
        for (number, instance) in kept.iter().enumerate() {
            assert_eq!(
                read_page(server.port, instance).await.1,
                [format!("note{number}")],
                "after {visits} visits"
            );
        }
        let mut server = server.full_within(FULL_TIMEOUT).await;
        let instance = server.acquire().await;
        post_note(server.port, &instance, &format!("note{}", kept.len())).await;
        kept.push(instance);
        let visited = Arc::new(AtomicUsize::new(0));
        let visitors = [(); 3].map(|()| {
            try_it_now::telemetry::task::spawn("visitor", visit_until_gone(server.port, visited.clone()))
        });
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
    assert_eq!(host.nodes().len(), 1, "each server takes over the folder of the one before");
    for (number, instance) in kept.iter().enumerate() {
        assert_eq!(read_page(last.port, instance).await.1, [format!("note{number}")]);
    }
    // Each running container is assigned or ready, and each assigned instance runs.
    let owned = eventually_within(FULL_TIMEOUT, "each container has a record", async || {
        let mut assigned = BTreeSet::new();
        let mut ready = 0;
        for id in host.containers() {
            let found = last.call("GET", &format!("/api/v1/demo/{id}"), "").await;
            match found.json()["state"].as_str() {
                Some("assigned") => drop(assigned.insert(id)),
                Some("ready") => ready += 1,
                _ => return None,
            }
        }
        let stats = last.stats().await;
        (ready == 2 && stats["assigned"] == assigned.len()).then_some(assigned)
    })
    .await;
    assert!(kept.iter().all(|instance| owned.contains(&instance.id)), "{owned:?}");
    let folders = crate::support::leak_check::files_below(
        &host.folder.join("nodes").join(&host.nodes()[0]).join("containers/instances"),
    );
    for id in folders.iter().filter_map(|path| path.rsplit('/').next()?.strip_prefix(&host.template)) {
        assert!(host.containers().contains(&format!("{}{id}", host.template)), "{id} has a folder");
    }
    for id in &owned {
        release(&last, id).await;
    }
    shut_down(&mut last).await;
    host.assert_nothing_left().await;
}
