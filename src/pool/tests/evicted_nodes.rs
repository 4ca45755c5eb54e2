//! The databases of nodes that were evicted: dropped by those that stay, and kept where a node has come back.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::fixture::{Fixture, START};
use super::test_databases::TestDatabases;
use crate::instance::{Instance, InstanceId, NodeId};
use crate::pool::end::databases::sweep_evicted;
use crate::store::{NodeInfo, Store as _};

/// A node that was evicted, with the databases of an instance and of a seed.
struct Evicted {
    fixture: Fixture,
    id: NodeId,
    databases: Arc<TestDatabases>,
}

impl Evicted {
    async fn new() -> Self {
        let (fixture, id) = (Fixture::new().await, NodeId::parse("peer").unwrap());
        let databases = fixture.databases.others.lock().entry(id.clone()).or_default().clone();
        databases.add("t-aaaaaaaaaaaaaaaa");
        databases.add("seed");
        let evicted = Self { fixture, id, databases };
        evicted.send_heartbeat().await;
        evicted.fixture.store.evict_node(&evicted.id, Duration::ZERO).await.unwrap();
        evicted
    }

    async fn send_heartbeat(&self) {
        let info = NodeInfo {
            id: self.id.clone(),
            address: "peer.test:1".to_owned(),
            mode: "process".to_owned(),
            pools: Vec::new(),
        };
        self.fixture.store.heartbeat(&info).await.unwrap();
    }

    /// Sweeps, and returns how many databases were dropped.
    async fn sweep(&self) -> usize {
        sweep_evicted(&self.fixture.pool.supply).await.unwrap()
    }

    async fn is_known(&self) -> bool {
        !self.fixture.store.evicted_nodes().await.unwrap().is_empty()
    }
}

#[tokio::test]
async fn the_databases_of_a_node_that_never_returns_are_dropped_and_the_node_is_forgotten() {
    let evicted = Evicted::new().await;
    evicted.fixture.run_attempt().await;
    assert_eq!(evicted.sweep().await, 2);
    assert_eq!(evicted.databases.names(), [] as [&str; 0]);
    assert!(evicted.is_known().await, "until none is found");
    assert_eq!((evicted.sweep().await, evicted.is_known().await), (0, false));
    assert_eq!(evicted.fixture.databases.names().len(), 1, "those of this node stay");
}

#[tokio::test]
async fn a_node_that_is_only_slow_keeps_its_databases() {
    let fixture = Fixture::new().await;
    let id = NodeId::parse("peer").unwrap();
    let databases = fixture.databases.others.lock().entry(id).or_default().clone();
    databases.add("t-aaaaaaaaaaaaaaaa");
    assert_eq!(sweep_evicted(&fixture.pool.supply).await.unwrap(), 0);
    assert_eq!(databases.names().len(), 1);
}

#[tokio::test]
async fn a_node_that_comes_back_between_two_looks_keeps_its_databases() {
    let evicted = Evicted::new().await;
    let hanging = evicted.databases.hang_next_list();
    let (dropped, ()) = tokio::join!(evicted.sweep(), async {
        hanging.notified().await;
        // What it makes now may be among the databases that are being listed.
        evicted.send_heartbeat().await;
        evicted.databases.go_on();
    });
    assert_eq!((dropped, evicted.databases.names().len()), (0, 2));
    assert!(!evicted.is_known().await);
}

#[tokio::test]
async fn what_a_node_makes_before_its_first_heartbeat_after_an_eviction_stays() {
    let evicted = Evicted::new().await;
    let id = InstanceId::parse("t-bbbbbbbbbbbbbbbb").unwrap();
    let record = Instance::warming(id.clone(), evicted.id.clone(), 1, START);
    evicted.fixture.store.insert(record).await.unwrap();
    evicted.databases.add(id.as_str());
    assert_eq!(evicted.sweep().await, 2);
    assert_eq!(evicted.databases.names(), [id.as_str()]);
}

#[tokio::test]
async fn databases_that_cannot_be_dropped_now_are_dropped_later() {
    let evicted = Evicted::new().await;
    evicted.databases.failing_lists.store(1, Ordering::SeqCst);
    assert!(sweep_evicted(&evicted.fixture.pool.supply).await.is_err());
    assert!(evicted.is_known().await);
    assert_eq!(evicted.sweep().await, 2);
    evicted.fixture.store.down.store(true, Ordering::SeqCst);
    assert!(sweep_evicted(&evicted.fixture.pool.supply).await.is_err());
    evicted.fixture.store.down.store(false, Ordering::SeqCst);
    assert_eq!((evicted.sweep().await, evicted.is_known().await), (0, false));
}
