//! Sentinels: another server takes over, and the store finds it by itself.

use std::time::Duration;

use tokio::time::{Instant, timeout};
use try_it_now::store::valkey::{Mode, Settings, ValkeyStore};
use try_it_now::store::{Claim, Claimed, Store, StoreError};

use super::tcp;
use crate::suites::store::fixture::{NO_LIMITS, node, template, wish};
use crate::support::valkey_server::{PATIENCE, SERVICE, Watched};

fn store(watched: &Watched) -> ValkeyStore {
    ValkeyStore::new(Settings {
        addresses: vec![tcp(watched.address())],
        mode: Mode::Sentinel { service: SERVICE.to_owned() },
        node: node("a"),
        ..Settings::default()
    })
}

/// One ready instance, claimed, and all of it at the replica too.
async fn claimed(watched: &Watched, store: &ValkeyStore) -> (Claim, Claimed) {
    let id = try_it_now::instance::InstanceId::random(&template("shop"));
    let now = try_it_now::clock::Clock::System.now();
    store.insert(try_it_now::instance::Instance::warming(id.clone(), node("a"), 1, now)).await.unwrap();
    store.offer(&id, ([10, 0, 0, 1], 4000).into()).await.unwrap();
    let claim = Claim { ttl: Duration::from_secs(600), limits: NO_LIMITS, ..wish() };
    let claimed = store.claim(&claim).await.unwrap();
    assert!(claimed.instance().is_some());
    servers_agree(watched);
    (claim, claimed)
}

fn servers_agree(watched: &Watched) {
    crate::support::valkey_server::wait_until("the replica has all", || {
        let place = |server: &crate::support::valkey_server::Server, name: &str| -> Option<String> {
            let told: String = server.ask(&["INFO", "replication"]).ok()?;
            told.lines().find_map(|line| line.strip_prefix(name).map(str::to_owned))
        };
        let (here, there) =
            (place(&watched.master, "master_repl_offset:"), place(&watched.replica, "slave_repl_offset:"));
        here.is_some() && here == there
    });
}

/// Asks until it is granted again; each call ends in time.
async fn granted_again(store: &ValkeyStore, claim: &Claim) -> Claimed {
    let asking = async {
        loop {
            let begun = Instant::now();
            let answer = store.claim(claim).await;
            assert!(begun.elapsed() < Duration::from_millis(2_500), "{:?}", begun.elapsed());
            match answer {
                Ok(claimed) => return claimed,
                Err(StoreError::Unavailable(_)) => tokio::time::sleep(Duration::from_millis(20)).await,
                Err(other) => panic!("{other}"),
            }
        }
    };
    timeout(PATIENCE, asking).await.expect("it recovers")
}

#[tokio::test]
async fn the_store_follows_when_the_servers_change_places() {
    let Some(watched) = Watched::start() else { return };
    let store = store(&watched);
    let (claim, first) = claimed(&watched, &store).await;
    watched.swap();
    watched.swapped();
    assert_eq!(granted_again(&store, &claim).await, first);
    // A step that writes, too: the old one lives, and would refuse it.
    let id = first.instance().unwrap().id().clone();
    assert_eq!(store.release(&id).await.unwrap().0.id(), &id);
}

#[tokio::test]
async fn the_store_follows_when_the_server_dies() {
    let Some(mut watched) = Watched::start() else { return };
    let store = store(&watched);
    let (claim, first) = claimed(&watched, &store).await;
    watched.master.kill();
    assert!(matches!(store.ping().await, Err(StoreError::Unavailable(_))), "nobody has taken over yet");
    assert_eq!(granted_again(&store, &claim).await, first);
    watched.swapped();
}

/// It has not heard of the last claims, and says that those are ready.
#[tokio::test]
async fn what_a_replica_missed_that_takes_over_is_not_handed_out_again() {
    let Some(mut watched) = Watched::start() else { return };
    let store = store(&watched);
    let (first, granted) = claimed(&watched, &store).await;
    let id = try_it_now::instance::InstanceId::random(&template("shop"));
    let now = try_it_now::clock::Clock::System.now();
    store.insert(try_it_now::instance::Instance::warming(id.clone(), node("a"), 1, now)).await.unwrap();
    store.offer(&id, ([10, 0, 0, 2], 4000).into()).await.unwrap();
    servers_agree(&watched);
    watched.replica.ask::<()>(&["REPLICAOF", "NO", "ONE"]).unwrap();
    let missed = Claim { ttl: Duration::from_secs(600), limits: NO_LIMITS, ..wish() };
    let had = store.claim(&missed).await.unwrap();
    assert_eq!(had.instance().unwrap().id(), &id);
    watched.master.kill();
    assert_eq!(granted_again(&store, &missed).await, had);
    assert_eq!(granted_again(&store, &first).await, granted);
    assert_eq!(store.claim(&wish()).await, Ok(Claimed::Empty));
}
