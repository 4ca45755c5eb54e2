//! A server whose store is Valkey: normal operation, outages of Valkey, and crashes.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use parking_lot::Mutex;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use try_it_now::telemetry::task::spawn;

use crate::support::harness::{AcquiredInstance, MAX_WAIT, Server, eventually, get, try_request};
use crate::support::valkey_server::{Persistence, ValkeyServer};

/// The longest time of an answer without a store: the deadline of a second plus the delay of a busy machine.
const MAX_ANSWER_TIME: Duration = Duration::from_millis(2_500);

async fn acquire_is_unavailable(server: &Server) {
    let begun = Instant::now();
    let refused = server.call("POST", "/api/v1/demo/acquire", "").await;
    let took = begun.elapsed();
    assert_eq!((refused.status, refused.json()["code"].as_str()), (503, Some("STORE_UNAVAILABLE")));
    assert!(refused.header("retry-after").parse::<u64>().unwrap() >= 1);
    assert!(took < MAX_ANSWER_TIME, "{took:?}");
}

#[tokio::test]
async fn instances_are_acquired_visited_and_released_with_valkey() {
    let Some(valkey) = ValkeyServer::start(Persistence::None, &[]) else { return };
    let server = Server::start(&[("VALKEY_ADDR", &valkey.host_and_port())]).await;
    let instance = server.acquire().await;
    assert_eq!(get(server.port, &instance.host, "/").await.status, 200);
    assert_eq!(server.call("GET", &format!("/api/v1/demo/{}", instance.id), "").await.status, 200);
    let keys: Vec<String> = valkey.query(&["KEYS", "{try-it-now}:events"]).unwrap();
    let events: u64 = valkey.query(&["GET", &keys[0]]).unwrap();
    assert_eq!((keys.len(), events), (1, 1), "Valkey has the event");
    assert_eq!(server.call("DELETE", &format!("/api/v1/demo/{}", instance.id), "").await.status, 200);
    assert_ne!(get(server.port, &instance.host, "/").await.status, 200);
}

#[tokio::test]
async fn the_doctor_reports_whether_valkey_answers() {
    let Some(valkey) = ValkeyServer::start(Persistence::None, &[]) else { return };
    let address = valkey.host_and_port();
    let run_doctor = || {
        let mut doctor = std::process::Command::new(env!("CARGO_BIN_EXE_try-it-now"));
        doctor.arg("doctor").env_clear().env("STATE_DIR", std::env::temp_dir()).env("VALKEY_ADDR", &address);
        let output = doctor.output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, output) = run_doctor();
    assert!(code == Some(0) && output.contains("Valkey answers"), "{output}");
    drop(valkey);
    let (code, output) = run_doctor();
    assert!(code == Some(1) && output.lines().any(|line| line.starts_with("failed   store ")), "{output}");
}

#[tokio::test]
async fn an_acquire_is_one_command_to_valkey() {
    let Some(valkey) = ValkeyServer::start(Persistence::None, &[]) else { return };
    // The pool is at its maximum, so it provisions nothing while instances are assigned.
    let settings =
        [("VALKEY_ADDR", &*valkey.host_and_port()), ("POOL_TARGET_SIZE", "9"), ("POOL_MAX_SIZE", "9")];
    let server = Server::start(&settings).await;
    // The first acquire loads the script into Valkey.
    server.acquire().await;
    let mut monitor = BufReader::new(TcpStream::connect(valkey.address()).await.unwrap());
    monitor.write_all(b"MONITOR\r\n").await.unwrap();
    let mut lines = monitor.lines();
    assert_eq!(lines.next_line().await.unwrap().as_deref(), Some("+OK"));
    for _ in 0..8 {
        server.acquire().await;
    }
    valkey.query::<String>(&["ECHO", "done"]).unwrap();
    // A script is identified by its number of arguments. Commands inside a script are not sent by the server.
    let mut commands: HashMap<(String, usize), usize> = HashMap::new();
    loop {
        let line = timeout(MAX_WAIT, lines.next_line()).await.unwrap().unwrap().unwrap();
        let (from, words) = line.split_once("] ").unwrap();
        let name = words.split('"').nth(1).unwrap().to_uppercase();
        match name.as_str() {
            "ECHO" => break,
            _ if from.ends_with(" lua") => {}
            _ => *commands.entry((name, words.split("\" \"").count())).or_default() += 1,
        }
    }
    let (claim, news, wait) = (("EVALSHA".to_owned(), 14), ("EVALSHA".to_owned(), 8), "XREAD");
    let counts = ("HMGET".to_owned(), 5);
    assert_eq!(commands.remove(&claim), Some(8), "{commands:?}");
    // The server follows the routes on another connection, and the pool reconciles after each claim. All other commands
    // have their own interval.
    commands.remove(&news);
    commands.retain(|(name, _), _| name != wait);
    let rounds = commands.remove(&counts).unwrap_or(0);
    assert!(rounds <= 9, "one a reconcile round: {rounds}");
    assert!(commands.values().all(|count| *count < 8), "{commands:?}");
}

