//! Containers in numbers, and large ones.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use crate::containers::{FULL, Host, note, page, release, stop};
use crate::harness::{Demo, Server, eventually_within};

/// What a server holds.
#[derive(Debug, Clone, Copy)]
struct Holdings {
    descriptors: usize,
    networks: usize,
    threads: usize,
    /// Resident memory in KiB.
    memory: usize,
}

fn holdings(pid: u32) -> Holdings {
    let count = |what: &str| std::fs::read_dir(format!("/proc/{pid}/{what}")).unwrap().count();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    Holdings {
        descriptors: count("fd"),
        networks: crate::traces::networks(pid),
        threads: count("task"),
        memory: memory.trim().trim_end_matches(" kB").parse().unwrap(),
    }
}

/// One visit: a copy that nobody was in before is written to and given back.
async fn cycle(server: &Server, number: usize) -> String {
    let demo = eventually_within(FULL, "an instance is to be had", async || {
        let answer = server.call("POST", "/api/v1/demo/acquire", "").await;
        (answer.status == 200).then(|| Demo::from_json(&answer.json()))
    })
    .await;
    note(server.port, &demo, &format!("visit{number}")).await;
    assert_eq!(page(server.port, &demo).await, (1, vec![format!("visit{number}")]));
    release(server, &demo.id).await;
    demo.id
}

async fn cycles(server: &Server, count: usize) -> BTreeSet<String> {
    let (next, ids) = (AtomicUsize::new(0), Mutex::new(BTreeSet::new()));
    let visitor = async || {
        while let number = next.fetch_add(1, SeqCst)
            && number < count
        {
            let id = cycle(server, number).await;
            assert!(ids.lock().unwrap().insert(id), "handed out once");
        }
    };
    futures_util::future::join_all([(); 4].map(|()| visitor())).await;
    ids.into_inner().unwrap()
}

/// Waits until the pool is full and nothing else runs.
async fn settle(host: &Host, server: &Server) -> BTreeSet<String> {
    eventually_within(FULL, "only ready instances run", async || {
        let containers = host.containers();
        let stats = server.stats().await;
        let quiet = stats["ready"] == 4 && stats["assigned"] == 0 && stats["warming"] == 0;
        (quiet && containers.len() == 4).then_some(containers)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_visits_leave_nothing_behind() {
    let Some(host) = Host::php() else { return };
    let settings = [("POOL_TARGET_SIZE", "4"), ("POOL_MAX_SIZE", "12"), ("LOG_LEVEL", "info")];
    let mut server = host.serve(&settings).await.full_within(FULL).await;
    // What is kept from then on is there after the first few.
    cycles(&server, 20).await;
    settle(&host, &server).await;
    let before = holdings(server.pid());

    let visited = cycles(&server, 200).await;
    assert_eq!(visited.len(), 200);
    let ready = settle(&host, &server).await;
    let gone: Vec<&str> = visited.iter().map(String::as_str).collect();
    assert_eq!(host.stack.traces(&gone), BTreeSet::new());
    assert!(ready.is_disjoint(&visited));
    let within = |after: Holdings| {
        after.descriptors <= before.descriptors + 8
            && after.networks <= before.networks
            && after.threads <= before.threads + 8
            && after.memory <= before.memory + 24 * 1024
    };
    // Connections and threads that are idle go after a while.
    let after = Mutex::new(before);
    let bounded = eventually_within(Duration::from_secs(60), "it holds no more than before", async || {
        *after.lock().unwrap() = holdings(server.pid());
        within(*after.lock().unwrap()).then_some(())
    });
    let bounded = tokio::time::timeout(Duration::from_secs(30), bounded).await;
    assert!(bounded.is_ok(), "{before:?} {:?}", after.lock().unwrap());
    stop(&mut server).await;
    host.nothing_left().await;
}
