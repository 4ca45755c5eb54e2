//! Servers that share a Valkey: each hands out what the others have, and one that is gone is missed by its own visitors
//! only.

use std::time::Duration;

use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::cluster::valkey::address;
use crate::support::fault_proxy::{Fault, Proxy};
use crate::support::harness::{
    Answer, Demo, Server, eventually, get, instance_folders, processes_of, request,
};
use crate::support::valkey_server::{Keeps, Server as Valkey};

/// What a busy machine may take longer than the time that was promised.
const SLACK: Duration = Duration::from_secs(2);
const NODE_TIMEOUT: Duration = Duration::from_secs(5);

/// A server with this many ready instances, and room for a few more.
async fn keeps(valkey: &Valkey, target: usize, more: &[(&str, &str)]) -> Server {
    let (target, address) = (target.to_string(), address(valkey));
    let settings = [("VALKEY_ADDR", &*address), ("POOL_TARGET_SIZE", &*target), ("POOL_MIN_SIZE", "0")];
    Server::start_with(&[&settings[..], more].concat(), &[]).await
}

/// The same when its own pool is as it should be.
async fn full(valkey: &Valkey, target: usize, more: &[(&str, &str)]) -> Server {
    let server = keeps(valkey, target, more).await;
    has_ready(&server, &server, target).await;
    server
}

/// The page of an instance, by way of any server: only the port tells which.
async fn visit(by: &Server, demo: &Demo) -> Answer {
    let name = demo.host.split(':').next().unwrap();
    get(by.port, &format!("{name}:{}", by.port), "/").await
}

/// What `asked` says of the node of another, `null` when that is not on record.
async fn node(asked: &Server, of: &Server) -> Value {
    let answer = asked.call("GET", "/api/v1/nodes", "").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let nodes = answer.json()["nodes"].as_array().unwrap().clone();
    nodes.into_iter().find(|node| node["id"] == of.node()).unwrap_or_default()
}

async fn has_ready(asked: &Server, of: &Server, count: usize) {
    eventually("its pool is as it should be", async || {
        let node = node(asked, of).await;
        (node["pools"][0]["ready"] == count && node["pools"][0]["warming"] == 0).then_some(())
    })
    .await;
}

async fn until_gone(asked: &Server, of: &Server) {
    eventually("it is no longer on record", async || node(asked, of).await.is_null().then_some(())).await;
}

#[tokio::test]
async fn what_another_server_has_is_handed_out_visited_and_given_back_here() {
    let Some(valkey) = Valkey::start(Keeps::Nothing, &[]) else { return };
    let (here, there) = (full(&valkey, 0, &[]).await, full(&valkey, 2, &[]).await);
    let demos = [here.acquire().await, here.acquire().await];
    for demo in &demos {
        for server in [&here, &there] {
            assert_eq!(visit(server, demo).await.status, 200);
            let told = server.call("GET", &format!("/api/v1/demo/{}", demo.id), "").await.json();
            assert_eq!(told["state"], "assigned");
        }
    }
    has_ready(&here, &there, 2).await;
    assert_eq!(instance_folders(&here.folder), [""; 0], "all of them run there");
    for demo in &demos {
        assert_eq!(here.call("DELETE", &format!("/api/v1/demo/{}", demo.id), "").await.status, 200);
        assert_eq!(visit(&here, demo).await.status, 404);
    }
    eventually("its own server takes it down", async || {
        let left = instance_folders(&there.folder);
        demos.iter().all(|demo| !left.contains(&demo.id)).then_some(())
    })
    .await;
    for demo in &demos {
        assert_eq!(visit(&there, demo).await.status, 404);
    }
    assert_eq!(there.stats().await["assigned"], 0);
}