#[tokio::test]
async fn during_an_outage_of_valkey_visitors_keep_their_instances_and_the_server_recovers() {
    let Some(mut valkey) = ValkeyServer::start(Persistence::AppendOnly, &[]) else { return };
    let server = Server::start(&[("VALKEY_ADDR", &valkey.host_and_port())]).await;
    let instance = server.acquire().await;
    valkey.kill();
    for _ in 0..3 {
        acquire_is_unavailable(&server).await;
        assert_eq!(get(server.port, &instance.host, "/").await.status, 200);
    }
    valkey.restart();
    let other = eventually("the server recovers by itself", async || {
        let answer = server.call("POST", "/api/v1/demo/acquire", "").await;
        (answer.status == 200).then(|| answer.json()["id"].as_str().unwrap().to_owned())
    })
    .await;
    assert_ne!(other, instance.id);
    let server = server.full().await;
    assert_eq!(get(server.port, &instance.host, "/").await.status, 200);
    assert_eq!(server.call("DELETE", &format!("/api/v1/demo/{}", instance.id), "").await.status, 200);
    assert_eq!(server.stats().await["assigned"], 1);
}

/// The server knows which instances it assigned, and which are not assigned.
#[tokio::test]
async fn an_empty_valkey_gets_the_assigned_instances_back_and_none_is_assigned_twice() {
    let Some(mut valkey) = ValkeyServer::start(Persistence::AppendOnly, &[]) else { return };
    let server = Server::start(&[("VALKEY_ADDR", &valkey.host_and_port())]).await;
    let mut acquired = vec![server.acquire().await, server.acquire().await];
    valkey.lose_data();
    acquire_is_unavailable(&server).await;
    valkey.restart();
    for _ in 0..6 {
        let instance = eventually("another instance is assigned", async || {
            let answer = server.call("POST", "/api/v1/demo/acquire", "").await;
            (answer.status == 200).then(|| AcquiredInstance::from_json(&answer.json()))
        })
        .await;
        assert!(acquired.iter().all(|other| other.id != instance.id), "assigned twice");
        acquired.push(instance);
    }
    for instance in &acquired {
        assert_eq!(get(server.port, &instance.host, "/").await.status, 200);
        assert_eq!(
            server.call("GET", &format!("/api/v1/demo/{}", instance.id), "").await.json()["state"],
            "assigned"
        );
    }
    for instance in &acquired {
        assert_eq!(server.call("DELETE", &format!("/api/v1/demo/{}", instance.id), "").await.status, 200);
    }
}

/// Visitors of two servers, who come while Valkey is killed and restarted.
#[derive(Default)]
struct Visitors {
    seen_ids: Mutex<HashSet<String>>,
    kept_ids: Mutex<Vec<String>>,
    /// The number of releases without an answer.
    unanswered: AtomicUsize,
    visits: AtomicUsize,
    stopped: AtomicBool,
}

impl Visitors {
    async fn visit(self: Arc<Self>, ports: [u16; 2]) {
        for turn in 0_usize.. {
            if self.stopped.load(SeqCst) {
                return;
            }
            let call = async |method: &str, path: &str| {
                try_request(ports[turn % 2], method, "localhost", path, &[], "").await
            };
            let answer = call("POST", "/api/v1/demo/acquire").await;
            let Some(answer) = answer.filter(|answer| answer.status == 200) else {
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            };
            let id = answer.json()["id"].as_str().unwrap().to_owned();
            assert!(self.seen_ids.lock().insert(id.clone()), "{id} was assigned twice");
            self.visits.fetch_add(1, SeqCst);
            let keeps = turn % 8 == 7 && self.kept_ids.lock().len() < 12;
            if keeps {
                self.kept_ids.lock().push(id);
            } else if call("DELETE", &format!("/api/v1/demo/{id}")).await.is_none_or(|it| it.status != 200) {
                self.unanswered.fetch_add(1, SeqCst);
            }
        }
    }

