//! Servers that share a Valkey: each assigns the instances of the others, and when one is gone only its own visitors
//! are affected.

use std::time::Duration;

use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::support::fault_proxy::{Fault, FaultProxy};
use crate::support::harness::{
    AcquiredInstance, Answer, MAX_WAIT, Server, eventually, eventually_within, get, instance_folders,
    processes_of, request,
};
use crate::support::valkey_server::{Persistence, ValkeyServer};

/// How much longer than promised a busy machine may take.
const SLACK: Duration = Duration::from_secs(2);
const NODE_TIMEOUT: Duration = Duration::from_secs(5);

/// Starts a server with this pool target and room for a few more instances. Does not wait for its pool.
async fn start_with_target(valkey: &ValkeyServer, target: usize, more: &[(&str, &str)]) -> Server {
    let (target, address) = (target.to_string(), valkey.host_and_port());
    let settings = [("VALKEY_ADDR", &*address), ("POOL_TARGET_SIZE", &*target), ("POOL_MIN_SIZE", "0")];
    Server::start_with(&[&settings[..], more].concat(), &[]).await
}

/// Starts a server with this pool target and waits until its pool is full.
async fn start_full(valkey: &ValkeyServer, target: usize, more: &[(&str, &str)]) -> Server {
    let server = start_with_target(valkey, target, more).await;
    wait_for_ready(&server, &server, target).await;
    server
}

/// Reads the page of an instance through any server.
async fn visit(through: &Server, instance: &AcquiredInstance) -> Answer {
    let name = instance.host.split(':').next().unwrap();
    get(through.port, &format!("{name}:{}", through.port), "/").await
}

/// Returns the entry of a node in the list of `asked`, `null` if it is not on record.
async fn node_entry(asked: &Server, of: &Server) -> Value {
    let answer = asked.call("GET", "/api/v1/nodes", "").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let nodes = answer.json()["nodes"].as_array().unwrap().clone();
    nodes.into_iter().find(|node| node["id"] == of.node()).unwrap_or_default()
}

/// Waits until so many instances of a server are ready and none is warming. After an acquire that is certain only where a
/// refill must follow or has no room.
async fn wait_for_ready(asked: &Server, of: &Server, count: usize) {
    wait_for_pool(asked, of, |pool| pool["ready"] == count && pool["warming"] == 0).await;
}

/// Waits until one server sees that so many instances of another are assigned.
async fn wait_for_assigned(asked: &Server, of: &Server, count: usize) {
    wait_for_pool(asked, of, |pool| pool["assigned"] == count).await;
}

async fn wait_for_pool(asked: &Server, of: &Server, wanted: impl Fn(&Value) -> bool) {
    let seen = async || wanted(&node_entry(asked, of).await["pools"][0]).then_some(());
    if tokio::time::timeout(MAX_WAIT, eventually_within(MAX_WAIT * 2, "the pool", seen)).await.is_err() {
        panic!("{}; its log: {:#?}", node_entry(asked, of).await, of.log());
    }
}

