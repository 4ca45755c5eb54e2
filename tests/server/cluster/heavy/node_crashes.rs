//! One of two servers is killed again and again while visitors come to both.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::Value;
use tokio::time::Instant;

use crate::cluster::valkey::address;
use crate::support::harness::{
    Server, attempt, eventually, eventually_within, instance_folders, processes_of,
};
use crate::support::valkey_server::{Keeps, Server as Valkey};

const KILLS: usize = 20;
const VISITORS: usize = 4;
const TARGET: usize = 4;
/// Instances handed out before a kill, and after it.
const VISITS: usize = 12;
const FULL_WITHIN: Duration = Duration::from_secs(10);

/// What the visitors of both servers know.
#[derive(Default)]
struct Desk {
    /// Everything that was ever handed out.
    handed: Arc<Mutex<HashSet<String>>>,
    /// What they have not given back yet, and whether the server that lives runs it.
    held: Mutex<HashMap<String, bool>>,
    visits: AtomicUsize,
    closed: AtomicBool,
    wrong: Mutex<Vec<String>>,
}

/// A server's folder and port.
#[derive(Clone)]
struct Door {
    port: u16,
    folder: std::path::PathBuf,
}

impl Door {
    fn of(server: &Server) -> Self {
        Self { port: server.port, folder: server.folder.clone() }
    }

    async fn visit(&self, id: &str) -> Option<u16> {
        let host = format!("{id}.localhost:{}", self.port);
        attempt(self.port, "GET", &host, "/", &[], "").await.map(|answer| answer.status)
    }

    async fn give_back(&self, id: &str) -> Option<u16> {
        let path = format!("/api/v1/demo/{id}");
        attempt(self.port, "DELETE", "localhost", &path, &[], "").await.map(|answer| answer.status)
    }
}

impl Desk {
    /// Comes to both doors in turn until the desk is closed.
    async fn visit_both(self: Arc<Self>, lives: Door, dies: Door) {
        for turn in 0_usize.. {
            if self.closed.load(SeqCst) {
                return;
            }
            let port = if turn.is_multiple_of(2) { lives.port } else { dies.port };
            let answer = attempt(port, "POST", "localhost", "/api/v1/demo/acquire", &[], "").await;
            let Some(answer) = answer.filter(|answer| answer.status == 200) else {
                // Nothing is ready, or nobody is there.
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            };
            let id = answer.json()["id"].as_str().unwrap().to_owned();
            if !self.handed.lock().insert(id.clone()) {
                self.wrong.lock().push(format!("{id} was handed out twice"));
            }
            let is_safe = instance_folders(&lives.folder).contains(&id);
            let seen = lives.visit(&id).await;
            if is_safe && seen != Some(200) {
                self.wrong.lock().push(format!("{id} answered {seen:?}"));
            }
            self.held.lock().insert(id.clone(), is_safe);
            // Some keep what they have for a while.
            if turn % 4 != 3 {
                self.give_back(&lives, &id).await;
            }
            self.visits.fetch_add(1, SeqCst);
        }
    }

    async fn give_back(&self, by: &Door, id: &str) {
        let Some(is_safe) = self.held.lock().remove(id) else { return };
        let answer = by.give_back(id).await;
        if is_safe && answer != Some(200) {
            self.wrong.lock().push(format!("{id} was given back: {answer:?}"));
        }
    }

    /// Looks at all that visitors still have, and gives it back.
    async fn close(&self, by: &Door) {
        let held: Vec<(String, bool)> = self.held.lock().clone().into_iter().collect();
        for (id, is_safe) in held {
            let seen = by.visit(&id).await;
            if is_safe && seen != Some(200) {
                self.wrong.lock().push(format!("{id} is lost: {seen:?}"));
            }
            self.give_back(by, &id).await;
        }
        assert_eq!(*self.wrong.lock(), [""; 0]);
    }
}

