//! Servers with containers that share a Valkey. Containers outlive their server.

use super::{ContainerHost, FULL_TIMEOUT, post_note, read_page, release, shut_down};
use crate::support::harness::{AcquiredInstance, Server, eventually, get};
use crate::support::valkey_server::{Persistence, ValkeyServer};

/// Returns the same instance with the host of another server.
fn through(server: &Server, instance: &AcquiredInstance) -> AcquiredInstance {
    let host = instance.host.split(':').next().unwrap();
    AcquiredInstance { host: format!("{host}:{}", server.port), ..instance.clone() }
}

/// Acquires an instance from `other` that `owner` runs. A new server is not granted the instances of others at once and
/// provisions its own.
async fn acquire_foreign(other: &Server, owner: &Server) -> AcquiredInstance {
    eventually("the other server assigns an instance of the owner", async || {
        let instance = other.acquire().await;
        let nodes = other.call("GET", "/api/v1/nodes", "").await.json();
        let mut nodes = nodes["nodes"].as_array().unwrap().iter();
        if nodes.any(|node| node["id"] == owner.node() && node["pools"][0]["assigned"] == 1) {
            return Some(instance);
        }
        release(other, &instance.id).await;
        None
    })
    .await
}

#[tokio::test]
async fn an_assigned_instance_survives_a_shutdown_of_its_server_and_is_reached_through_another() {
    let Some(valkey) = ValkeyServer::start(Persistence::None, &[]) else { return };
    let Some(host) = ContainerHost::php() else { return };
    let address = valkey.host_and_port();
    let settings = |target| {
        let long_timeout = ("NODE_TIMEOUT", "60s");
        [("VALKEY_ADDR", &*address), ("POOL_TARGET_SIZE", target), ("POOL_MIN_SIZE", "0"), long_timeout]
    };
    let mut owner = host.start_server(&settings("1")).await.full_within(FULL_TIMEOUT).await;
    let mut other = host.start_server(&settings("0")).await;
    let instance = acquire_foreign(&other, &owner).await;
    post_note(other.port, &through(&other, &instance), "kept").await;
    assert_eq!(read_page(owner.port, &through(&owner, &instance)).await, (1, vec!["kept".to_owned()]));
    let owner_name = owner.node().to_owned();
    shut_down(&mut owner).await;
    assert!(host.containers().contains(&instance.id));
    assert_eq!(get(other.port, &through(&other, &instance).host, "/").await.status, 502);

    let mut owner = host.start_server(&settings("1")).await;
    assert_eq!(owner.node(), owner_name);
    eventually("the instance is reachable again", async || {
        (get(other.port, &through(&other, &instance).host, "/up").await.status == 200).then_some(())
    })
    .await;
    assert_eq!(read_page(other.port, &through(&other, &instance)).await.1, ["kept"]);
    release(&other, &instance.id).await;
    eventually("its server removes it", async || (!host.containers().contains(&instance.id)).then_some(()))
        .await;
    shut_down(&mut owner).await;
    // It bakes too. A kill in the middle would leave a container until its next start.
    shut_down(&mut other).await;
    host.assert_nothing_left().await;
}

#[tokio::test]
async fn containers_of_a_server_that_was_declared_dead_end_when_it_comes_back() {
    let Some(valkey) = ValkeyServer::start(Persistence::None, &[]) else { return };
    let Some(host) = ContainerHost::php() else { return };
    let address = valkey.host_and_port();
    let settings = |target| {
        let short_timeout = ("NODE_TIMEOUT", "2s");
        [("VALKEY_ADDR", &*address), ("POOL_TARGET_SIZE", target), ("POOL_MIN_SIZE", "0"), short_timeout]
    };
    let mut owner = host.start_server(&settings("1")).await.full_within(FULL_TIMEOUT).await;
    let other = host.start_server(&settings("0")).await;
    let instance = acquire_foreign(&other, &owner).await;
    assert_eq!(read_page(other.port, &through(&other, &instance)).await.0, 1);
    owner.signal("KILL");
    owner.wait_for_exit().await;
    eventually("the instance has ended for its visitor", async || {
        (get(other.port, &through(&other, &instance).host, "/").await.status == 410).then_some(())
    })
    .await;
    assert!(host.containers().contains(&instance.id), "only its own server can end it");
    let mut owner = host.start_server(&settings("1")).await.full_within(FULL_TIMEOUT).await;
    eventually("its server ends it", async || (!host.containers().contains(&instance.id)).then_some(()))
        .await;
    assert_eq!(get(owner.port, &through(&owner, &instance).host, "/").await.status, 410);
    let fresh = other.acquire().await;
    assert_eq!(read_page(other.port, &through(&other, &fresh)).await.0, 1);
    shut_down(&mut owner).await;
    release(&other, &fresh.id).await;
    drop(other);
}