async fn wait_until_gone(asked: &Server, of: &Server) {
    eventually("the node is no longer on record", async || {
        node_entry(asked, of).await.is_null().then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_instance_of_another_server_is_acquired_visited_and_released_here() {
    let Some(valkey) = ValkeyServer::start(Persistence::None, &[]) else { return };
    let (here, there) = (start_full(&valkey, 0, &[]).await, start_full(&valkey, 2, &[]).await);
    let instances = [here.acquire().await, here.acquire().await];
    for instance in &instances {
        for server in [&here, &there] {
            assert_eq!(visit(server, instance).await.status, 200);
            let answer = server.call("GET", &format!("/api/v1/demo/{}", instance.id), "").await.json();
            assert_eq!(answer["state"], "assigned");
        }
    }
    wait_for_ready(&here, &there, 2).await;
    assert_eq!(instance_folders(&here.folder), [""; 0], "all of them run on the other server");
    for instance in &instances {
        assert_eq!(here.call("DELETE", &format!("/api/v1/demo/{}", instance.id), "").await.status, 200);
        assert_eq!(visit(&here, instance).await.status, 404);
    }
    eventually("its own server removes it", async || {
        let left = instance_folders(&there.folder);
        instances.iter().all(|instance| !left.contains(&instance.id)).then_some(())
    })
    .await;
    for instance in &instances {
        assert_eq!(visit(&there, instance).await.status, 404);
    }
    assert_eq!(there.stats().await["assigned"], 0);
}

#[tokio::test]
async fn an_instance_that_another_server_sees_expire_is_removed_by_its_own() {
    let Some(valkey) = ValkeyServer::start(Persistence::None, &[]) else { return };
    let short = [("POOL_DEFAULT_TTL", "1s"), ("POOL_MAX_TTL", "1s")];
    let (here, there) = (start_full(&valkey, 0, &short).await, start_full(&valkey, 1, &short).await);
    // Either server may notice the expiry first.
    for _ in 0..3 {
        wait_for_ready(&here, &there, 1).await;
        let instance = here.acquire().await;
        assert_eq!(visit(&here, &instance).await.status, 200);
        eventually("the instance has expired", async || {
            (visit(&there, &instance).await.status == 410).then_some(())
        })
        .await;
        eventually("the instance is removed", async || {
            (!instance_folders(&there.folder).contains(&instance.id)).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn the_servers_are_listed_and_the_pools_are_summed() {
    let Some(valkey) = ValkeyServer::start(Persistence::None, &[]) else { return };
    let (one, other) =
        (start_full(&valkey, 1, &[]).await, start_full(&valkey, 2, &[("POOL_MAX_SIZE", "2")]).await);
    let instance = other.acquire().await;
    wait_for_ready(&one, &other, 1).await;
    for server in [&one, &other] {
        let it = node_entry(server, &other).await;
        assert_eq!(it["address"], format!("127.0.0.1:{}", other.port));
        assert_eq!((it["mode"].as_str(), it["alive"].as_bool()), (Some("process"), Some(true)));
        assert_eq!(it["draining"], false);
        assert_eq!(it["self"], server.node() == other.node());
        assert!(it["last_seen_ms"].as_u64().unwrap() < 3_000, "{it}");
        let pool = serde_json::json!(
            {"template": "default", "ready": 1, "warming": 0, "assigned": 1, "target": 2, "capacity": 2}
        );
        assert_eq!(it["pools"], serde_json::json!([pool]));
    }
    eventually("each server knows the pools of the other", async || {
        let sums = [one.stats().await, other.stats().await];
        sums.iter()
            .all(|sum| {
                let number = |name: &str| sum[name].as_u64().unwrap();
                ["ready", "assigned", "target", "capacity"].map(number) == [2, 1, 3, 22]
            })
            .then_some(())
    })
    .await;
    assert_eq!(visit(&one, &instance).await.status, 200);
}

#[tokio::test]
async fn the_list_of_nodes_needs_the_api_key_and_refuses_other_methods() {
    let server = Server::start_with(&[("API_KEY", "hunter2hunter2")], &[]).await;
    let path = format!("/api/v1/nodes/{}/drain", server.node());
    for (method, path) in [("GET", "/api/v1/nodes"), ("POST", &*path), ("DELETE", &*path)] {
        server.call(method, path, "").await.assert_error(401, "UNAUTHORIZED");
    }
    let key = [("x-api-key", "hunter2hunter2")];
    let nodes = server.request("GET", "/api/v1/nodes", &key, "").await.json();
    assert_eq!(nodes["nodes"].as_array().unwrap().len(), 1, "a server without a Valkey is alone");
    assert_eq!(nodes["nodes"][0]["self"], true);
    server.request("GET", &path, &key, "").await.assert_error(405, "METHOD_NOT_ALLOWED");
    for unknown in ["/api/v1/nodes/unknown/drain", "/api/v1/nodes/.../drain"] {
        server.request("POST", unknown, &key, "").await.assert_error(404, "NOT_FOUND");
    }
}

#[tokio::test]
async fn when_a_server_is_killed_only_its_own_instances_end() {
    let Some(valkey) = ValkeyServer::start(Persistence::None, &[]) else { return };
    let (survivor, mut victim) = (start_full(&valkey, 2, &[]).await, start_full(&valkey, 2, &[]).await);
    let (safe, lost) = (survivor.acquire().await, victim.acquire().await);
    wait_for_assigned(&survivor, &survivor, 1).await;
    assert_eq!(visit(&survivor, &lost).await.status, 200);
    let folder = victim.keep_folder();
    victim.signal("KILL");
    let killed = Instant::now();
    victim.wait_for_exit().await;
    eventually("the instance has ended for its visitor", async || {
        (visit(&survivor, &lost).await.status == 410).then_some(())
    })
    .await;
    assert!(killed.elapsed() <= NODE_TIMEOUT + SLACK, "{:?}", killed.elapsed());
    let answer = survivor.call("GET", &format!("/api/v1/demo/{}", lost.id), "").await.json();
    assert_eq!((&answer["state"], &answer["reason"]), (&"expired".into(), &"failed".into()));
    let name = lost.host.split(':').next().unwrap();
    let host = format!("{name}:{}", survivor.port);
    let page = request(survivor.port, "GET", &host, "/", &[("accept", "text/html")], "").await;
    assert_eq!(page.status, 410);
    let button = format!("href=\"http://localhost:{}/#template-default\"", survivor.port);
    assert!(page.text().contains(&button) && page.text().contains("Start again"), "{}", page.text());
    assert_eq!(visit(&survivor, &safe).await.status, 200);
    wait_until_gone(&survivor, &victim).await;
    let stats = survivor.stats().await;
    assert_eq!((&stats["assigned"], &stats["target"]), (&1.into(), &2.into()), "{stats}");

    let address = valkey.host_and_port();
    let settings = [("VALKEY_ADDR", &*address), ("POOL_TARGET_SIZE", "2")];
    let back = Server::start_in(folder, &settings, &[]).await;
    assert_eq!(back.node(), victim.node());
    wait_for_ready(&survivor, &back, 2).await;
    assert_eq!(visit(&back, &lost).await.status, 410);
    assert_eq!(visit(&back, &safe).await.status, 200);
}

#[tokio::test]
async fn a_server_that_was_suspended_for_too_long_ends_its_evicted_instances() {
    let Some(valkey) = ValkeyServer::start(Persistence::None, &[]) else { return };
    let short_timeout = [("NODE_TIMEOUT", "2s")];
    let (other, still) =
        (start_full(&valkey, 0, &short_timeout).await, start_full(&valkey, 2, &short_timeout).await);
    let lost = still.acquire().await;
    wait_for_assigned(&other, &still, 1).await;
    let before = instance_folders(&still.folder);
    still.signal("STOP");
    wait_until_gone(&other, &still).await;
    assert_eq!(visit(&other, &lost).await.status, 410);
    still.signal("CONT");
    wait_for_ready(&other, &still, 2).await;
    eventually("its evicted instances are removed", async || {
        let now = instance_folders(&still.folder);
        before.iter().all(|old| !now.contains(old)).then_some(())
    })
    .await;
    assert_eq!(visit(&still, &lost).await.status, 410);
    let fresh = other.acquire().await;
    assert_eq!(visit(&other, &fresh).await.status, 200);
}

#[tokio::test]
async fn a_server_that_shuts_down_leaves_the_cluster_immediately() {
    let Some(valkey) = ValkeyServer::start(Persistence::None, &[]) else { return };
    let (other, mut stops) = (start_full(&valkey, 0, &[]).await, start_full(&valkey, 2, &[]).await);
    let lost = other.acquire().await;
    stops.signal("TERM");
    assert_eq!(stops.wait_for_exit().await, Some(0));
    assert!(node_entry(&other, &stops).await.is_null());
    eventually("the instance has ended for its visitor", async || {
        (visit(&other, &lost).await.status == 410).then_some(())
    })
    .await;
    assert_eq!(other.stats().await["ready"], 0);
    assert_eq!(processes_of(&stops.folder), []);
    other.call("POST", "/api/v1/demo/acquire", "").await;
}

#[tokio::test]
async fn while_a_server_shuts_down_the_others_claim_none_of_its_instances() {
    let Some(valkey) = ValkeyServer::start(Persistence::None, &[]) else { return };
    let other = start_full(&valkey, 0, &[]).await;
    let mut stops = start_full(&valkey, 2, &[("SHUTDOWN_GRACE", "3s")]).await;
    let mut in_flight = TcpStream::connect(("127.0.0.1", stops.port)).await.unwrap();
    let half = "POST /api/v1/demo/acquire HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{";
    in_flight.write_all(half.as_bytes()).await.unwrap();
    // After this answer the server has read the request on the first connection.
    stops.stats().await;
    stops.signal("TERM");
    eventually("it accepts no connection", async || {
        TcpStream::connect(("127.0.0.1", stops.port)).await.is_err().then_some(())
    })
    .await;
    let instance = other.acquire().await;
    assert!(!node_entry(&other, &stops).await.is_null(), "the server is still shutting down");
    assert_eq!(visit(&other, &instance).await.status, 200);
    assert_eq!(instance_folders(&other.folder), [instance.id]);
    assert_eq!(stops.wait_for_exit().await, Some(0));
}

#[tokio::test]
async fn a_drained_server_provisions_nothing_and_keeps_its_assigned_instances() {
    let Some(valkey) = ValkeyServer::start(Persistence::None, &[]) else { return };
    let (other, drained) = (start_full(&valkey, 1, &[]).await, start_full(&valkey, 2, &[]).await);
    let kept = drained.acquire().await;
    wait_for_assigned(&other, &drained, 1).await;
    let path = format!("/api/v1/nodes/{}/drain", drained.node());
    let answer = other.call("POST", &path, "").await;
    assert_eq!((answer.status, &answer.json()["draining"]), (200, &true.into()));
    wait_for_ready(&other, &drained, 0).await;
    assert_eq!(node_entry(&drained, &drained).await["draining"], true);
    eventually("only the assigned instance is left", async || {
        (instance_folders(&drained.folder) == [kept.id.clone()]).then_some(())
    })
    .await;
    assert_eq!(visit(&other, &kept).await.status, 200);
    // An acquire at the drained server gets an instance of another server.
    let elsewhere = drained.acquire().await;
    assert!(instance_folders(&other.folder).contains(&elsewhere.id));
    assert_eq!(visit(&drained, &elsewhere).await.status, 200);
    assert_eq!(drained.call("DELETE", &format!("/api/v1/demo/{}", kept.id), "").await.status, 200);
    eventually("the server has no instance", async || {
        instance_folders(&drained.folder).is_empty().then_some(())
    })
    .await;
    assert_eq!(drained.call("DELETE", &path, "").await.status, 200);
    wait_for_ready(&other, &drained, 2).await;
}

#[tokio::test]
async fn an_outage_of_the_store_ends_no_instance() {
    let Some(mut valkey) = ValkeyServer::start(Persistence::AppendOnly, &[]) else { return };
    let timeout = Duration::from_secs(2);
    let short_timeout = [("NODE_TIMEOUT", "2s")];
    let (one, other) =
        (start_full(&valkey, 1, &short_timeout).await, start_full(&valkey, 1, &short_timeout).await);
    let instances = [one.acquire().await, other.acquire().await];
    wait_for_ready(&one, &one, 1).await;
    wait_for_ready(&one, &other, 1).await;
    let assert_all_served = async || {
        for instance in &instances {
            assert_eq!(visit(&one, instance).await.status, 200);
            assert_eq!(visit(&other, instance).await.status, 200);
        }
    };
    assert_all_served().await;
    valkey.kill();
    let away = Instant::now();
    while away.elapsed() < 2 * timeout {
        one.call("POST", "/api/v1/demo/acquire", "").await.assert_error(503, "STORE_UNAVAILABLE");
        assert_all_served().await;
    }
    valkey.restart();
    let back = Instant::now();
    eventually("the store is reachable again", async || {
        let answer = one.call("GET", "/api/v1/nodes", "").await;
        (answer.status == 200).then_some(())
    })
    .await;
    while back.elapsed() < 2 * timeout {
        assert_all_served().await;
        for of in [&one, &other] {
            assert_eq!(node_entry(&other, of).await["alive"], true);
        }
    }
    assert_eq!(one.stats().await["assigned"], 2);
}

/// While the server is cut off, its visitors keep their instances. An evicted instance is not assigned again.
#[tokio::test]
async fn a_server_that_was_cut_off_from_the_store_ends_its_evicted_instances() {
    let Some(valkey) = ValkeyServer::start(Persistence::None, &[]) else { return };
    let proxy = FaultProxy::to(valkey.address()).await;
    let through = proxy.address.to_string();
    let short_timeout = [("NODE_TIMEOUT", "2s"), ("POOL_REPLENISH_THRESHOLD", "1")];
    let here = start_full(&valkey, 2, &short_timeout).await;
    let there = start_full(&valkey, 2, &[&short_timeout[..], &[("VALKEY_ADDR", &through)]].concat()).await;
    for fault in [Fault::Silent, Fault::Refuse] {
        let (safe, lost) = (here.acquire().await, there.acquire().await);
        wait_for_ready(&here, &there, 2).await;
        assert_eq!(visit(&here, &lost).await.status, 200);
        let before = instance_folders(&there.folder);
        proxy.set(fault);
        proxy.reset_connections();
        eventually("the node is evicted", async || {
            assert_eq!(
                visit(&there, &lost).await.status,
                200,
                "the server serves the instances that it knows"
            );
            assert_eq!(visit(&here, &safe).await.status, 200);
            node_entry(&here, &there).await.is_null().then_some(())
        })
        .await;
        assert_eq!(visit(&here, &lost).await.status, 410);
        there.call("POST", "/api/v1/demo/acquire", "").await.assert_error(503, "STORE_UNAVAILABLE");
        proxy.set(Fault::None);
        proxy.reset_connections();
        wait_for_ready(&here, &there, 2).await;
        eventually("its evicted instances have ended there too", async || {
            let left = instance_folders(&there.folder);
            (before.iter().all(|old| !left.contains(old)) && visit(&there, &lost).await.status == 410)
                .then_some(())
        })
        .await;
        assert_eq!(visit(&there, &safe).await.status, 200);
        assert_eq!(there.call("DELETE", &format!("/api/v1/demo/{}", safe.id), "").await.status, 200);
        wait_for_ready(&here, &here, 2).await;
    }
}

#[tokio::test]
async fn every_server_returns_the_same_credentials() {
    let Some(valkey) = ValkeyServer::start(Persistence::None, &[]) else { return };
    let program = env!("CARGO_BIN_EXE_try-it-now");
    let file = format!(
        "[templates.shop]\ncommand = [\"{program}\", \"sample-app\"]\n[templates.shop.hooks]\nrandom = {{ KEY = 16 }}\n\
         credentials = \"Log in with {{KEY}}\"\n"
    );
    let address = valkey.host_and_port();
    let with = async |target| {
        let settings = [("VALKEY_ADDR", &*address), ("POOL_TARGET_SIZE", target), ("POOL_MIN_SIZE", "0")];
        Server::with_file(&settings, &file).await
    };
    let (here, there) = (with("0").await, with("1").await);
    wait_for_ready(&here, &there, 1).await;
    let handed = here.call("POST", "/api/v1/demo/acquire", "").await.json();
    let credentials = handed["credentials"].as_str().unwrap();
    assert_eq!(credentials.len(), "Log in with ".len() + 16, "{credentials}");
    let path = format!("/api/v1/demo/{}", handed["id"].as_str().unwrap());
    assert_eq!(there.call("GET", &path, "").await.json()["credentials"], credentials);
}
