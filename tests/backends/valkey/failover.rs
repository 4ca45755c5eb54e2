//! Failover by a Sentinel: the replica takes over and the store finds it.

use std::time::Duration;

use tokio::time::{Instant, timeout};
use try_it_now::store::valkey::{Mode, Settings, ValkeyStore};
use try_it_now::store::{Claim, Claimed, Store, StoreError};

use super::tcp;
use crate::suites::store::fixture::{NO_LIMITS, new_claim, node, template};
use crate::support::valkey_server::{MAX_WAIT, ReplicatedValkey, SERVICE};

fn store(servers: &ReplicatedValkey) -> ValkeyStore {
    ValkeyStore::new(Settings {
        addresses: vec![tcp(servers.address())],
        mode: Mode::Sentinel { service: SERVICE.to_owned() },
        node: node("a"),
        ..Settings::default()
    })
}

/// Adds a ready instance, claims it, and waits until the replica has all of it.
async fn claimed(servers: &ReplicatedValkey, store: &ValkeyStore) -> (Claim, Claimed) {
    let id = try_it_now::instance::InstanceId::random(&template("shop"));
    let now = try_it_now::clock::Clock::System.now();
    store.insert(try_it_now::instance::Instance::warming(id.clone(), node("a"), 1, now)).await.unwrap();
    store.offer(&id, ([10, 0, 0, 1], 4000).into()).await.unwrap();
    let claim = Claim { ttl: Duration::from_secs(600), limits: NO_LIMITS, ..new_claim() };
    let claimed = store.claim(&claim).await.unwrap();
    assert!(claimed.instance().is_some());
    wait_for_replication(servers);
    (claim, claimed)
}

fn wait_for_replication(servers: &ReplicatedValkey) {
    crate::support::valkey_server::wait_until("the replica has all data", || {
        let offset = |server: &crate::support::valkey_server::ValkeyServer, name: &str| -> Option<String> {
            let info: String = server.query(&["INFO", "replication"]).ok()?;
            info.lines().find_map(|line| line.strip_prefix(name).map(str::to_owned))
        };
        let (primary, replica) =
            (offset(&servers.primary, "master_repl_offset:"), offset(&servers.replica, "slave_repl_offset:"));
        primary.is_some() && primary == replica
    });
}

/// Repeats a claim until it is answered. Each call must end within its deadline.
async fn claim_until_answered(store: &ValkeyStore, claim: &Claim) -> Claimed {
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
    timeout(MAX_WAIT, asking).await.expect("the store recovers")
}

#[tokio::test]
async fn the_store_follows_a_failover_while_the_old_primary_lives() {
    let Some(servers) = ReplicatedValkey::start() else { return };
    let store = store(&servers);
    let (claim, first) = claimed(&servers, &store).await;
    servers.fail_over();
    servers.wait_for_failover();
    assert_eq!(claim_until_answered(&store, &claim).await, first);
    // An operation that writes must reach the new primary: the old one is alive and would refuse it.
    let id = first.instance().unwrap().id().clone();
    assert_eq!(store.release(&id).await.unwrap().0.id(), &id);
}

#[tokio::test]
async fn the_store_follows_a_failover_after_the_primary_died() {
    let Some(mut servers) = ReplicatedValkey::start() else { return };
    let store = store(&servers);
    let (claim, first) = claimed(&servers, &store).await;
    servers.primary.kill();
    assert!(
        matches!(store.ping().await, Err(StoreError::Unavailable(_))),
        "the replica has not taken over yet"
    );
    assert_eq!(claim_until_answered(&store, &claim).await, first);
    servers.wait_for_failover();
}

/// The replica has not received the last claims, so it has those instances as ready.
#[tokio::test]
async fn a_claim_that_the_new_primary_missed_is_not_granted_again() {
    let Some(mut servers) = ReplicatedValkey::start() else { return };
    let store = store(&servers);
    let (first, granted) = claimed(&servers, &store).await;
    let id = try_it_now::instance::InstanceId::random(&template("shop"));
    let now = try_it_now::clock::Clock::System.now();
    store.insert(try_it_now::instance::Instance::warming(id.clone(), node("a"), 1, now)).await.unwrap();
    store.offer(&id, ([10, 0, 0, 2], 4000).into()).await.unwrap();
    wait_for_replication(&servers);
    servers.replica.query::<()>(&["REPLICAOF", "NO", "ONE"]).unwrap();
    let late_claim = Claim { ttl: Duration::from_secs(600), limits: NO_LIMITS, ..new_claim() };
    let granted_before = store.claim(&late_claim).await.unwrap();
    assert_eq!(granted_before.instance().unwrap().id(), &id);
    servers.primary.kill();
    assert_eq!(claim_until_answered(&store, &late_claim).await, granted_before);
    assert_eq!(claim_until_answered(&store, &first).await, granted);
    assert_eq!(store.claim(&new_claim()).await, Ok(Claimed::Empty));
}
