//! An engine that is away for a while, and one that is started again.

use try_it_now::runtime::engine::EngineKind;

use super::{EngineHost, PHP_READY};
use crate::containers::{FULL_TIMEOUT, post_note, read_page, release, shut_down};
use crate::support::engine_stack::{EngineProxy, engine_socket, socket_variable};
use crate::support::harness::{AcquiredInstance, Server, eventually_within, get};
use crate::support::private_docker::PrivateDocker;

/// Acquires an instance as soon as one is ready.
async fn acquire(server: &Server) -> AcquiredInstance {
    eventually_within(FULL_TIMEOUT, "an instance is acquired", async || {
        let answer = server.call("POST", "/api/v1/demo/acquire", "").await;
        (answer.status == 200).then(|| AcquiredInstance::from_json(&answer.json()))
    })
    .await
}

/// Docker only: Podman's limits are read from the process at the other end of the socket, which is this test here.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_is_away_only_pauses_the_supply() {
    let kind = EngineKind::Docker;
    let Some(engine) = engine_socket(kind) else { return };
    let mut proxy = EngineProxy::to(engine.clone());
    let host = EngineHost::new(kind, engine, "php", PHP_READY);
    let socket = format!("unix://{}", proxy.path.display());
    let seen = [(socket_variable(kind), socket.as_str())];
    let mut server = host.start_server(&seen).await.full_within(FULL_TIMEOUT).await;
    let a = server.acquire().await;
    post_note(server.port, &a, "before").await;
    let (_, ready) = host.settled(&server, 2).await;

    proxy.close().await;
    // An acquire asks nothing of the engine, and visitors do not notice that it is away.
    let (b, c) = (server.acquire().await, server.acquire().await);
    assert!(ready.contains(&b.id) && ready.contains(&c.id), "{ready:?} {b:?} {c:?}");
    post_note(server.port, &b, "meanwhile").await;
    assert_eq!(read_page(server.port, &a).await, (1, vec!["before".to_owned()]));
    // A release holds although the container cannot be removed yet.
    release(&server, &c.id).await;
    assert_eq!(get(server.port, &c.host, "/").await.status, 404);
    server.log_until(|line| line.contains("event stream failed")).await;
    let answer = server.call("POST", "/api/v1/demo/acquire", "").await;
    answer.assert_error(503, "POOL_EXHAUSTED");

    proxy.open();
    let d = acquire(&server).await;
    assert_eq!(read_page(server.port, &d).await, (1, vec![]));
    let (assigned, _) = host.settled(&server, 2).await;
    assert_eq!(assigned, [&a, &b, &d].map(|instance| instance.id.clone()).into());
    assert_eq!(read_page(server.port, &b).await.1, ["meanwhile"]);
    for id in &assigned {
        release(&server, id).await;
    }
    shut_down(&mut server).await;
    host.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_of_docker_that_ends_all_containers_fills_the_pool_again() {
    let Some(mut docker) = PrivateDocker::start(false).await else { return };
    let host = EngineHost::new(EngineKind::Docker, docker.socket.clone(), "php", PHP_READY);
    let mut server = host.start_server(&[]).await.full_within(FULL_TIMEOUT).await;
    let lost = server.acquire().await;
    post_note(server.port, &lost, "lost").await;
    let (_, before) = host.settled(&server, 2).await;

    docker.stop().await;
    eventually_within(FULL_TIMEOUT, "nothing is ready", async || {
        (server.stats().await["ready"] == 0).then_some(())
    })
    .await;
    // The server answers while there is no engine.
    server.call("POST", "/api/v1/demo/acquire", "").await.assert_error(503, "POOL_EXHAUSTED");
    docker.start_daemon().await;

    let next = acquire(&server).await;
    assert_eq!(read_page(server.port, &next).await, (1, vec![]));
    let (assigned, ready) = host.settled(&server, 2).await;
    assert_eq!(assigned, [next.id.clone()].into());
    assert!(ready.is_disjoint(&before), "{ready:?} {before:?}");
    assert_eq!(get(server.port, &lost.host, "/").await.status, 410);
    release(&server, &next.id).await;
    shut_down(&mut server).await;
    host.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_survive_a_kill_of_a_docker_with_live_restore() {
    let Some(mut docker) = PrivateDocker::start(true).await else { return };
    let host = EngineHost::new(EngineKind::Docker, docker.socket.clone(), "php", PHP_READY);
    let mut server = host.start_server(&[]).await.full_within(FULL_TIMEOUT).await;
    let instance = server.acquire().await;
    post_note(server.port, &instance, "kept").await;
    let before = host.settled(&server, 2).await;

    docker.kill().await;
    assert_eq!(read_page(server.port, &instance).await, (1, vec!["kept".to_owned()]));
    docker.start_daemon().await;
    assert_eq!(host.settled(&server, 2).await, before, "ready and assigned ones are kept");
    assert_eq!(read_page(server.port, &instance).await, (2, vec!["kept".to_owned()]));
    let next = server.acquire().await;
    assert!(before.1.contains(&next.id), "{next:?}");
    for id in [&instance.id, &next.id] {
        release(&server, id).await;
    }
    shut_down(&mut server).await;
    host.assert_nothing_left().await;
}
