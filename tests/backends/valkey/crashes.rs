//! Valkey is killed and restarted.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::time::timeout;
use try_it_now::clock::Clock;
use try_it_now::instance::{ClaimToken, Instance, InstanceId, State};
use try_it_now::store::valkey::{Settings, ValkeyStore};
use try_it_now::store::{Claim, Claimed, Cursor, RouteEvents, Store, StoreError};
use try_it_now::telemetry::task::spawn;

use super::tcp;
use crate::suites::store::fixture::{new_claim, node, template};
use crate::suites::store::nodes::node_info;
use crate::support::valkey_server::{MAX_WAIT, Persistence, ValkeyServer};

const READY: usize = 600;
const CLIENTS: usize = 8;

/// Repeats a claim until there is an answer. Returns the answer and how many attempts had none.
async fn claim_until_answered(store: &ValkeyStore, claim: &Claim) -> (Claimed, usize) {
    let mut unanswered = 0;
    let asking = async {
        loop {
            match store.claim(claim).await {
                Ok(claimed) => return claimed,
                Err(StoreError::Unavailable(_)) => unanswered += 1,
                Err(other) => panic!("{other}"),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let claimed = timeout(MAX_WAIT, asking).await.expect("the store recovers");
    (claimed, unanswered)
}

/// Valkey writes the append-only file before it sends an answer, and what a process has written outlives it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_kill_of_valkey_loses_and_duplicates_nothing_that_it_has_written() {
    let Some(mut server) = ValkeyServer::start(Persistence::AppendOnly, &[]) else { return };
    let settings =
        Settings { addresses: vec![tcp(server.address())], node: node("a"), ..Settings::default() };
    let store = Arc::new(ValkeyStore::new(settings));
    let now = Clock::System.now();
    for n in 0..READY as u32 {
        let id = InstanceId::random(&template("shop"));
        store.insert(Instance::warming(id.clone(), node("a"), 1, now)).await.unwrap();
        store.offer(&id, ([10, 0, (n >> 8) as u8, n as u8], 4000).into()).await.unwrap();
    }
    let granted: Arc<Mutex<Vec<(ClaimToken, InstanceId)>>> = Arc::default();
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (store, granted, stop) = (store.clone(), granted.clone(), stop.clone());
            spawn("client", async move {
                let mut unanswered = 0;
                while !stop.load(Ordering::Relaxed) {
                    let claim = Claim { ttl: Duration::from_secs(600), ..new_claim() };
                    let (claimed, again) = claim_until_answered(&store, &claim).await;
                    unanswered += again;
                    match claimed {
                        Claimed::Granted { instance, .. } => {
                            granted.lock().push((claim.token, instance.id().clone()));
                        }
                        _ => return unanswered,
                    }
                    // Slow enough that ready instances are left at each crash.
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                unanswered
            })
        })
        .collect();
    for _ in 0..3 {
        let (before, enough) = (granted.lock().len(), 50);
        let claiming = async {
            while granted.lock().len() < before + enough {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        timeout(MAX_WAIT, claiming).await.expect("claims are granted");
        server = tokio::task::spawn_blocking(move || {
            server.kill();
            server.restart();
            server
        })
        .await
        .unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    let unanswered: usize = join_all(clients).await.into_iter().map(Result::unwrap).sum();
    assert!(unanswered > 0, "no claim was interrupted by a crash");

    let granted = granted.lock().clone();
    let by_id: HashMap<_, _> = granted.iter().map(|(token, id)| (id.clone(), *token)).collect();
    assert_eq!(by_id.len(), granted.len(), "an instance was granted twice");
    let records = store.list(&node("a")).await.unwrap();
    assert_eq!(records.len(), READY, "a record was lost");
    for record in &records {
        let token = match record.state() {
            State::Assigned { lease, .. } => Some(lease.token()),
            _ => None,
        };
        assert_eq!(by_id.get(record.id()).copied(), token, "{record:?}");
    }
    let counts = store.counts(&template("shop"), None).await.unwrap();
    assert_eq!((counts.ready, counts.assigned), (READY - granted.len(), granted.len()));
}

/// The store restores the assigned instances, and the ready ones too, because it is the only node.
#[tokio::test]
async fn an_empty_valkey_gets_its_records_back_and_followers_see_a_gap() {
    let Some(mut server) = ValkeyServer::start(Persistence::AppendOnly, &[]) else { return };
    let settings =
        Settings { addresses: vec![tcp(server.address())], node: node("a"), ..Settings::default() };
    let store = ValkeyStore::new(settings);
    let ready = async |n: u8| {
        let id = InstanceId::random(&template("shop"));
        let new = Instance::warming(id.clone(), node("a"), 1, Clock::System.now());
        store.insert(new).await.unwrap();
        store.offer(&id, ([10, 0, 0, n], 4000).into()).await.unwrap();
        id
    };
    ready(1).await;
    let claim = Claim { ttl: Duration::from_secs(600), ..new_claim() };
    let claimed = store.claim(&claim).await.unwrap();
    let assigned = claimed.instance().unwrap().clone();
    let waiting = ready(2).await;
    let (_, cursor) = store.routes().await.unwrap();
    assert!(cursor > Cursor(0));
    server.lose_data();
    server.restart();
    assert_eq!(store.claim(&claim).await, Ok(claimed));
    assert_eq!(store.route_events(cursor, Duration::ZERO).await, Ok(RouteEvents::Gap));
    let (routes, after) = store.routes().await.unwrap();
    assert!(routes == [assigned.clone()] && after > cursor, "{after:?}");
    assert_eq!(store.list(&node("a")).await.unwrap().len(), 2);
    assert_eq!(store.claim(&new_claim()).await.unwrap().instance().unwrap().id(), &waiting);
    assert_eq!(store.claim(&new_claim()).await, Ok(Claimed::Empty));
    assert_eq!(store.release(assigned.id()).await.unwrap().0, assigned);
}

/// Nodes that are alive must not lose trust in each other because Valkey lost its data.
#[tokio::test]
async fn an_empty_valkey_gets_the_secret_of_the_nodes_back() {
    let Some(server) = ValkeyServer::start(Persistence::None, &[]) else { return };
    let new = |name| {
        let settings =
            Settings { addresses: vec![tcp(server.address())], node: node(name), ..Settings::default() };
        ValkeyStore::new(settings)
    };
    let (one, other) = (new("a"), new("b"));
    let secret = one.heartbeat(&node_info("a")).await.unwrap().secret;
    assert_eq!(other.heartbeat(&node_info("b")).await.unwrap().secret, secret);
    server.query::<()>(&["FLUSHALL"]).unwrap();
    assert_eq!(other.heartbeat(&node_info("b")).await.unwrap().secret, secret);
    assert_eq!(one.heartbeat(&node_info("a")).await.unwrap().secret, secret);
    assert_eq!(one.routes().await.unwrap().0, []);
    assert_eq!(new("c").heartbeat(&node_info("c")).await.unwrap().secret, secret);
}
