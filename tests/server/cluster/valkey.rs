//! A server whose store is a Valkey: what it does while that is there, while it is away, and after a crash.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use parking_lot::Mutex;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use try_it_now::telemetry::task::spawn;

use crate::support::harness::{Demo, PATIENCE, Server, attempt, eventually, get};
use crate::support::valkey_server::{Keeps, Server as Valkey};

/// Longest time of an answer without a store: its deadline of a second, and what a busy machine adds.
const SOON: Duration = Duration::from_millis(2_500);

/// As servers are told where it is.
pub(crate) fn address(valkey: &Valkey) -> String {
    let (host, port) = valkey.address();
    format!("{host}:{port}")
}

async fn acquire_is_unavailable(server: &Server) {
    let begun = Instant::now();
    let refused = server.call("POST", "/api/v1/demo/acquire", "").await;
    let took = begun.elapsed();
    assert_eq!((refused.status, refused.json()["code"].as_str()), (503, Some("STORE_UNAVAILABLE")));
    assert!(refused.header("retry-after").parse::<u64>().unwrap() >= 1);
    assert!(took < SOON, "{took:?}");
}

#[tokio::test]
async fn instances_are_handed_out_visited_and_given_back_by_way_of_valkey() {
    let Some(valkey) = Valkey::start(Keeps::Nothing, &[]) else { return };
    let server = Server::start(&[("VALKEY_ADDR", &address(&valkey))]).await;
    let demo = server.acquire().await;
    assert_eq!(get(server.port, &demo.host, "/").await.status, 200);
    assert_eq!(server.call("GET", &format!("/api/v1/demo/{}", demo.id), "").await.status, 200);
    let keys: Vec<String> = valkey.ask(&["KEYS", "{try-it-now}:events"]).unwrap();
    let events: u64 = valkey.ask(&["GET", &keys[0]]).unwrap();
    assert_eq!((keys.len(), events), (1, 1), "Valkey knows of it");
    assert_eq!(server.call("DELETE", &format!("/api/v1/demo/{}", demo.id), "").await.status, 200);
    assert_ne!(get(server.port, &demo.host, "/").await.status, 200);
}

#[tokio::test]
async fn the_doctor_says_whether_valkey_answers() {
    let Some(valkey) = Valkey::start(Keeps::Nothing, &[]) else { return };
    let address = address(&valkey);
    let examine = || {
        let mut doctor = std::process::Command::new(env!("CARGO_BIN_EXE_try-it-now"));
        doctor.arg("doctor").env_clear().env("STATE_DIR", std::env::temp_dir()).env("VALKEY_ADDR", &address);
        let output = doctor.output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, told) = examine();
    assert!(code == Some(0) && told.contains("Valkey answers"), "{told}");
    drop(valkey);
    let (code, told) = examine();
    assert!(code == Some(1) && told.lines().any(|line| line.starts_with("failed   store ")), "{told}");
}

#[tokio::test]
async fn an_acquire_is_one_command_to_valkey() {
    let Some(valkey) = Valkey::start(Keeps::Nothing, &[]) else { return };
    // No place is free for the pool to fill while they are handed out.
    let settings = [("VALKEY_ADDR", &*address(&valkey)), ("POOL_TARGET_SIZE", "9"), ("POOL_MAX_SIZE", "9")];
    let server = Server::start(&settings).await;
    // The first one tells Valkey the script.
    server.acquire().await;
    let mut monitor = BufReader::new(TcpStream::connect(valkey.address()).await.unwrap());
    monitor.write_all(b"MONITOR\r\n").await.unwrap();
    let mut lines = monitor.lines();
    assert_eq!(lines.next_line().await.unwrap().as_deref(), Some("+OK"));
    for _ in 0..8 {
        server.acquire().await;
    }
    valkey.ask::<String>(&["ECHO", "done"]).unwrap();
    // A script is known by its number of arguments. What it does inside is no command sent.
    let mut commands: HashMap<(String, usize), usize> = HashMap::new();
    loop {
        let line = timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap().unwrap();
        let (from, words) = line.split_once("] ").unwrap();
        let name = words.split('"').nth(1).unwrap().to_uppercase();
        match name.as_str() {
            "ECHO" => break,
            _ if from.ends_with(" lua") => {}
            _ => *commands.entry((name, words.split("\" \"").count())).or_default() += 1,
        }
    }
    let (claim, news, wait) = (("EVALSHA".to_owned(), 13), ("EVALSHA".to_owned(), 8), "XREAD");
    let counts = ("HMGET".to_owned(), 5);
    assert_eq!(commands.remove(&claim), Some(8), "{commands:?}");
    // The routes are followed aside, and the pool looks after itself when an instance was handed out. What else there is
    // has a clock of its own.
    commands.remove(&news);
    commands.retain(|(name, _), _| name != wait);
    let rounds = commands.remove(&counts).unwrap_or(0);
    assert!(rounds <= 9, "one a round of the pool: {rounds}");
    assert!(commands.values().all(|count| *count < 8), "{commands:?}");
}