async fn node(asked: &Server, name: &str) -> Value {
    let nodes = asked.call("GET", "/api/v1/nodes", "").await.json();
    let all = nodes["nodes"].as_array().cloned().unwrap_or_default();
    all.into_iter().find(|node| node["id"] == name).unwrap_or_default()
}

async fn is_full(asked: &Server, of: &Server) {
    eventually_within(FULL_WITHIN, "the pool is full again", async || {
        (node(asked, of.node()).await["pools"][0]["ready"] == TARGET).then_some(())
    })
    .await;
}

/// What runs is what is on record.
async fn no_orphans(asked: &Server, of: &Server) {
    eventually("what runs is what is on record", async || {
        let pool = node(asked, of.node()).await["pools"][0].clone();
        let on_record: u64 = ["ready", "warming", "assigned"].iter().map(|s| pool[s].as_u64().unwrap()).sum();
        let folders: HashSet<String> = instance_folders(&of.folder).into_iter().collect();
        let run: HashSet<String> = processes_of(&of.folder).into_iter().map(|it| it.instance).collect();
        (folders.len() as u64 == on_record && run == folders).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_two_servers_is_killed_twenty_times_under_load_and_nothing_is_lost_or_handed_out_twice() {
    let Some(valkey) = Valkey::start(Keeps::Nothing, &[]) else { return };
    let (address, target) = (address(&valkey), TARGET.to_string());
    let settings = [
        ("VALKEY_ADDR", &*address),
        ("NODE_TIMEOUT", "2s"),
        ("POOL_TARGET_SIZE", &*target),
        ("POOL_MAX_SIZE", "40"),
        ("POOL_REPLENISH_THRESHOLD", "1"),
        // What was claimed for an answer that the kill swallowed is nobody's until then.
        ("POOL_DEFAULT_TTL", "30s"),
        ("ACQUIRE_TIMEOUT", "1s"),
    ];
    let lives = Server::start_with(&settings, &[]).await;
    let folder = std::env::temp_dir().join(format!("try-it-now-serve-{}", uuid::Uuid::now_v7()));
    let mut dies = Server::start_in(folder.clone(), &settings, &[]).await;
    let (handed, mut slowest) = (Arc::<Mutex<HashSet<String>>>::default(), Duration::ZERO);
    for kill in 0..KILLS {
        is_full(&lives, &lives).await;
        is_full(&lives, &dies).await;
        let desk = Arc::new(Desk { handed: handed.clone(), ..Desk::default() });
        let (stays, falls) = (Door::of(&lives), Door::of(&dies));
        let visitors: Vec<_> = (0..VISITORS)
            .map(|_| {
                let visits = desk.clone().visit_both(stays.clone(), falls.clone());
                try_it_now::telemetry::task::spawn("visitor", visits)
            })
            .collect();
        let visited = async |count| {
            let before = desk.visits.load(SeqCst);
            eventually("they come", async || (desk.visits.load(SeqCst) >= before + count).then_some(()))
                .await;
        };
        visited(VISITS).await;
        dies.signal("KILL");
        dies.ended().await;
        let killed = Instant::now();
        visited(VISITS).await;
        desk.closed.store(true, SeqCst);
        for visitor in visitors {
            visitor.await.unwrap();
        }
        desk.close(&stays).await;
        is_full(&lives, &lives).await;
        // Now it is back before it is missed, and now after.
        if kill % 2 == 0 {
            let name = dies.node().to_owned();
            eventually("it is missed", async || node(&lives, &name).await.is_null().then_some(())).await;
        }
        let (again, restarted) = (dies.keep_folder(), Instant::now());
        dies = Server::start_in(again, &settings, &[]).await;
        is_full(&lives, &dies).await;
        slowest = slowest.max(restarted.elapsed());
        assert!(restarted.elapsed() < FULL_WITHIN, "{:?} after {:?}", restarted.elapsed(), killed.elapsed());
    }
    eprintln!("{KILLS} kills, {} handed out, full again after at most {slowest:?}", handed.lock().len());
    no_orphans(&lives, &lives).await;
    no_orphans(&lives, &dies).await;
}