    async fn wait_for_acquires(&self, times: usize) {
        let until = self.visits.load(SeqCst) + times;
        eventually("instances are acquired", async || (self.visits.load(SeqCst) >= until).then_some(()))
            .await;
    }
}

#[tokio::test]
async fn two_servers_whose_valkey_repeatedly_loses_data_lose_no_instance() {
    let Some(mut valkey) = ValkeyServer::start(Persistence::AppendOnly, &[]) else { return };
    let address = valkey.host_and_port();
    let settings = [("VALKEY_ADDR", &*address), ("POOL_TARGET_SIZE", "4"), ("POOL_MAX_SIZE", "30")];
    let servers = [Server::start(&settings).await, Server::start(&settings).await];
    let ports = servers.each_ref().map(|server| server.port);
    let state = Arc::new(Visitors::default());
    let visitors: Vec<_> = (0..3).map(|_| spawn("visitor", state.clone().visit(ports))).collect();
    for round in 0..4 {
        state.wait_for_acquires(10).await;
        if round % 2 == 0 {
            valkey.save_backup();
            state.wait_for_acquires(20).await;
            valkey.restore_backup();
        } else {
            valkey.lose_data();
        }
        valkey.restart();
        state.wait_for_acquires(6).await;
    }
    state.stopped.store(true, SeqCst);
    for visitor in visitors {
        timeout(MAX_WAIT, visitor).await.unwrap().unwrap();
    }
    let kept_ids = state.kept_ids.lock().clone();
    assert!(kept_ids.len() >= 6, "{}", kept_ids.len());
    for (server, id) in servers.iter().flat_map(|server| kept_ids.iter().map(move |id| (server, id))) {
        let seen = get(server.port, &format!("{id}.localhost:{}", server.port), "/").await.status;
        assert_eq!(seen, 200, "{id} is lost");
    }
    let assigned = servers[0].stats().await["assigned"].as_u64().unwrap() as usize;
    assert!(
        (kept_ids.len()..=kept_ids.len() + state.unanswered.load(SeqCst) + 12).contains(&assigned),
        "{assigned}"
    );
    for id in &kept_ids {
        assert_eq!(servers[1].call("DELETE", &format!("/api/v1/demo/{id}"), "").await.status, 200);
    }
}

#[tokio::test]
async fn a_server_starts_without_its_valkey_and_works_once_that_is_up() {
    let Some(mut valkey) = ValkeyServer::start(Persistence::AppendOnly, &[]) else { return };
    valkey.kill();
    let server = Server::start_with(&[("VALKEY_ADDR", &valkey.host_and_port())], &[]).await;
    acquire_is_unavailable(&server).await;
    valkey.restart();
    let server = server.full().await;
    let instance = server.acquire().await;
    assert_eq!(get(server.port, &instance.host, "/").await.status, 200);
}

#[tokio::test]
async fn after_a_crash_of_the_server_its_instances_end_and_the_pool_is_full_again() {
    let Some(valkey) = ValkeyServer::start(Persistence::None, &[]) else { return };
    let folder = std::env::temp_dir().join(format!("try-it-now-serve-{}", uuid::Uuid::now_v7()));
    let settings = [("VALKEY_ADDR", &*valkey.host_and_port())];
    let mut first = Server::start_in(folder.clone(), &settings, &[]).await.full().await;
    let instance = first.acquire().await;
    first.signal("KILL");
    first.wait_for_exit().await;
    let second = Server::start_in(folder, &settings, &[]).await.full().await;
    let host = instance.host.replace(&first.port.to_string(), &second.port.to_string());
    eventually("its instance has ended", async || {
        let seen = get(second.port, &host, "/").await.status;
        matches!(seen, 404 | 410).then_some(())
    })
    .await;
    let new_instance = second.acquire().await;
    assert_ne!(new_instance.id, instance.id);
    assert_eq!(get(second.port, &new_instance.host, "/").await.status, 200);
    let assigned = eventually("only one instance is assigned", async || {
        let stats = second.stats().await;
        (stats["assigned"] == 1).then_some(stats)
    });
    assert!(timeout(MAX_WAIT, assigned).await.is_ok());
}
