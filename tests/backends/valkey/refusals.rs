//! A Valkey that answers and refuses: it is full, a replica, or wants another password. The error says which, and claims
//! are granted again as soon as it no longer refuses.

use std::time::Duration;

use tokio::time::Instant;
use try_it_now::clock::Clock;
use try_it_now::instance::{Instance, InstanceId};
use try_it_now::store::valkey::Settings;
use try_it_now::store::{Store, StoreError};

use super::recovery::{Node, settings, two_nodes, until_answered};
use crate::suites::store::fixture::{node, template};
use crate::suites::store::nodes::node_info;
use crate::support::valkey_server::{MAX_WAIT, Persistence, ValkeyServer};

/// Claims until the error has that text.
async fn refused_with(store: &Node, text: &str) {
    let begun = Instant::now();
    loop {
        let answer = store.store.claim(&store.claim()).await;
        if matches!(&answer, Err(StoreError::Unavailable(reason)) if reason.contains(text)) {
            return;
        }
        assert!(begun.elapsed() < MAX_WAIT, "{answer:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn ready(of: &Node) -> InstanceId {
    let id = InstanceId::random(&template("shop"));
    let new = Instance::warming(id.clone(), node(of.name), 1, Clock::System.now());
    of.store.insert(new).await.unwrap();
    of.store.offer(&id, super::recovery::endpoint()).await.unwrap();
    id
}

#[tokio::test]
async fn a_full_valkey_says_so_changes_nothing_by_halves_and_still_ends_instances() {
    let Some(server) = ValkeyServer::start(Persistence::None, &[]) else { return };
    let (a, _b) = two_nodes(&server, |settings| settings).await;
    let (first, second) = (ready(&a).await, ready(&a).await);
    let assigned = a.store.claim(&a.claim()).await.unwrap().instance().unwrap().clone();
    assert_eq!(assigned.id(), &first);
    server.query::<()>(&["CONFIG", "SET", "maxmemory", "1"]).unwrap();
    refused_with(&a, "Valkey is full: raise its maxmemory").await;
    assert_eq!(a.store.get(&second).await.unwrap().unwrap().state().name(), "ready");
    a.store.heartbeat(&node_info("a")).await.expect("heartbeats go on");
    a.store.release(&first).await.expect("a full store still ends instances");
    server.query::<()>(&["CONFIG", "SET", "maxmemory", "0"]).unwrap();
    let again = a.store.claim(&a.claim()).await.unwrap().instance().unwrap().clone();
    assert_eq!(again.id(), &second, "nothing was changed by halves");
}

#[tokio::test]
async fn a_read_only_replica_says_so_and_is_used_once_it_is_primary_again() {
    let Some(server) = ValkeyServer::start(Persistence::None, &[]) else { return };
    let (a, _b) = two_nodes(&server, |settings| settings).await;
    ready(&a).await;
    server.query::<()>(&["REPLICAOF", "127.0.0.1", "1"]).unwrap();
    refused_with(&a, "read-only replica").await;
    server.query::<()>(&["REPLICAOF", "NO", "ONE"]).unwrap();
    let claim = a.claim();
    let claimed = until_answered(async || a.store.claim(&claim).await).await.unwrap();
    assert!(claimed.instance().is_some(), "{claimed:?}");
}

#[tokio::test]
async fn a_valkey_with_another_password_says_so_and_is_used_when_it_has_the_former_one() {
    let Some(mut server) = ValkeyServer::start(Persistence::None, &[]) else { return };
    server.query::<()>(&["CONFIG", "SET", "requirepass", "first"]).unwrap();
    let with_password = Settings { password: Some("first".to_owned()), ..settings(&server, "a") };
    let a = Node { store: try_it_now::store::valkey::ValkeyStore::new(with_password).into(), name: "a" };
    a.store.heartbeat(&node_info("a")).await.unwrap();
    server.restart();
    refused_with(&a, "refuses the login: set VALKEY_USERNAME and VALKEY_PASSWORD").await;
    server.query::<()>(&["CONFIG", "SET", "requirepass", "first"]).unwrap();
    let claim = a.claim();
    until_answered(async || a.store.claim(&claim).await).await.unwrap();
}
