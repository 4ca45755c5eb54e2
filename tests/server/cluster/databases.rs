//! The databases of a server that never returns, and those of one that comes back.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::lifecycle::databases::Host;
use crate::support::harness::{Server, eventually_within, get};
use crate::support::mariadb_server::Version;
use crate::support::valkey_server::{Persistence, ValkeyServer};

const LONG: Duration = Duration::from_secs(40);

async fn start(host: &Host, valkey: &ValkeyServer) -> Server {
    let address = valkey.host_and_port();
    let settings = [("VALKEY_ADDR", address.as_str()), ("NODE_TIMEOUT", "2s")];
    let folder = std::env::temp_dir().join(format!("try-it-now-serve-{}", uuid::Uuid::now_v7()));
    host.serve_in(folder, &settings).await
}

/// Returns the databases with the names that no database had before.
async fn new_names(host: &Host, before: &BTreeSet<String>) -> BTreeSet<String> {
    host.mariadb.names().await.into_iter().filter(|name| !before.contains(name)).collect()
}

/// Returns whether the pool of `blog` of each of so many servers is full.
async fn wait_until_full(through: &Server, servers: usize) {
    eventually_within(LONG, "all pools are full", async || {
        let stats = through.call("GET", "/api/v1/pool/stats?template=blog", "").await.json();
        (stats["ready"].as_u64()? >= 2 * servers as u64 && stats["warming"] == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_dead_servers_databases_are_dropped_by_another_and_one_that_comes_back_makes_new_ones() {
    let Some(valkey) = ValkeyServer::start(Persistence::None, &[]) else { return };
    let Some(host) = Host::start(Version::New).await else { return };
    let stays = start(&host, &valkey).await;
    wait_until_full(&stays, 1).await;
    let of_stays = new_names(&host, &BTreeSet::new()).await;
    let (dead, still) = (start(&host, &valkey).await, start(&host, &valkey).await);
    wait_until_full(&stays, 3).await;
    let of_others = new_names(&host, &of_stays).await;
    assert!(of_others.len() >= 6, "two instances and a seed each: {of_others:?}");

    still.signal("STOP");
    dead.signal("KILL");
    eventually_within(LONG, "the databases of both are gone", async || {
        let now = new_names(&host, &of_stays).await;
        now.is_disjoint(&of_others).then_some(())
    })
    .await;
    let mine = stays.acquire_of("blog").await;
    assert_eq!(get(stays.port, &mine.host, "/").await.status, 200);
    host.assert_has_its_own(&mine.id).await;
    wait_until_full(&stays, 1).await;

    still.signal("CONT");
    wait_until_full(&stays, 2).await;
    // More than the server that stays has: some are of the server that came back.
    for _ in 0..4 {
        let fresh = still.acquire_of("blog").await;
        host.assert_has_its_own(&fresh.id).await;
        let name = fresh.host.split(':').next().unwrap();
        assert_eq!(get(still.port, &format!("{name}:{}", still.port), "/").await.status, 200);
    }
    let known: Vec<String> = valkey.query(&["KEYS", "*:evicted"]).unwrap();
    let evicted: Vec<String> =
        valkey.query(&["ZRANGE", known.first().map_or("none", String::as_str), "0", "-1"]).unwrap();
    assert!(!evicted.contains(&still.node().to_owned()), "{evicted:?}");
}
