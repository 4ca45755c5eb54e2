//! Servers that share a queue: what is missing is made by all of them, whatever becomes of NATS or of a server.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;
use try_it_now::clock::Millis;
use try_it_now::cluster::queue::jetstream::{JetStreamQueue, Settings};
use try_it_now::cluster::queue::{Job, Queue};
use try_it_now::instance::{InstanceId, NodeId, TemplateName};

use crate::support::harness::{
    AcquiredInstance, Server, eventually, eventually_within, get, instance_folders, request,
};
use crate::support::nats_server::NatsServer;
use crate::support::valkey_server::{Persistence, ValkeyServer};

const LONG: Duration = Duration::from_secs(40);

struct Backends {
    valkey: ValkeyServer,
    nats: NatsServer,
}

impl Backends {
    /// Starts both. Returns `None` and prints why if one of them is not installed.
    fn start() -> Option<Self> {
        Some(Self { valkey: ValkeyServer::start(Persistence::AppendOnly, &[])?, nats: NatsServer::start()? })
    }

    /// Starts a server whose app waits so many seconds before it listens. Does not wait for the pool.
    async fn server(&self, target: usize, seconds: &str, more: &[(&str, &str)]) -> Server {
        let program = env!("CARGO_BIN_EXE_try-it-now");
        let file = format!(
            "[templates.default]\ncommand = [\"sh\", \"-c\", \"sleep {seconds}; exec {program} sample-app\"]\n\
             pool = {{ target = {target}, min = 0, max = 60, concurrency = 10 }}\n"
        );
        let (valkey, nats) = (self.valkey.host_and_port(), self.nats.url());
        let settings = [("VALKEY_ADDR", &*valkey), ("NATS_URL", &*nats)];
        Server::with_file(&[&settings[..], more].concat(), &file).await
    }

    /// Opens the queue of the servers.
    async fn queue(&self) -> Arc<dyn Queue> {
        let settings = Settings {
            servers: vec![self.nats.url()],
            credentials: None,
            stream: "PROVISIONING".to_owned(),
            ack_wait: Duration::from_secs(3),
        };
        JetStreamQueue::open(settings).await.unwrap()
    }
}

