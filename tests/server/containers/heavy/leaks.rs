//! Many visits leave nothing behind.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use crate::containers::{ContainerHost, FULL_TIMEOUT, post_note, read_page, release, shut_down};
use crate::support::harness::{AcquiredInstance, Server, eventually_within};

/// The resources of a server process.
#[derive(Debug, Clone, Copy)]
struct ResourceUsage {
    descriptors: usize,
    networks: usize,
    threads: usize,
    /// Resident memory in KiB.
    memory: usize,
}

fn resource_usage(pid: u32) -> ResourceUsage {
    let count = |what: &str| std::fs::read_dir(format!("/proc/{pid}/{what}")).unwrap().count();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    ResourceUsage {
        descriptors: count("fd"),
        networks: crate::support::leak_check::open_network_namespaces(pid),
        threads: count("task"),
        memory: memory.trim().trim_end_matches(" kB").parse().unwrap(),
    }
}

/// One visit: acquires an unused instance, writes to it and releases it. Returns its id.
async fn visit(server: &Server, number: usize) -> String {
    let instance = eventually_within(FULL_TIMEOUT, "an instance is acquired", async || {
        let answer = server.call("POST", "/api/v1/demo/acquire", "").await;
        (answer.status == 200).then(|| AcquiredInstance::from_json(&answer.json()))
    })
    .await;
    post_note(server.port, &instance, &format!("visit{number}")).await;
    assert_eq!(read_page(server.port, &instance).await, (1, vec![format!("visit{number}")]));
    release(server, &instance.id).await;
    instance.id
}

async fn visits(server: &Server, count: usize) -> BTreeSet<String> {
    let (next, ids) = (AtomicUsize::new(0), Mutex::new(BTreeSet::new()));
    let visitor = async || {
        while let number = next.fetch_add(1, SeqCst)
            && number < count
        {
            let id = visit(server, number).await;
            assert!(ids.lock().unwrap().insert(id), "no instance is assigned twice");
        }
    };
    futures_util::future::join_all([(); 4].map(|()| visitor())).await;
    ids.into_inner().unwrap()
}

/// Waits until the pool is full and nothing else runs.
async fn settle(host: &ContainerHost, server: &Server) -> BTreeSet<String> {
    eventually_within(FULL_TIMEOUT, "only ready instances run", async || {
        let containers = host.containers();
        let stats = server.stats().await;
        let quiet = stats["ready"] == 4 && stats["assigned"] == 0 && stats["warming"] == 0;
        (quiet && containers.len() == 4).then_some(containers)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_visits_leave_nothing_behind() {
    let Some(host) = ContainerHost::php() else { return };
    let settings = [("POOL_TARGET_SIZE", "4"), ("POOL_MAX_SIZE", "12"), ("LOG_LEVEL", "info")];
    let mut server = host.start_server(&settings).await.full_within(FULL_TIMEOUT).await;
    // Resources that the server keeps for good exist after the first visits.
    visits(&server, 20).await;
    settle(&host, &server).await;
    let before = resource_usage(server.pid());

    let visited = visits(&server, 200).await;
    assert_eq!(visited.len(), 200);
    let ready = settle(&host, &server).await;
    let gone: Vec<&str> = visited.iter().map(String::as_str).collect();
    assert_eq!(host.stack.resources_named(&gone), BTreeSet::new());
    assert!(ready.is_disjoint(&visited));
    let is_bounded = |after: ResourceUsage| {
        after.descriptors <= before.descriptors + 8
            && after.networks <= before.networks
            && after.threads <= before.threads + 8
            && after.memory <= before.memory + 24 * 1024
    };
    // Idle connections and threads are closed after a while.
    let after = Mutex::new(before);
    let bounded =
        eventually_within(Duration::from_secs(60), "the server uses no more than before", async || {
            *after.lock().unwrap() = resource_usage(server.pid());
            is_bounded(*after.lock().unwrap()).then_some(())
        });
    let bounded = tokio::time::timeout(Duration::from_secs(30), bounded).await;
    assert!(bounded.is_ok(), "{before:?} {:?}", after.lock().unwrap());
    shut_down(&mut server).await;
    host.assert_nothing_left().await;
}