#[tokio::test]
async fn while_valkey_is_away_visitors_keep_what_they_have_and_afterwards_all_goes_on() {
    let Some(mut valkey) = Valkey::start(Keeps::Changes, &[]) else { return };
    let server = Server::start(&[("VALKEY_ADDR", &address(&valkey))]).await;
    let demo = server.acquire().await;
    valkey.kill();
    for _ in 0..3 {
        acquire_is_unavailable(&server).await;
        assert_eq!(get(server.port, &demo.host, "/").await.status, 200);
    }
    valkey.start_again();
    let other = eventually("the server recovers by itself", async || {
        let answer = server.call("POST", "/api/v1/demo/acquire", "").await;
        (answer.status == 200).then(|| answer.json()["id"].as_str().unwrap().to_owned())
    })
    .await;
    assert_ne!(other, demo.id);
    let server = server.full().await;
    assert_eq!(get(server.port, &demo.host, "/").await.status, 200);
    assert_eq!(server.call("DELETE", &format!("/api/v1/demo/{}", demo.id), "").await.status, 200);
    assert_eq!(server.stats().await["assigned"], 1);
}

/// The server knows what it handed out, and what is nobody's.
#[tokio::test]
async fn a_valkey_that_comes_back_empty_is_told_what_visitors_have_and_nothing_is_handed_out_twice() {
    let Some(mut valkey) = Valkey::start(Keeps::Changes, &[]) else { return };
    let server = Server::start(&[("VALKEY_ADDR", &address(&valkey))]).await;
    let mut had = vec![server.acquire().await, server.acquire().await];
    valkey.forget();
    acquire_is_unavailable(&server).await;
    valkey.start_again();
    for _ in 0..6 {
        let demo = eventually("there are others", async || {
            let answer = server.call("POST", "/api/v1/demo/acquire", "").await;
            (answer.status == 200).then(|| Demo::from_json(&answer.json()))
        })
        .await;
        assert!(had.iter().all(|other| other.id != demo.id), "handed out twice");
        had.push(demo);
    }
    for demo in &had {
        assert_eq!(get(server.port, &demo.host, "/").await.status, 200);
        assert_eq!(
            server.call("GET", &format!("/api/v1/demo/{}", demo.id), "").await.json()["state"],
            "assigned"
        );
    }
    for demo in &had {
        assert_eq!(server.call("DELETE", &format!("/api/v1/demo/{}", demo.id), "").await.status, 200);
    }
}

/// Visitors of two servers, who come while Valkey is killed and started again.
#[derive(Default)]
struct Desk {
    handed: Mutex<HashSet<String>>,
    held: Mutex<Vec<String>>,
    /// ApiRequest to be given back without an answer.
    unsure: AtomicUsize,
    visits: AtomicUsize,
    closed: AtomicBool,
}

impl Desk {
    async fn visit(self: Arc<Self>, ports: [u16; 2]) {
        for turn in 0_usize.. {
            if self.closed.load(SeqCst) {
                return;
            }
            let call = async |method: &str, path: &str| {
                attempt(ports[turn % 2], method, "localhost", path, &[], "").await
            };
            let answer = call("POST", "/api/v1/demo/acquire").await;
            let Some(answer) = answer.filter(|answer| answer.status == 200) else {
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            };
            let id = answer.json()["id"].as_str().unwrap().to_owned();
            assert!(self.handed.lock().insert(id.clone()), "{id} was handed out twice");
            self.visits.fetch_add(1, SeqCst);
            let keeps = turn % 8 == 7 && self.held.lock().len() < 12;
            if keeps {
                self.held.lock().push(id);
            } else if call("DELETE", &format!("/api/v1/demo/{id}")).await.is_none_or(|it| it.status != 200) {
                self.unsure.fetch_add(1, SeqCst);
            }
        }
    }

