//! What a killed server leaves, and which process removes it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::harness::{Server, eventually, get, instance_folders, kill_app, processes_of};

fn nodes(state_dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(state_dir.join("nodes")).unwrap().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort_unstable();
    names
}

/// Acquires and releases one instance after the other until the server is gone. Each acquire makes the pool provision
/// an instance, and each release ends one.
pub async fn visit_until_gone(port: u16, visited: Arc<AtomicUsize>) {
    while let Some(answer) = exchange(port, "POST /api/v1/demo/acquire").await {
        let Some((_, rest)) = answer.split_once(r#""id":""#) else { continue };
        let id = rest.split('"').next().unwrap().to_owned();
        visited.fetch_add(1, SeqCst);
        exchange(port, &format!("DELETE /api/v1/demo/{id}")).await;
    }
}

/// Sends one request. Returns `None` if the server is gone.
async fn exchange(port: u16, line: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    let head =
        format!("{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    stream.write_all(head.as_bytes()).await.ok()?;
    let mut answer = String::new();
    let read =
        tokio::time::timeout(crate::support::harness::MAX_WAIT, stream.read_to_string(&mut answer)).await;
    read.expect("an answer or the end of the connection").ok()?;
    (!answer.is_empty()).then_some(answer)
}

async fn wait_until_nothing_left(state_dir: &Path) {
    eventually("no process and no folder is left", async || {
        (processes_of(state_dir).is_empty() && instance_folders(state_dir).is_empty()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_server_killed_at_any_moment_under_load_ends_its_instances() {
    let settings = [("POOL_TARGET_SIZE", "4"), ("POOL_MAX_SIZE", "8"), ("POOL_REPLENISH_THRESHOLD", "1")];
    // All servers are kept until the end, because the first one that is dropped removes the folder.
    let mut servers: Vec<Server> = Vec::new();
    let folder = std::env::temp_dir().join(format!("try-it-now-serve-{}", uuid::Uuid::now_v7()));
    for visits in [0, 1, 3, 8, 20] {
        let mut server = Server::start_in(folder.clone(), &settings, &[]).await;
        let visited = Arc::new(AtomicUsize::new(0));
        let visitors = [(); 3].map(|()| {
            try_it_now::telemetry::task::spawn("visitor", visit_until_gone(server.port, visited.clone()))
        });
        eventually("as many visits", async || (visited.load(SeqCst) >= visits).then_some(())).await;
        server.signal("KILL");
        assert_eq!(server.wait_for_exit().await, None);
        for visitor in visitors {
            visitor.await.unwrap();
        }
        wait_until_nothing_left(&folder).await;
        servers.push(server);
    }
    assert_eq!(nodes(&folder).len(), 1, "each server takes over the folder of the one before");
}

#[tokio::test]
async fn a_start_cleans_up_what_a_crash_of_server_and_guardians_left() {
    let program = env!("CARGO_BIN_EXE_try-it-now");
    // The app leaves a child behind, which does not die with its parents.
    let file = format!(
        "[templates.parent]\ncommand = [\"sh\", \"-c\", \"setsid sleep 1000 & exec {program} sample-app\"]\n"
    );
    let mut crashed = Server::with_file(&[], &file).await.full().await;
    crashed.acquire().await;
    let left = processes_of(&crashed.folder);
    crashed.signal("STOP");
    for guardian in left.iter().filter(|process| !process.is_app) {
        kill_process(Pid::from_raw(guardian.pid).unwrap(), Signal::KILL).unwrap();
    }
    crashed.signal("KILL");
    assert_eq!(crashed.wait_for_exit().await, None);
    let folders = instance_folders(&crashed.folder);
    assert!(!folders.is_empty() && !processes_of(&crashed.folder).is_empty(), "the crash leaves something");

    let file = crashed.folder.join("templates.toml");
    let arguments = ["serve", "--config", file.to_str().unwrap()];
    let next = Server::start_in(crashed.folder.clone(), &[], &arguments).await;
    // A server that listens has finished its cleanup.
    let now = instance_folders(&next.folder);
    assert!(folders.iter().all(|id| !now.contains(id)), "{folders:?} {now:?}");
    assert!(processes_of(&next.folder).iter().all(|process| !folders.contains(&process.instance)));
    assert_eq!(nodes(&next.folder).len(), 1);
    let next = next.full().await;
    let instance = next.acquire().await;
    assert_eq!(get(next.port, &instance.host, "/").await.status, 200);
}

#[tokio::test]
async fn two_servers_with_one_state_folder_never_touch_each_others_instances() {
    let mut a = Server::start(&[]).await;
    let b = Server::start_in(a.folder.clone(), &[], &[]).await.full().await;
    let both = nodes(&a.folder);
    assert_eq!(both.len(), 2);
    let of_b = b.acquire().await;
    a.acquire().await;
    // Neither server knows the instances of the other.
    assert_eq!(a.call("GET", &format!("/api/v1/demo/{}", of_b.id), "").await.status, 404);

    a.signal("KILL");
    assert_eq!(a.wait_for_exit().await, None);
    let c = Server::start_in(a.folder.clone(), &[], &[]).await.full().await;
    assert_eq!(nodes(&a.folder), both, "the third takes over what the first left");
    c.acquire().await;
    assert_eq!(get(b.port, &of_b.host, "/").await.status, 200);
    assert_eq!(b.stats().await["assigned"], 1);
    let mut c = c;
    c.signal("TERM");
    assert_eq!(c.wait_for_exit().await, Some(0));
    assert_eq!(get(b.port, &of_b.host, "/").await.status, 200);
}

#[tokio::test]
async fn a_ready_instance_that_dies_is_replaced_and_never_assigned() {
    let server = Server::start(&[("POOL_TARGET_SIZE", "3"), ("POOL_REPLENISH_THRESHOLD", "1")]).await;
    let victim = instance_folders(&server.folder).pop().unwrap();
    kill_app(&server.folder, &victim);
    server.log_until(|line| line.contains(&victim) && line.contains("instance failed")).await;
    for _ in 0..3 {
        let instance = server.acquire().await;
        assert_ne!(instance.id, victim);
        assert_eq!(get(server.port, &instance.host, "/").await.status, 200);
    }
    assert_eq!(server.call("GET", &format!("/api/v1/demo/{victim}"), "").await.status, 404);
    eventually("its processes and its folder are removed", async || {
        let gone = processes_of(&server.folder).iter().all(|process| process.instance != victim)
            && !instance_folders(&server.folder).contains(&victim);
        gone.then_some(())
    })
    .await;
    assert_eq!(failures(&server).await, 1);
}

#[tokio::test]
async fn a_ready_instance_whose_guardian_dies_is_replaced_too() {
    let server = Server::start(&[]).await;
    let guardian = processes_of(&server.folder).into_iter().find(|process| !process.is_app).unwrap();
    kill_process(Pid::from_raw(guardian.pid).unwrap(), Signal::KILL).unwrap();
    server.log_until(|line| line.contains(&guardian.instance) && line.contains("instance failed")).await;
    let server = server.full().await;
    eventually("its processes and its folder are removed", async || {
        let gone = processes_of(&server.folder).iter().all(|process| process.instance != guardian.instance)
            && !instance_folders(&server.folder).contains(&guardian.instance);
        gone.then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_assigned_instance_that_dies_is_expired_with_the_reason_failed() {
    let server = Server::start(&[]).await;
    let instance = server.acquire().await;
    let path = format!("/api/v1/demo/{}", instance.id);
    let mut events =
        crate::support::harness::EventStream::open(server.port, "localhost", &format!("{path}/status")).await;
    assert_eq!(events.next_event().await.unwrap().0, "ttl");
    kill_app(&server.folder, &instance.id);
    let shown = eventually("the instance has ended", async || {
        let shown = server.call("GET", &path, "").await.json();
        (shown["state"] == "expired").then_some(shown)
    })
    .await;
    assert_eq!(
        (shown["reason"].as_str(), shown["ttl_remaining_seconds"].as_u64()),
        (Some("failed"), Some(0))
    );
    let page = get(server.port, &instance.host, "/").await;
    assert_eq!(page.status, 410);
    assert_eq!(server.call("DELETE", &path, "").await.status, 404);
    assert_eq!(server.call("POST", &format!("{path}/extend"), r#"{"minutes":1}"#).await.status, 404);
    let last = loop {
        match events.next_event().await {
            Some((name, _)) if name == "ttl" => {}
            last => break last,
        }
    };
    assert_eq!(last.unwrap().0, "expired");
    assert_eq!(failures(&server).await, 1);
}

async fn failures(server: &Server) -> u64 {
    let page = server.request("GET", "/metrics", &[], "").await.text();
    let series = r#"demo_releases_total{template="default",reason="failed"} "#;
    page.lines().find_map(|line| line.strip_prefix(series)?.parse().ok()).unwrap_or(0)
}
