//! The job of removing a container that could not be removed at once, across the death of its server.

use std::time::Duration;

use try_it_now::cluster::queue::jetstream::{JetStreamQueue, Settings};
use try_it_now::cluster::queue::{Lane, Queue};
use try_it_now::instance::NodeId;
use try_it_now::runtime::engine::EngineKind;

use super::{EngineHost, PHP_READY};
use crate::containers::{FULL_TIMEOUT, release};
use crate::support::engine_stack::{EngineProxy, containers_of, engine_socket, socket_variable};
use crate::support::harness::{eventually, eventually_within, get};
use crate::support::mariadb_server::{MariaDbServer, PASSWORD, USER, Version};
use crate::support::nats_server::NatsServer;
use crate::support::valkey_server::{Persistence, ValkeyServer};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removal_that_a_killed_server_left_as_a_job_is_done_when_it_returns() {
    let kind = EngineKind::Docker;
    let Some(socket) = engine_socket(kind) else { return };
    let Some(valkey) = ValkeyServer::start(Persistence::AppendOnly, &[]) else { return };
    let Some(nats) = NatsServer::start() else { return };
    let Some(mariadb) = MariaDbServer::start(Version::New).await else { return };
    let mut proxy = EngineProxy::to(socket.clone());
    let more = format!(
        "egress = \"internet\"\n{PHP_READY}[templates.php.database]\nenv.DB = \"{{DATABASE_NAME}}\"\n"
    );
    let host = EngineHost::new(kind, socket, "php", &more);
    let (through, address, url, database) =
        (format!("unix://{}", proxy.path.display()), valkey.host_and_port(), nats.url(), mariadb.host());
    let variables = [
        (socket_variable(kind), through.as_str()),
        ("VALKEY_ADDR", &address),
        ("NATS_URL", &url),
        ("PS_DB_HOST", &database),
        ("PS_DB_USER", USER),
        ("PS_DB_PASSWORD", PASSWORD),
        ("POOL_TARGET_SIZE", "1"),
    ];
    let mut server = host.start_server(&variables).await.full_within(FULL_TIMEOUT).await;
    let released = server.acquire().await;
    assert_eq!(get(server.port, &released.host, "/up").await.status, 200);
    let suffix = released.id.rsplit('-').next().unwrap();
    let has_database = async || mariadb.names().await.iter().any(|name| name.ends_with(suffix));
    let settings = Settings {
        servers: vec![url.clone()],
        credentials: None,
        stream: "PROVISIONING".to_owned(),
        ack_wait: Duration::from_secs(3),
    };
    let queue = JetStreamQueue::open(settings).await.unwrap();
    let lane = Lane::Cleanup(NodeId::parse(server.node()).unwrap());
    let jobs = async || {
        let backlog = queue.backlog(&lane).await.unwrap();
        backlog.pending + backlog.in_progress
    };

    proxy.close().await;
    release(&server, &released.id).await;
    eventually("the removal is a job", async || (jobs().await == 1).then_some(())).await;
    server.signal("KILL");
    server.wait_for_exit().await;
    server.keep_folder();
    proxy.open();
    assert!(containers_of(&host.socket, server.node()).await.contains(&released.id) && has_database().await);

    let again = host.start_server(&variables).await;
    assert_eq!(again.node(), server.node());
    eventually_within(FULL_TIMEOUT, "nothing of the instance is left", async || {
        let has_container = containers_of(&host.socket, again.node()).await.contains(&released.id);
        (!has_container && !has_database().await && jobs().await == 0).then_some(())
    })
    .await;
    assert!(queue.parked().await.unwrap().is_empty());
    let next = again.full_within(FULL_TIMEOUT).await;
    let fresh = next.acquire().await;
    assert_eq!(get(next.port, &fresh.host, "/up").await.status, 200);
}
