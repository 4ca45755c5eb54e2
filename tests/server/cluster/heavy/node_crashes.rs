//! One of two servers is killed repeatedly while visitors use both.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::Value;
use tokio::time::Instant;

use crate::support::harness::{
    Server, eventually, eventually_within, instance_folders, processes_of, try_request,
};
use crate::support::valkey_server::{Persistence, ValkeyServer};

const KILLS: usize = 20;
const VISITORS: usize = 4;
const TARGET: usize = 4;
/// The number of instances that are assigned before a kill, and after it.
const VISITS: usize = 12;
const FULL_WITHIN: Duration = Duration::from_secs(10);

/// The state that the visitors of both servers share.
#[derive(Default)]
struct Visitors {
    /// The ids of all instances that were ever assigned.
    seen_ids: Arc<Mutex<HashSet<String>>>,
    /// The instances that are not released yet, and whether the surviving server runs them.
    kept_ids: Mutex<HashMap<String, bool>>,
    visits: AtomicUsize,
    stopped: AtomicBool,
    errors: Mutex<Vec<String>>,
}

/// The port and the state folder of a server.
#[derive(Clone)]
struct ServerHandle {
    port: u16,
    folder: std::path::PathBuf,
}

impl ServerHandle {
    fn of(server: &Server) -> Self {
        Self { port: server.port, folder: server.folder.clone() }
    }

    async fn visit(&self, id: &str) -> Option<u16> {
        let host = format!("{id}.localhost:{}", self.port);
        try_request(self.port, "GET", &host, "/", &[], "").await.map(|answer| answer.status)
    }

    async fn release(&self, id: &str) -> Option<u16> {
        let path = format!("/api/v1/demo/{id}");
        try_request(self.port, "DELETE", "localhost", &path, &[], "").await.map(|answer| answer.status)
    }
}

impl Visitors {
    /// Acquires at both servers in turn until the state is stopped.
    async fn visit_both(self: Arc<Self>, survivor: ServerHandle, victim: ServerHandle) {
        for turn in 0_usize.. {
            if self.stopped.load(SeqCst) {
                return;
            }
            let port = if turn.is_multiple_of(2) { survivor.port } else { victim.port };
            let answer = try_request(port, "POST", "localhost", "/api/v1/demo/acquire", &[], "").await;
            let Some(answer) = answer.filter(|answer| answer.status == 200) else {
                // Nothing is ready, or the server is down.
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            };
            let id = answer.json()["id"].as_str().unwrap().to_owned();
            if !self.seen_ids.lock().insert(id.clone()) {
                self.errors.lock().push(format!("{id} was assigned twice"));
            }
            let is_on_survivor = instance_folders(&survivor.folder).contains(&id);
            let seen = survivor.visit(&id).await;
            if is_on_survivor && seen != Some(200) {
                self.errors.lock().push(format!("{id} answered {seen:?}"));
            }
            self.kept_ids.lock().insert(id.clone(), is_on_survivor);
            // Some visitors keep their instances for a while.
            if turn % 4 != 3 {
                self.release(&survivor, &id).await;
            }
            self.visits.fetch_add(1, SeqCst);
        }
    }

    async fn release(&self, through: &ServerHandle, id: &str) {
        let Some(is_on_survivor) = self.kept_ids.lock().remove(id) else { return };
        let answer = through.release(id).await;
        if is_on_survivor && answer != Some(200) {
            self.errors.lock().push(format!("release of {id}: {answer:?}"));
        }
    }

    /// Checks and releases all instances that visitors still have. Asserts that no error occurred.
    async fn release_kept(&self, through: &ServerHandle) {
        let kept_ids: Vec<(String, bool)> = self.kept_ids.lock().clone().into_iter().collect();
        for (id, is_on_survivor) in kept_ids {
            let seen = through.visit(&id).await;
            if is_on_survivor && seen != Some(200) {
                self.errors.lock().push(format!("{id} is lost: {seen:?}"));
            }
            self.release(through, &id).await;
        }
        assert_eq!(*self.errors.lock(), [""; 0]);
    }
}

async fn node_entry(asked: &Server, name: &str) -> Value {
    let nodes = asked.call("GET", "/api/v1/nodes", "").await.json();
    let all = nodes["nodes"].as_array().cloned().unwrap_or_default();
    all.into_iter().find(|node| node["id"] == name).unwrap_or_default()
}