    async fn until_visited(&self, times: usize) {
        let until = self.visits.load(SeqCst) + times;
        eventually("visitors come", async || (self.visits.load(SeqCst) >= until).then_some(())).await;
    }
}

#[tokio::test]
async fn two_servers_whose_valkey_falls_back_again_and_again_keep_every_promise() {
    let Some(mut valkey) = Valkey::start(Keeps::Changes, &[]) else { return };
    let address = address(&valkey);
    let settings = [("VALKEY_ADDR", &*address), ("POOL_TARGET_SIZE", "4"), ("POOL_MAX_SIZE", "30")];
    let servers = [Server::start(&settings).await, Server::start(&settings).await];
    let ports = servers.each_ref().map(|server| server.port);
    let desk = Arc::new(Desk::default());
    let visitors: Vec<_> = (0..3).map(|_| spawn("visitor", desk.clone().visit(ports))).collect();
    for round in 0..4 {
        desk.until_visited(10).await;
        if round % 2 == 0 {
            valkey.keep_copy();
            desk.until_visited(20).await;
            valkey.fall_back();
        } else {
            valkey.forget();
        }
        valkey.start_again();
        desk.until_visited(6).await;
    }
    desk.closed.store(true, SeqCst);
    for visitor in visitors {
        timeout(PATIENCE, visitor).await.unwrap().unwrap();
    }
    let held = desk.held.lock().clone();
    assert!(held.len() >= 6, "{}", held.len());
    for (server, id) in servers.iter().flat_map(|server| held.iter().map(move |id| (server, id))) {
        let seen = get(server.port, &format!("{id}.localhost:{}", server.port), "/").await.status;
        assert_eq!(seen, 200, "{id} is lost");
    }
    let assigned = servers[0].stats().await["assigned"].as_u64().unwrap() as usize;
    assert!((held.len()..=held.len() + desk.unsure.load(SeqCst) + 12).contains(&assigned), "{assigned}");
    for id in &held {
        assert_eq!(servers[1].call("DELETE", &format!("/api/v1/demo/{id}"), "").await.status, 200);
    }
}

#[tokio::test]
async fn a_server_starts_without_its_valkey_and_works_when_that_comes() {
    let Some(mut valkey) = Valkey::start(Keeps::Changes, &[]) else { return };
    valkey.kill();
    let server = Server::start_with(&[("VALKEY_ADDR", &address(&valkey))], &[]).await;
    acquire_is_unavailable(&server).await;
    valkey.start_again();
    let server = server.full().await;
    let demo = server.acquire().await;
    assert_eq!(get(server.port, &demo.host, "/").await.status, 200);
}

#[tokio::test]
async fn after_a_crash_of_the_server_what_it_had_is_over_and_the_pool_is_full_again() {
    let Some(valkey) = Valkey::start(Keeps::Nothing, &[]) else { return };
    let folder = std::env::temp_dir().join(format!("try-it-now-serve-{}", uuid::Uuid::now_v7()));
    let settings = [("VALKEY_ADDR", &*address(&valkey))];
    let mut first = Server::start_in(folder.clone(), &settings, &[]).await.full().await;
    let demo = first.acquire().await;
    first.signal("KILL");
    first.ended().await;
    let second = Server::start_in(folder, &settings, &[]).await.full().await;
    let host = demo.host.replace(&first.port.to_string(), &second.port.to_string());
    eventually("what it had is over", async || {
        let seen = get(second.port, &host, "/").await.status;
        matches!(seen, 404 | 410).then_some(())
    })
    .await;
    let fresh = second.acquire().await;
    assert_ne!(fresh.id, demo.id);
    assert_eq!(get(second.port, &fresh.host, "/").await.status, 200);
    let assigned = eventually("only one is assigned", async || {
        let stats = second.stats().await;
        (stats["assigned"] == 1).then_some(stats)
    });
    assert!(timeout(PATIENCE, assigned).await.is_ok());
}
