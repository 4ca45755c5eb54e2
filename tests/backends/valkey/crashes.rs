//! Valkey dies and comes back.

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
use crate::suites::store::fixture::{node, template, wish};
use crate::suites::store::nodes::card;
use crate::support::valkey_server::{Keeps, PATIENCE, Server};

const READY: usize = 600;
const CLIENTS: usize = 8;

/// Asks until there is an answer. Returns how often there was none, too.
async fn patiently(store: &ValkeyStore, claim: &Claim) -> (Claimed, usize) {
    let mut unsure = 0;
    let asking = async {
        loop {
            match store.claim(claim).await {
                Ok(claimed) => return claimed,
                Err(StoreError::Unavailable(_)) => unsure += 1,
                Err(other) => panic!("{other}"),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let claimed = timeout(PATIENCE, asking).await.expect("the store recovers");
    (claimed, unsure)
}

/// The append-only file is written before an answer is sent, and what a process has written outlives it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_kill_of_valkey_loses_and_doubles_nothing_that_it_has_written() {
    let Some(mut server) = Server::start(Keeps::Changes, &[]) else { return };
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
                let mut unsure = 0;
                while !stop.load(Ordering::Relaxed) {
                    let claim = Claim { ttl: Duration::from_secs(600), ..wish() };
                    let (claimed, again) = patiently(&store, &claim).await;
                    unsure += again;
                    match claimed {
                        Claimed::Granted { instance, .. } => {
                            granted.lock().push((claim.token, instance.id().clone()));
                        }
                        _ => return unsure,
                    }
                    // So that there is something left at each crash.
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                unsure
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
        timeout(PATIENCE, claiming).await.expect("claims are granted");
        server = tokio::task::spawn_blocking(move || {
            server.kill();
            server.start_again();
            server
        })
        .await
        .unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    let unsure: usize = join_all(clients).await.into_iter().map(Result::unwrap).sum();
    assert!(unsure > 0, "no crash was felt");

    let granted = granted.lock().clone();
    let by_id: HashMap<_, _> = granted.iter().map(|(token, id)| (id.clone(), *token)).collect();
    assert_eq!(by_id.len(), granted.len(), "one was given twice");
    let records = store.list(&node("a")).await.unwrap();
    assert_eq!(records.len(), READY, "none is lost");
    for record in &records {
        let token = match record.life() {
            State::Assigned { lease, .. } => Some(lease.token()),
            _ => None,
        };
        assert_eq!(by_id.get(record.id()).copied(), token, "{record:?}");
    }
    let counts = store.counts(&template("shop"), None).await.unwrap();
    assert_eq!((counts.ready, counts.assigned), (READY - granted.len(), granted.len()));
}

/// What was handed out is there again, and what is ready too, for this server is all there was.
#[tokio::test]
async fn a_valkey_that_comes_back_empty_is_told_what_it_lost_and_followers_see_a_gap() {
    let Some(mut server) = Server::start(Keeps::Changes, &[]) else { return };
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
    let claim = Claim { ttl: Duration::from_secs(600), ..wish() };
    let claimed = store.claim(&claim).await.unwrap();
    let had = claimed.instance().unwrap().clone();
    let waits = ready(2).await;
    let (_, cursor) = store.routes().await.unwrap();
    assert!(cursor > Cursor(0));
    server.forget();
    server.start_again();
    assert_eq!(store.claim(&claim).await, Ok(claimed));
    assert_eq!(store.route_events(cursor, Duration::ZERO).await, Ok(RouteEvents::Gap));
    let (routes, after) = store.routes().await.unwrap();
    assert!(routes == [had.clone()] && after > cursor, "{after:?}");
    assert_eq!(store.list(&node("a")).await.unwrap().len(), 2);
    assert_eq!(store.claim(&wish()).await.unwrap().instance().unwrap().id(), &waits);
    assert_eq!(store.claim(&wish()).await, Ok(Claimed::Empty));
    assert_eq!(store.release(had.id()).await.unwrap().0, had);
}

/// Servers that are alive must not lose trust in each other for a Valkey's loss.
#[tokio::test]
async fn a_valkey_that_forgot_all_is_told_the_nodes_secret_again() {
    let Some(server) = Server::start(Keeps::Nothing, &[]) else { return };
    let new = |name| {
        let settings =
            Settings { addresses: vec![tcp(server.address())], node: node(name), ..Settings::default() };
        ValkeyStore::new(settings)
    };
    let (one, other) = (new("a"), new("b"));
    let secret = one.heartbeat(&card("a")).await.unwrap().secret;
    assert_eq!(other.heartbeat(&card("b")).await.unwrap().secret, secret);
    server.ask::<()>(&["FLUSHALL"]).unwrap();
    assert_eq!(other.heartbeat(&card("b")).await.unwrap().secret, secret);
    assert_eq!(one.heartbeat(&card("a")).await.unwrap().secret, secret);
    assert_eq!(one.routes().await.unwrap().0, []);
    assert_eq!(new("c").heartbeat(&card("c")).await.unwrap().secret, secret);
}