async fn wait_until_full(asked: &Server, of: &Server) {
    eventually_within(FULL_WITHIN, "the pool is full again", async || {
        (node_entry(asked, of.node()).await["pools"][0]["ready"] == TARGET).then_some(())
    })
    .await;
}

/// Asserts that exactly the instances on record run.
async fn assert_no_orphans(asked: &Server, of: &Server) {
    eventually("exactly the instances on record run", async || {
        let pool = node_entry(asked, of.node()).await["pools"][0].clone();
        let on_record: u64 = ["ready", "warming", "assigned"].iter().map(|s| pool[s].as_u64().unwrap()).sum();
        let folders: HashSet<String> = instance_folders(&of.folder).into_iter().collect();
        let run: HashSet<String> = processes_of(&of.folder).into_iter().map(|it| it.instance).collect();
        (folders.len() as u64 == on_record && run == folders).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_two_servers_is_killed_twenty_times_under_load_and_no_instance_is_lost_or_assigned_twice() {
    let Some(valkey) = ValkeyServer::start(Persistence::None, &[]) else { return };
    let (address, target) = (valkey.host_and_port(), TARGET.to_string());
    let settings = [
        ("VALKEY_ADDR", &*address),
        ("NODE_TIMEOUT", "2s"),
        ("POOL_TARGET_SIZE", &*target),
        ("POOL_MAX_SIZE", "40"),
        ("POOL_REPLENISH_THRESHOLD", "1"),
        // A claim whose answer was lost in the kill stays assigned until this TTL has passed.
        ("POOL_DEFAULT_TTL", "30s"),
        ("ACQUIRE_TIMEOUT", "1s"),
    ];
    let survivor = Server::start_with(&settings, &[]).await;
    let folder = std::env::temp_dir().join(format!("try-it-now-serve-{}", uuid::Uuid::now_v7()));
    let mut victim = Server::start_in(folder.clone(), &settings, &[]).await;
    let (seen_ids, mut slowest) = (Arc::<Mutex<HashSet<String>>>::default(), Duration::ZERO);
    for kill in 0..KILLS {
        wait_until_full(&survivor, &survivor).await;
        wait_until_full(&survivor, &victim).await;
        let state = Arc::new(Visitors { seen_ids: seen_ids.clone(), ..Visitors::default() });
        let (survivor_handle, victim_handle) = (ServerHandle::of(&survivor), ServerHandle::of(&victim));
        let visitors: Vec<_> = (0..VISITORS)
            .map(|_| {
                let visits = state.clone().visit_both(survivor_handle.clone(), victim_handle.clone());
                try_it_now::telemetry::task::spawn("visitor", visits)
            })
            .collect();
        let wait_for_visits = async |count| {
            let before = state.visits.load(SeqCst);
            eventually("instances are acquired", async || {
                (state.visits.load(SeqCst) >= before + count).then_some(())
            })
            .await;
        };
        wait_for_visits(VISITS).await;
        victim.signal("KILL");
        victim.wait_for_exit().await;
        let killed = Instant::now();
        wait_for_visits(VISITS).await;
        state.stopped.store(true, SeqCst);
        for visitor in visitors {
            visitor.await.unwrap();
        }
        state.release_kept(&survivor_handle).await;
        wait_until_full(&survivor, &survivor).await;
        // In every second round the server restarts after it was evicted, else before that.
        if kill % 2 == 0 {
            let name = victim.node().to_owned();
            eventually("the node is evicted", async || {
                node_entry(&survivor, &name).await.is_null().then_some(())
            })
            .await;
        }
        let (again, restarted) = (victim.keep_folder(), Instant::now());
        victim = Server::start_in(again, &settings, &[]).await;
        wait_until_full(&survivor, &victim).await;
        slowest = slowest.max(restarted.elapsed());
        assert!(restarted.elapsed() < FULL_WITHIN, "{:?} after {:?}", restarted.elapsed(), killed.elapsed());
    }
    eprintln!("{KILLS} kills, {} assigned, full again after at most {slowest:?}", seen_ids.lock().len());
    assert_no_orphans(&survivor, &survivor).await;
    assert_no_orphans(&survivor, &victim).await;
}
