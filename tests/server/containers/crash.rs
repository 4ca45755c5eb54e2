//! A server that is killed under load, several times over.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use super::{FULL, Host, note, page, release, stop};
use crate::lifecycle::crash::visit_for_ever;
use crate::support::harness::{Server, eventually_within};

#[tokio::test]
async fn a_server_killed_at_any_moment_under_load_leaves_only_what_visitors_have_and_that_lives_on() {
    let Some(host) = Host::php() else { return };
    let settings = [("POOL_TARGET_SIZE", "2"), ("POOL_MAX_SIZE", "40")];
    // They are all kept to the end, for the first to be dropped removes the folder.
    let mut servers: Vec<Server> = Vec::new();
    let mut kept = Vec::new();
    for visits in [0, 2, 5, 9] {
        let server = host.serve(&settings).await;
        for (number, demo) in kept.iter().enumerate() {
            assert_eq!(page(server.port, demo).await.1, [format!("note{number}")], "after {visits} visits");
        }
        let mut server = server.full_within(FULL).await;
        let demo = server.acquire().await;
        note(server.port, &demo, &format!("note{}", kept.len())).await;
        kept.push(demo);
        let visited = Arc::new(AtomicUsize::new(0));
        let visitors = [(); 3].map(|()| {
            try_it_now::telemetry::task::spawn("visitor", visit_for_ever(server.port, visited.clone()))
        });
        eventually_within(FULL, "as many visits", async || (visited.load(SeqCst) >= visits).then_some(()))
            .await;
        server.signal("KILL");
        assert_eq!(server.ended().await, None);
        for visitor in visitors {
            visitor.await.unwrap();
        }
        servers.push(server);
    }

    let mut last = host.serve(&settings).await.full_within(FULL).await;
    assert_eq!(host.nodes().len(), 1, "each server takes over the folder of the one before");
    for (number, demo) in kept.iter().enumerate() {
        assert_eq!(page(last.port, demo).await.1, [format!("note{number}")]);
    }
    // What runs is a visitor's or waits for one, and what is a visitor's runs.
    let owned = eventually_within(FULL, "each container is somebody's", async || {
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
    assert!(kept.iter().all(|demo| owned.contains(&demo.id)), "{owned:?}");
    let folders = crate::support::leak_check::files(
        &host.folder.join("nodes").join(&host.nodes()[0]).join("containers/instances"),
    );
    for id in folders.iter().filter_map(|path| path.rsplit('/').next()?.strip_prefix(&host.template)) {
        assert!(host.containers().contains(&format!("{}{id}", host.template)), "{id} has a folder");
    }
    for id in &owned {
        release(&last, id).await;
    }
    stop(&mut last).await;
    host.nothing_left().await;
}
