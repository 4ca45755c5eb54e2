//! Servers that share a Valkey, with containers, which outlive their server.

use super::{FULL, Host, note, page, release, stop};
use crate::cluster::valkey::address;
use crate::support::harness::{Demo, Server, eventually, get};
use crate::support::valkey_server::{Keeps, Server as Valkey};

/// The same instance, by way of another server.
fn by(server: &Server, demo: &Demo) -> Demo {
    let host = demo.host.split(':').next().unwrap();
    Demo { host: format!("{host}:{}", server.port), ..demo.clone() }
}

/// An instance that `owner` runs, handed out by the other. One that has just come is not given those of others at once,
/// and makes its own.
async fn handed_out_by(other: &Server, owner: &Server) -> Demo {
    eventually("the other hands it out", async || {
        let demo = other.acquire().await;
        let nodes = other.call("GET", "/api/v1/nodes", "").await.json();
        let mut nodes = nodes["nodes"].as_array().unwrap().iter();
        if nodes.any(|node| node["id"] == owner.node() && node["pools"][0]["assigned"] == 1) {
            return Some(demo);
        }
        release(other, &demo.id).await;
        None
    })
    .await
}

#[tokio::test]
async fn what_a_visitor_has_survives_a_stop_of_its_server_and_is_reached_through_another() {
    let Some(valkey) = Valkey::start(Keeps::Nothing, &[]) else { return };
    let Some(host) = Host::php() else { return };
    let address = address(&valkey);
    let settings = |target| {
        let patient = ("NODE_TIMEOUT", "60s");
        [("VALKEY_ADDR", &*address), ("POOL_TARGET_SIZE", target), ("POOL_MIN_SIZE", "0"), patient]
    };
    let mut owner = host.serve(&settings("1")).await.full_within(FULL).await;
    let other = host.serve(&settings("0")).await;
    let demo = handed_out_by(&other, &owner).await;
    note(other.port, &by(&other, &demo), "kept").await;
    assert_eq!(page(owner.port, &by(&owner, &demo)).await, (1, vec!["kept".to_owned()]));
    let owner_name = owner.node().to_owned();
    stop(&mut owner).await;
    assert!(host.containers().contains(&demo.id));
    assert_eq!(get(other.port, &by(&other, &demo).host, "/").await.status, 502);

    let mut owner = host.serve(&settings("1")).await;
    assert_eq!(owner.node(), owner_name);
    eventually("it is reached again", async || {
        (get(other.port, &by(&other, &demo).host, "/up").await.status == 200).then_some(())
    })
    .await;
    assert_eq!(page(other.port, &by(&other, &demo)).await.1, ["kept"]);
    release(&other, &demo.id).await;
    eventually("its server takes it down", async || (!host.containers().contains(&demo.id)).then_some(()))
        .await;
    stop(&mut owner).await;
    drop(other);
    host.nothing_left().await;
}

#[tokio::test]
async fn containers_of_a_server_that_was_declared_dead_end_when_it_comes_back() {
    let Some(valkey) = Valkey::start(Keeps::Nothing, &[]) else { return };
    let Some(host) = Host::php() else { return };
    let address = address(&valkey);
    let settings = |target| {
        let quick = ("NODE_TIMEOUT", "2s");
        [("VALKEY_ADDR", &*address), ("POOL_TARGET_SIZE", target), ("POOL_MIN_SIZE", "0"), quick]
    };
    let mut owner = host.serve(&settings("1")).await.full_within(FULL).await;
    let other = host.serve(&settings("0")).await;
    let demo = handed_out_by(&other, &owner).await;
    assert_eq!(page(other.port, &by(&other, &demo)).await.0, 1);
    owner.signal("KILL");
    owner.ended().await;
    eventually("its visitor is told", async || {
        (get(other.port, &by(&other, &demo).host, "/").await.status == 410).then_some(())
    })
    .await;
    assert!(host.containers().contains(&demo.id), "nobody else can end it");
    let mut owner = host.serve(&settings("1")).await.full_within(FULL).await;
    eventually("it ends it", async || (!host.containers().contains(&demo.id)).then_some(())).await;
    assert_eq!(get(owner.port, &by(&owner, &demo).host, "/").await.status, 410);
    let fresh = other.acquire().await;
    assert_eq!(page(other.port, &by(&other, &fresh)).await.0, 1);
    stop(&mut owner).await;
    release(&other, &fresh.id).await;
    drop(other);
}
