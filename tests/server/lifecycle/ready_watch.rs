//! Ready instances that stop answering, begin to answer errors, or become old: no visitor gets one.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::{Pid, Signal, getpgid, kill_process_group};
use tokio::time::Instant;

use crate::support::harness::{Server, eventually, eventually_within, fake_upstream, get, processes_of};
use crate::support::valkey_server::{Persistence, ValkeyServer};

/// The longest time until a hung app is found: the interval, both requests of the check, and a busy machine.
const FOUND_WITHIN: Duration = Duration::from_secs(40);

fn apps(server: &Server) -> BTreeSet<String> {
    processes_of(server.folder()).into_iter().filter(|p| p.is_app).map(|p| p.instance).collect()
}

/// Stops the processes of an instance without ending them, as a hung app does.
fn hang(server: &Server, instance: &str) {
    let app = processes_of(server.folder()).into_iter().find(|p| p.is_app && p.instance == instance);
    let group = getpgid(Pid::from_raw(app.unwrap().pid)).unwrap();
    kill_process_group(group, Signal::STOP).unwrap();
}

async fn wait_until_withdrawn(server: &Server, instance: &str) {
    eventually_within(FOUND_WITHIN, "the instance is withdrawn", async || {
        let is_withdrawn = |line: &String| line.contains("instance withdrawn") && line.contains(instance);
        server.log().iter().any(is_withdrawn).then_some(())
    })
    .await;
}

/// A file that says which apps are unhealthy; removed with the value.
struct UnhealthyFile(PathBuf);

impl UnhealthyFile {
    fn new() -> Self {
        let name = format!("try-it-now-unhealthy-{}", uuid::Uuid::now_v7());
        Self(std::env::temp_dir().join(name))
    }

    fn write(&self, ids: &str) {
        std::fs::write(&self.0, ids).unwrap();
    }
}

impl Drop for UnhealthyFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

const SAMPLE_APP: &str = r#"
[templates.default]
command = ["try-it-now", "sample-app"]
ready = { path = "/health", recheck_interval = "1s" }
pool = { target = 2, min = 1, max = 8 }
"#;

/// Hangs one of two ready instances of `owner`, and checks that neither server assigns it and that it is replaced.
async fn assert_hung_instance_is_replaced(owner: &Server, asked: &Server) {
    let before = apps(owner);
    assert_eq!(before.len(), 2);
    // The first in the queue would be the next to be assigned.
    let hung = before.first().unwrap().clone();
    hang(owner, &hung);
    wait_until_withdrawn(owner, &hung).await;
    for _ in 0..3 {
        let instance = asked.acquire().await;
        assert_ne!(instance.id, hung);
        let name = instance.host.split(':').next().unwrap();
        assert_eq!(get(asked.port, &format!("{name}:{}", asked.port), "/").await.status, 200);
    }
    eventually_within(FOUND_WITHIN, "its processes are gone and the pool is full", async || {
        let stats = owner.call("GET", "/api/v1/pool/stats", "").await.json();
        (!apps(owner).contains(&hung) && stats["ready"] == 2).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_ready_instance_whose_process_hangs_is_not_assigned_and_is_replaced() {
    let server = Server::with_file(&[("ACQUIRE_TIMEOUT", "15s")], SAMPLE_APP).await.full().await;
    assert_hung_instance_is_replaced(&server, &server).await;
}

#[tokio::test]
async fn a_hung_instance_is_not_assigned_by_another_node_either() {
    let Some(valkey) = ValkeyServer::start(Persistence::None, &[]) else { return };
    let address = valkey.host_and_port();
    let settings = [("VALKEY_ADDR", &*address), ("ACQUIRE_TIMEOUT", "15s")];
    let owner = Server::with_file(&settings, SAMPLE_APP).await.full().await;
    let without_pool = SAMPLE_APP.replace("target = 2, min = 1", "target = 0, min = 0");
    let asked = Server::with_file(&settings, &without_pool).await;
    assert_hung_instance_is_replaced(&owner, &asked).await;
}

#[tokio::test]
async fn a_ready_instance_that_begins_to_answer_errors_is_not_assigned_and_is_replaced() {
    let file = UnhealthyFile::new();
    let pool = "pool = { target = 2, min = 1, max = 8 }";
    let settings = [("ACQUIRE_TIMEOUT", "15s")];
    let server =
        Server::with_file(&settings, &fake_upstream::unhealthy_template(&file.0, pool)).await.full().await;
    let before = apps(&server);
    let bad = before.first().unwrap().clone();
    file.write(&bad);
    wait_until_withdrawn(&server, &bad).await;
    for _ in 0..3 {
        assert_ne!(server.acquire().await.id, bad);
    }
    eventually("it is gone", async || (!apps(&server).contains(&bad)).then_some(())).await;
    // The checks are no visitors: nothing but the three acquires is counted.
    let stats = server.stats().await;
    assert_eq!(stats["assigned"], 3);
}

#[tokio::test]
async fn an_outage_of_all_apps_ends_few_of_them_and_the_others_are_assigned_after_it() {
    let file = UnhealthyFile::new();
    let pool = "pool = { target = 6, min = 1, max = 8, concurrency = 2 }";
    let server = Server::with_file(&[], &fake_upstream::unhealthy_template(&file.0, pool)).await.full().await;
    let before = apps(&server);
    assert_eq!(before.len(), 6);
    file.write("");
    eventually_within(FOUND_WITHIN, "no instance is ready", async || {
        (server.stats().await["ready"] == 0).then_some(())
    })
    .await;
    let refused = server.call("POST", "/api/v1/demo/acquire", "").await;
    assert_eq!((refused.status, refused.json()["code"].as_str()), (503, Some("POOL_EXHAUSTED")));
    eventually("new instances fail too, again and again", async || {
        let failures = server.log().iter().filter(|line| line.contains("failed to make instance")).count();
        (failures >= 4).then_some(())
    })
    .await;
    let kept = apps(&server).intersection(&before).count();
    assert!(kept >= 2, "{kept} of 6 are left");
    std::fs::remove_file(&file.0).unwrap();
    let server = server.full_within(FOUND_WITHIN).await;
    let after = apps(&server);
    assert!(after.intersection(&before).count() >= 2, "{before:?} {after:?}");
    let got = server.acquire().await;
    assert_eq!(get(server.port, &got.host, "/health").await.status, 200);
}

#[tokio::test]
async fn old_ready_instances_are_replaced_and_the_minimum_stays_ready() {
    let template = SAMPLE_APP.replace("min = 1, max = 8", "min = 2, max = 8, max_idle_age = \"3s\"");
    let server = Server::with_file(&[], &template).await.full().await;
    let before = apps(&server);
    let begun = Instant::now();
    eventually_within(FOUND_WITHIN, "all instances are replaced", async || {
        let ready = server.stats().await["ready"].as_u64().unwrap();
        assert!(ready >= 2, "{ready} are ready after {:?}", begun.elapsed());
        (apps(&server).is_disjoint(&before)).then_some(())
    })
    .await;
    let instance = server.acquire().await;
    assert!(!before.contains(&instance.id));
}