#[tokio::test]
async fn an_instance_that_another_server_sees_expire_is_taken_down_by_its_own() {
    let Some(valkey) = Valkey::start(Keeps::Nothing, &[]) else { return };
    let short = [("POOL_DEFAULT_TTL", "1s"), ("POOL_MAX_TTL", "1s")];
    let (here, there) = (full(&valkey, 0, &short).await, full(&valkey, 1, &short).await);
    // Whoever sees it first ends it, now one and now the other.
    for _ in 0..3 {
        has_ready(&here, &there, 1).await;
        let demo = here.acquire().await;
        assert_eq!(visit(&here, &demo).await.status, 200);
        eventually("its time is over", async || (visit(&there, &demo).await.status == 410).then_some(()))
            .await;
        eventually("it is taken down", async || {
            (!instance_folders(&there.folder).contains(&demo.id)).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn the_servers_are_listed_and_the_pools_are_summed() {
    let Some(valkey) = Valkey::start(Keeps::Nothing, &[]) else { return };
    let (one, other) = (full(&valkey, 1, &[]).await, full(&valkey, 2, &[("POOL_MAX_SIZE", "5")]).await);
    let demo = other.acquire().await;
    has_ready(&one, &other, 1).await;
    for server in [&one, &other] {
        let it = node(server, &other).await;
        assert_eq!(it["address"], format!("127.0.0.1:{}", other.port));
        assert_eq!((it["mode"].as_str(), it["alive"].as_bool()), (Some("process"), Some(true)));
        assert_eq!(it["draining"], false);
        assert_eq!(it["self"], server.node() == other.node());
        assert!(it["last_seen_ms"].as_u64().unwrap() < 3_000, "{it}");
        let pool = serde_json::json!(
            {"template": "default", "ready": 1, "warming": 0, "assigned": 1, "target": 2, "capacity": 5}
        );
        assert_eq!(it["pools"], serde_json::json!([pool]));
    }
    eventually("each knows what the other wants", async || {
        let sums = [one.stats().await, other.stats().await];
        sums.iter()
            .all(|sum| {
                let number = |name: &str| sum[name].as_u64().unwrap();
                ["ready", "assigned", "target", "capacity"].map(number) == [2, 1, 3, 25]
            })
            .then_some(())
    })
    .await;
    assert_eq!(visit(&one, &demo).await.status, 200);
}

#[tokio::test]
async fn the_list_of_servers_needs_the_key_and_knows_its_methods() {
    let server = Server::start_with(&[("API_KEY", "hunter2hunter2")], &[]).await;
    let path = format!("/api/v1/nodes/{}/drain", server.node());
    for (method, path) in [("GET", "/api/v1/nodes"), ("POST", &*path), ("DELETE", &*path)] {
        server.call(method, path, "").await.refused(401, "UNAUTHORIZED");
    }
    let key = [("x-api-key", "hunter2hunter2")];
    let nodes = server.ask("GET", "/api/v1/nodes", &key, "").await.json();
    assert_eq!(nodes["nodes"].as_array().unwrap().len(), 1, "a server without a Valkey is alone");
    assert_eq!(nodes["nodes"][0]["self"], true);
    server.ask("GET", &path, &key, "").await.refused(405, "METHOD_NOT_ALLOWED");
    for unknown in ["/api/v1/nodes/nobody/drain", "/api/v1/nodes/.../drain"] {
        server.ask("POST", unknown, &key, "").await.refused(404, "NOT_FOUND");
    }
}

#[tokio::test]
async fn when_a_server_is_killed_its_visitors_are_told_and_nobody_else_notices() {
    let Some(valkey) = Valkey::start(Keeps::Nothing, &[]) else { return };
    let (survivor, mut victim) = (full(&valkey, 2, &[]).await, full(&valkey, 2, &[]).await);
    let (safe, lost) = (survivor.acquire().await, victim.acquire().await);
    has_ready(&survivor, &survivor, 1).await;
    assert_eq!(visit(&survivor, &lost).await.status, 200);
    let folder = victim.keep_folder();
    victim.signal("KILL");
    let killed = Instant::now();
    victim.ended().await;
    eventually("its visitor is told", async || (visit(&survivor, &lost).await.status == 410).then_some(()))
        .await;
    assert!(killed.elapsed() <= NODE_TIMEOUT + SLACK, "{:?}", killed.elapsed());
    let told = survivor.call("GET", &format!("/api/v1/demo/{}", lost.id), "").await.json();
    assert_eq!((&told["state"], &told["reason"]), (&"expired".into(), &"failed".into()));
    let name = lost.host.split(':').next().unwrap();
    let host = format!("{name}:{}", survivor.port);
    let page = request(survivor.port, "GET", &host, "/", &[("accept", "text/html")], "").await;
    assert_eq!(page.status, 410);
    let button = format!("action=\"http://localhost:{}/try/default\"", survivor.port);
    assert!(page.text().contains(&button) && page.text().contains("Start again"), "{}", page.text());
    assert_eq!(visit(&survivor, &safe).await.status, 200);
    until_gone(&survivor, &victim).await;
    let stats = survivor.stats().await;
    assert_eq!((&stats["assigned"], &stats["target"]), (&1.into(), &2.into()), "{stats}");

    let address = address(&valkey);
    let settings = [("VALKEY_ADDR", &*address), ("POOL_TARGET_SIZE", "2")];
    let back = Server::start_in(folder, &settings, &[]).await;
    assert_eq!(back.node(), victim.node());
    has_ready(&survivor, &back, 2).await;
    assert_eq!(visit(&back, &lost).await.status, 410);
    assert_eq!(visit(&back, &safe).await.status, 200);
}

#[tokio::test]
async fn a_server_that_stood_still_for_too_long_ends_what_is_nobodys_any_more() {
    let Some(valkey) = Valkey::start(Keeps::Nothing, &[]) else { return };
    let quick = [("NODE_TIMEOUT", "2s")];
    let (other, still) = (full(&valkey, 0, &quick).await, full(&valkey, 2, &quick).await);
    let lost = still.acquire().await;
    has_ready(&other, &still, 1).await;
    let before = instance_folders(&still.folder);
    still.signal("STOP");
    until_gone(&other, &still).await;
    assert_eq!(visit(&other, &lost).await.status, 410);
    still.signal("CONT");
    has_ready(&other, &still, 2).await;
    eventually("what it had is taken down", async || {
        let now = instance_folders(&still.folder);
        before.iter().all(|old| !now.contains(old)).then_some(())
    })
    .await;
    assert_eq!(visit(&still, &lost).await.status, 410);
    let fresh = other.acquire().await;
    assert_eq!(visit(&other, &fresh).await.status, 200);
}

#[tokio::test]
async fn a_server_that_stops_tells_the_others_at_once() {
    let Some(valkey) = Valkey::start(Keeps::Nothing, &[]) else { return };
    let (other, mut stops) = (full(&valkey, 0, &[]).await, full(&valkey, 2, &[]).await);
    let lost = other.acquire().await;
    stops.signal("TERM");
    assert_eq!(stops.ended().await, Some(0));
    assert!(node(&other, &stops).await.is_null());
    eventually("its visitor is told", async || (visit(&other, &lost).await.status == 410).then_some(()))
        .await;
    assert_eq!(other.stats().await["ready"], 0);
    assert_eq!(processes_of(&stops.folder), []);
    other.call("POST", "/api/v1/demo/acquire", "").await;
}

#[tokio::test]
async fn while_a_server_stops_the_others_give_out_nothing_of_it() {
    let Some(valkey) = Valkey::start(Keeps::Nothing, &[]) else { return };
    let other = full(&valkey, 0, &[]).await;
    let mut stops = full(&valkey, 2, &[("SHUTDOWN_GRACE", "3s")]).await;
    let mut in_flight = TcpStream::connect(("127.0.0.1", stops.port)).await.unwrap();
    let half = "POST /api/v1/demo/acquire HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{";
    in_flight.write_all(half.as_bytes()).await.unwrap();
    // Another request on another connection, answered: by now the first one has been read.
    stops.stats().await;
    stops.signal("TERM");
    eventually("it takes nobody", async || {
        TcpStream::connect(("127.0.0.1", stops.port)).await.is_err().then_some(())
    })
    .await;
    let demo = other.acquire().await;
    assert!(!node(&other, &stops).await.is_null(), "it has not stopped yet");
    assert_eq!(visit(&other, &demo).await.status, 200);
    assert_eq!(instance_folders(&other.folder), [demo.id]);
    assert_eq!(stops.ended().await, Some(0));
}

#[tokio::test]
async fn a_drained_server_makes_nothing_and_what_it_has_finishes() {
    let Some(valkey) = Valkey::start(Keeps::Nothing, &[]) else { return };
    let (other, drained) = (full(&valkey, 1, &[]).await, full(&valkey, 2, &[]).await);
    let kept = drained.acquire().await;
    has_ready(&other, &drained, 1).await;
    let path = format!("/api/v1/nodes/{}/drain", drained.node());
    let answer = other.call("POST", &path, "").await;
    assert_eq!((answer.status, &answer.json()["draining"]), (200, &true.into()));
    has_ready(&other, &drained, 0).await;
    assert_eq!(node(&drained, &drained).await["draining"], true);
    eventually("nothing but the visitor's is left", async || {
        (instance_folders(&drained.folder) == [kept.id.clone()]).then_some(())
    })
    .await;
    assert_eq!(visit(&other, &kept).await.status, 200);
    // Who asks there is served from elsewhere.
    let elsewhere = drained.acquire().await;
    assert!(instance_folders(&other.folder).contains(&elsewhere.id));
    assert_eq!(visit(&drained, &elsewhere).await.status, 200);
    assert_eq!(drained.call("DELETE", &format!("/api/v1/demo/{}", kept.id), "").await.status, 200);
    eventually("it is empty", async || instance_folders(&drained.folder).is_empty().then_some(())).await;
    assert_eq!(drained.call("DELETE", &path, "").await.status, 200);
    has_ready(&other, &drained, 2).await;
}

#[tokio::test]
async fn an_outage_of_the_store_ends_nobodys_instances() {
    let Some(mut valkey) = Valkey::start(Keeps::Changes, &[]) else { return };
    let timeout = Duration::from_secs(2);
    let quick = [("NODE_TIMEOUT", "2s")];
    let (one, other) = (full(&valkey, 1, &quick).await, full(&valkey, 1, &quick).await);
    let demos = [one.acquire().await, other.acquire().await];
    has_ready(&one, &one, 1).await;
    has_ready(&one, &other, 1).await;
    let all_are_served = async || {
        for demo in &demos {
            assert_eq!(visit(&one, demo).await.status, 200);
            assert_eq!(visit(&other, demo).await.status, 200);
        }
    };
    all_are_served().await;
    valkey.kill();
    let away = Instant::now();
    while away.elapsed() < 2 * timeout {
        one.call("POST", "/api/v1/demo/acquire", "").await.refused(503, "STORE_UNAVAILABLE");
        all_are_served().await;
    }
    valkey.start_again();
    let back = Instant::now();
    eventually("they are heard again", async || {
        let answer = one.call("GET", "/api/v1/nodes", "").await;
        (answer.status == 200).then_some(())
    })
    .await;
    while back.elapsed() < 2 * timeout {
        all_are_served().await;
        for of in [&one, &other] {
            assert_eq!(node(&other, of).await["alive"], true);
        }
    }
    assert_eq!(one.stats().await["assigned"], 2);
}

/// Its visitors go on there while it is cut off; nobody gets what the others have declared dead.
#[tokio::test]
async fn a_server_that_was_cut_off_from_the_store_ends_what_is_nobodys_any_more() {
    let Some(valkey) = Valkey::start(Keeps::Nothing, &[]) else { return };
    let link = Proxy::to(valkey.address()).await;
    let through = link.address.to_string();
    let quick = [("NODE_TIMEOUT", "2s"), ("POOL_REPLENISH_THRESHOLD", "1")];
    let here = full(&valkey, 2, &quick).await;
    let there = full(&valkey, 2, &[&quick[..], &[("VALKEY_ADDR", &through)]].concat()).await;
    for fault in [Fault::Silent, Fault::Refused] {
        let (safe, lost) = (here.acquire().await, there.acquire().await);
        has_ready(&here, &there, 2).await;
        assert_eq!(visit(&here, &lost).await.status, 200);
        let before = instance_folders(&there.folder);
        link.set(fault);
        link.cut();
        eventually("it is missed", async || {
            assert_eq!(visit(&there, &lost).await.status, 200, "it serves what it knows of");
            assert_eq!(visit(&here, &safe).await.status, 200);
            node(&here, &there).await.is_null().then_some(())
        })
        .await;
        assert_eq!(visit(&here, &lost).await.status, 410);
        there.call("POST", "/api/v1/demo/acquire", "").await.refused(503, "STORE_UNAVAILABLE");
        link.set(Fault::Whole);
        link.cut();
        has_ready(&here, &there, 2).await;
        eventually("what it had is over there, too", async || {
            let left = instance_folders(&there.folder);
            (before.iter().all(|old| !left.contains(old)) && visit(&there, &lost).await.status == 410)
                .then_some(())
        })
        .await;
        assert_eq!(visit(&there, &safe).await.status, 200);
        assert_eq!(there.call("DELETE", &format!("/api/v1/demo/{}", safe.id), "").await.status, 200);
        has_ready(&here, &here, 2).await;
    }
}

#[tokio::test]
async fn what_a_visitor_logs_in_with_is_told_by_whichever_server_is_asked() {
    let Some(valkey) = Valkey::start(Keeps::Nothing, &[]) else { return };
    let program = env!("CARGO_BIN_EXE_try-it-now");
    let file = format!(
        "[templates.shop]\ncommand = [\"{program}\", \"sample-app\"]\n[templates.shop.hooks]\nrandom = {{ KEY = 16 }}\n\
         credentials = \"Log in with {{KEY}}\"\n"
    );
    let address = address(&valkey);
    let with = async |target| {
        let settings = [("VALKEY_ADDR", &*address), ("POOL_TARGET_SIZE", target), ("POOL_MIN_SIZE", "0")];
        Server::with_file(&settings, &file).await
    };
    let (here, there) = (with("0").await, with("1").await);
    has_ready(&here, &there, 1).await;
    let handed = here.call("POST", "/api/v1/demo/acquire", "").await.json();
    let credentials = handed["credentials"].as_str().unwrap();
    assert_eq!(credentials.len(), "Log in with ".len() + 16, "{credentials}");
    let path = format!("/api/v1/demo/{}", handed["id"].as_str().unwrap());
    assert_eq!(there.call("GET", &path, "").await.json()["credentials"], credentials);
}