async fn wait_for_ready(server: &Server, count: usize) {
    let begun = Instant::now();
    while !is_settled(&server.stats().await, count) {
        let stats = server.stats().await;
        assert!(begun.elapsed() < LONG, "{stats}; its log: {:#?}", server.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn is_settled(stats: &Value, ready: usize) -> bool {
    stats["ready"] == ready && stats["warming"] == 0
}

async fn health(server: &Server) -> Value {
    server.call("GET", "/health", "").await.json()
}

async fn wait_for_health(server: &Server, queue: &str) {
    eventually("the queue's state", async || (health(server).await["queue"] == queue).then_some(())).await;
}

async fn visit(through: &Server, instance: &AcquiredInstance) -> u16 {
    let name = instance.host.split(':').next().unwrap();
    get(through.port, &format!("{name}:{}", through.port), "/").await.status
}

/// Returns how many instances of each server are on disk, which is how many it runs.
fn running(servers: &[&Server]) -> Vec<usize> {
    servers.iter().map(|server| instance_folders(&server.folder).len()).collect()
}

/// Returns the time from the moment at which all instances are assigned until as many are ready again.
async fn refill_time(server: &Server, count: usize) -> Duration {
    wait_for_ready(server, count).await;
    for _ in 0..count {
        server.acquire().await;
    }
    let begun = Instant::now();
    wait_for_ready(server, count).await;
    begun.elapsed()
}

#[tokio::test]
async fn two_servers_fill_the_pools_of_both_and_report_that_the_queue_works() {
    let Some(backends) = Backends::start() else { return };
    let (one, other) = (backends.server(4, "0", &[]).await, backends.server(3, "0", &[]).await);
    wait_for_ready(&one, 7).await;
    for server in [&one, &other] {
        assert_eq!(health(server).await["queue"], "ok");
        assert_eq!(health(server).await["status"], "ok");
        let queue = server.call("GET", "/api/v1/queue", "").await.json();
        assert_eq!(queue, serde_json::json!({"queue": "ok", "shared": true, "parked": []}));
    }
    let ids: HashSet<String> = {
        let mut ids = HashSet::new();
        for server in [&one, &other, &one, &other, &one] {
            let instance = server.acquire().await;
            assert_eq!(visit(&other, &instance).await, 200);
            ids.insert(instance.id);
        }
        ids
    };
    assert_eq!(ids.len(), 5);
    // The server that plans makes up for what was acquired at either.
    wait_for_ready(&other, 7).await;
    assert_eq!(one.stats().await["assigned"], 5);
}

#[tokio::test]
async fn two_servers_refill_at_least_1_6_times_as_fast_as_one() {
    const COUNT: usize = 12;
    let workers = [("NATS_WORKER_COUNT", "3")];
    let alone = {
        let Some(backends) = Backends::start() else { return };
        let server = backends.server(COUNT, "1.5", &workers).await;
        refill_time(&server, COUNT).await
    };
    let Some(backends) = Backends::start() else { return };
    let one = backends.server(COUNT / 2, "1.5", &workers).await;
    let _other = backends.server(COUNT / 2, "1.5", &workers).await;
    let both = refill_time(&one, COUNT).await;
    println!("refill of {COUNT}: one server {alone:?}, two servers {both:?}");
    assert!(alone.as_secs_f64() >= 1.6 * both.as_secs_f64(), "{alone:?} and {both:?}");
}

#[tokio::test]
async fn the_jobs_of_a_server_that_is_killed_are_done_by_the_other() {
    let Some(backends) = Backends::start() else { return };
    // Few, so that the other server has jobs enough.
    let survivor = backends.server(10, "2", &[("NATS_WORKER_COUNT", "2")]).await;
    let dead = backends.server(10, "2", &[("NATS_WORKER_COUNT", "10")]).await;
    eventually_within(LONG, "it has ten jobs", async || {
        let answer = survivor.call("GET", "/api/v1/nodes", "").await.json();
        let nodes = answer["nodes"].as_array().unwrap().clone();
        let node = nodes.into_iter().find(|node| node["id"] == dead.node())?;
        (node["pools"][0]["warming"].as_u64() >= Some(10)).then_some(())
    })
    .await;
    dead.signal("KILL");
    let (folder, node) = (dead.folder.clone(), dead.node().to_owned());
    // From its eviction on, the cluster is the survivor alone.
    eventually_within(LONG, "the dead server is evicted", async || {
        let answer = survivor.call("GET", "/api/v1/nodes", "").await.json();
        answer["nodes"].as_array().unwrap().iter().all(|one| one["id"] != *node).then_some(())
    })
    .await;
    wait_for_ready(&survivor, 10).await;
    eventually("its instances are removed", async || instance_folders(&folder).is_empty().then_some(()))
        .await;
    let queue = backends.queue().await;
    let lane = try_it_now::cluster::queue::Lane::Provision(TemplateName::new("default").unwrap());
    eventually_within(LONG, "no job remains", async || {
        let backlog = queue.backlog(&lane).await.unwrap();
        (backlog.pending + backlog.in_progress == 0).then_some(())
    })
    .await;
    assert_eq!(running(&[&survivor]), [10]);
    assert!(queue.parked().await.unwrap().is_empty());
}

#[tokio::test]
async fn without_nats_visitors_are_served_and_each_server_fills_its_own_pool() {
    let Some(mut backends) = Backends::start() else { return };
    let (one, other) = (backends.server(3, "0", &[]).await, backends.server(3, "0", &[]).await);
    wait_for_ready(&one, 6).await;
    let visited = one.acquire().await;
    backends.nats.kill();
    wait_for_health(&one, "degraded").await;
    assert_eq!(health(&one).await["status"], "ok");
    for server in [&one, &other, &one, &other, &one] {
        let instance = server.acquire().await;
        assert_eq!(visit(server, &instance).await, 200);
    }
    assert_eq!(visit(&other, &visited).await, 200);
    wait_for_ready(&one, 6).await;
    let queue = one.call("GET", "/api/v1/queue", "").await.json();
    assert!(queue["queue"] == "degraded" && queue["problem"].is_string(), "{queue}");
    assert_eq!(one.call("POST", "/api/v1/queue/1/retry", "").await.status, 503);
    let warnings = one.log().iter().filter(|line| line.contains("queue unavailable;")).count();
    assert_eq!(warnings, 1, "one line a minute");
    backends.nats.restart();
    wait_for_health(&one, "ok").await;
    wait_for_health(&other, "ok").await;
    one.acquire().await;
    wait_for_ready(&one, 6).await;
}

#[tokio::test]
async fn a_lost_stream_or_an_older_one_changes_nothing_but_a_few_seconds() {
    let Some(mut backends) = Backends::start() else { return };
    let (one, other) = (backends.server(4, "1", &[]).await, backends.server(4, "1", &[]).await);
    // While jobs wait and are in progress.
    eventually("the first is ready", async || (one.stats().await["ready"] != 0).then_some(())).await;
    backends.nats.save_backup();
    wait_for_ready(&one, 8).await;
    backends.nats.restore_backup();
    wait_for_health(&one, "ok").await;
    // The jobs of the old disk are taken again, and nothing is made for them.
    let (queue, template) = (backends.queue().await, TemplateName::new("default").unwrap());
    let lane = try_it_now::cluster::queue::Lane::Provision(template);
    eventually_within(LONG, "the old jobs are gone", async || {
        let backlog = queue.backlog(&lane).await.ok()?;
        (backlog.pending + backlog.in_progress == 0).then_some(())
    })
    .await;
    wait_for_ready(&other, 8).await;
    assert_eq!(running(&[&one, &other]).iter().sum::<usize>(), 8);
    backends.nats.lose_data();
    backends.nats.restart();
    for _ in 0..6 {
        one.acquire().await;
    }
    wait_for_ready(&one, 8).await;
}

#[tokio::test]
async fn a_server_that_is_killed_in_the_middle_of_its_jobs_starts_again_and_fills_its_pool() {
    let Some(backends) = Backends::start() else { return };
    let mut server = backends.server(5, "1", &[]).await;
    eventually("it makes instances", async || (server.stats().await["warming"] != 0).then_some(())).await;
    server.signal("KILL");
    server.wait_for_exit().await;
    let folder = server.keep_folder();
    drop(server);
    let (valkey, nats) = (backends.valkey.host_and_port(), backends.nats.url());
    let file = folder.join("templates.toml");
    let arguments = ["serve", "--config", file.to_str().unwrap()];
    let settings = [("VALKEY_ADDR", &*valkey), ("NATS_URL", &*nats)];
    let again = Server::start_in(folder.clone(), &settings, &arguments).await;
    wait_for_ready(&again, 5).await;
    assert_eq!(running(&[&again]), [5]);
}

#[tokio::test]
async fn a_parked_job_is_shown_to_the_operator_and_put_back() {
    let Some(backends) = Backends::start() else { return };
    let server = backends.server(1, "0", &[("API_KEY", "key")]).await;
    let (queue, template) = (backends.queue().await, TemplateName::new("default").unwrap());
    // Of a node that is not there, so that no server takes it.
    let (node, instance) = (NodeId::random(), InstanceId::random(&template));
    let job = Job::Cleanup { node: node.clone(), instance };
    queue.publish(&job).await.unwrap();
    let taken = queue.take(&[job.lane()], LONG).await.unwrap().unwrap();
    taken.receipt.park("cannot remove the network", Millis(1_700_000_000_000)).await.unwrap();
    let call = async |method: &str, path: &str, key: &str| {
        request(server.port, method, "localhost", path, &[("x-api-key", key)], "").await
    };
    assert_eq!(call("GET", "/api/v1/queue", "wrong").await.status, 401);
    let shown = call("GET", "/api/v1/queue", "key").await.json();
    let parked = &shown["parked"][0];
    assert_eq!(parked["error"], "cannot remove the network");
    assert_eq!((&parked["kind"], &parked["deliveries"]), (&"cleanup".into(), &1.into()));
    assert_eq!((&parked["job"], &parked["node"]), (&job.id().into(), &node.as_str().into()));
    assert!(parked["parked_at"].as_str().unwrap().ends_with('Z'));
    let path = format!("/api/v1/queue/{}/retry", parked["id"].as_str().unwrap());
    assert_eq!(call("POST", &path, "wrong").await.status, 401);
    assert_eq!(call("GET", &path, "key").await.status, 405);
    let answer = call("POST", &path, "key").await;
    assert_eq!((answer.status, &answer.json()["status"]), (200, &"queued".into()));
    assert_eq!(call("POST", &path, "key").await.status, 404);
    for unknown in ["x", "-1", "+1", "99999999999999999999999"] {
        assert_eq!(call("POST", &format!("/api/v1/queue/{unknown}/retry"), "key").await.status, 404);
    }
    let again = queue.take(&[job.lane()], LONG).await.unwrap().unwrap();
    assert_eq!(again.job, job);
    again.receipt.done().await.unwrap();
}

#[tokio::test]
async fn a_server_without_nats_shows_its_embedded_queue_and_no_state_of_it_in_its_health() {
    let server = Server::start(&[]).await;
    assert!(health(&server).await.get("queue").is_none());
    let queue = server.call("GET", "/api/v1/queue", "").await.json();
    assert_eq!(queue, serde_json::json!({"queue": "ok", "shared": false, "parked": []}));
}

#[tokio::test]
async fn the_doctor_reports_whether_nats_can_be_used_and_shows_no_password() {
    let Some(backends) = Backends::start() else { return };
    let valkey = backends.valkey.host_and_port();
    let run_doctor = |url: &str| {
        let mut doctor = std::process::Command::new(env!("CARGO_BIN_EXE_try-it-now"));
        let folder = std::env::temp_dir();
        doctor.arg("doctor").env_clear().env("STATE_DIR", folder).env("VALKEY_ADDR", &valkey);
        let output = doctor.env("NATS_URL", url).output().unwrap();
        String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
    };
    let output = run_doctor(&backends.nats.url());
    assert!(
        output.contains("sync_interval: always") && output.contains("answers, with JetStream"),
        "{output}"
    );
    let url = backends.nats.url().replace("nats://", "nats://me:hunter2@");
    drop(backends.nats);
    let output = run_doctor(&url);
    assert!(output.lines().any(|line| line.starts_with("warning  queue ")), "{output}");
    assert!(!output.contains("hunter2"), "{output}");
}
