//! What an acquire takes with queue and databases, against one without, and how soon the databases of instances that are
//! released at once are gone: `make measure-backends`.

use std::time::Duration;

use tokio::time::Instant;

use mysql_async::prelude::Queryable as _;

use crate::support::harness::{Server, eventually_within};
use crate::support::large_seed::{DEFAULTS, RECOMMENDED, dump};
use crate::support::mariadb_server::{MariaDbServer, PASSWORD, USER, Version};
use crate::support::nats_server::NatsServer;
use crate::support::valkey_server::{Persistence, ValkeyServer};

/// Acquires of each server in one part of the measurement.
const ACQUIRES: usize = 40;
/// Ready instances that each server needs: those of two parts.
const READY: &str = "80";
const LONGEST_FILL: Duration = Duration::from_secs(240);

/// Acquires from both servers in turn. Returns the medians.
async fn acquire_in_turn(servers: [&Server; 2]) -> [Duration; 2] {
    let mut times = [vec![], vec![]];
    for _ in 0..ACQUIRES {
        for (server, times) in servers.iter().zip(&mut times) {
            let begun = Instant::now();
            server.acquire().await;
            times.push(begun.elapsed());
        }
    }
    times.map(|mut times| {
        times.sort_unstable();
        times[times.len() / 2]
    })
}

#[tokio::test]
async fn an_acquire_with_queue_and_databases_against_one_without() {
    let Some(mariadb) = MariaDbServer::start(Version::New).await else { return };
    let Some(nats) = NatsServer::start() else { return };
    let started = || ValkeyServer::start(Persistence::AppendOnly, &[]);
    let (Some(valkey), Some(other_valkey)) = (started(), started()) else { return };
    let template =
        format!("[templates.default]\ncommand = [{:?}, \"sample-app\"]\n", env!("CARGO_BIN_EXE_try-it-now"));
    let common = [
        ("POOL_TARGET_SIZE", READY),
        ("POOL_MAX_SIZE", READY),
        ("POOL_REPLENISH_THRESHOLD", "0"),
        ("POOL_REPLENISH_INTERVAL", "1h"),
    ];
    let (address, other_address) = (valkey.host_and_port(), other_valkey.host_and_port());
    let without = [&common[..], &[("VALKEY_ADDR", address.as_str())]].concat();
    let (host, url) = (mariadb.host(), nats.url());
    let backends = [
        ("VALKEY_ADDR", other_address.as_str()),
        ("NATS_URL", url.as_str()),
        ("PS_DB_HOST", host.as_str()),
        ("PS_DB_USER", USER),
        ("PS_DB_PASSWORD", PASSWORD),
    ];
    let with = [&common[..], &backends].concat();
    let without = Server::with_file(&without, &template).await.full_within(LONGEST_FILL).await;
    let database = "[templates.default.database]\nenv = { DB_PASSWORD = \"{DATABASE_PASSWORD}\" }\n";
    let with_database = format!("{template}{database}");
    let with = Server::with_file(&with, &with_database).await.full_within(LONGEST_FILL).await;
    let mut admin = mariadb.admin().await;
    for databases in [80, 1_080] {
        let made = mariadb.query::<i64>("SELECT COUNT(*) FROM information_schema.SCHEMATA").await[0];
        for more in made..databases {
            admin.query_drop(format!("CREATE DATABASE more_{more}")).await.unwrap();
        }
        let [without, with] = acquire_in_turn([&without, &with]).await;
        println!(
            "acquire, p50 of {ACQUIRES}: {without:?}; with queue and {databases} databases {with:?}, {:.2}",
            with.as_secs_f64() / without.as_secs_f64()
        );
    }
}

/// Instances that are released at once.
const RELEASED: usize = 20;

#[tokio::test]
async fn databases_of_instances_that_are_released_at_once() {
    let program = env!("CARGO_BIN_EXE_try-it-now");
    let database = "env = { DB_PASSWORD = \"{DATABASE_PASSWORD}\" }\n";
    for (options, is_seeded) in
        [(&DEFAULTS[..], false), (&RECOMMENDED, false), (&DEFAULTS, true), (&RECOMMENDED, true)]
    {
        let Some(mariadb) = MariaDbServer::start_with(Version::New, options).await else { return };
        let path = mariadb.folder().join("seed.sql");
        std::fs::write(&path, dump()).unwrap();
        let seed = if is_seeded { format!("seed = {path:?}\n") } else { String::new() };
        let template = format!(
            "[templates.default]\ncommand = [{program:?}, \"sample-app\"]\n[templates.default.database]\n{seed}{database}"
        );
        let (host, size) = (mariadb.host(), RELEASED.to_string());
        let variables = [
            ("POOL_TARGET_SIZE", size.as_str()),
            // As many are made meanwhile as are dropped.
            ("POOL_MAX_SIZE", size.as_str()),
            ("POOL_REPLENISH_THRESHOLD", "0"),
            ("POOL_REPLENISH_INTERVAL", "1h"),
            ("PS_DB_HOST", host.as_str()),
            ("PS_DB_USER", USER),
            ("PS_DB_PASSWORD", PASSWORD),
        ];
        let begun = Instant::now();
        let server = Server::with_file(&variables, &template).await.full_within(LONGEST_FILL).await;
        let filled = begun.elapsed();
        let mut acquired = vec![];
        for _ in 0..RELEASED {
            acquired.push(server.acquire().await.id);
        }
        let suffixes: Vec<&str> = acquired.iter().map(|id| id.rsplit('-').next().unwrap()).collect();
        let of_released = format!(
            "SELECT COUNT(*) FROM (SELECT SCHEMA_NAME AS name FROM information_schema.SCHEMATA UNION SELECT User FROM mysql.user) \
             AS names WHERE name REGEXP '_({})$'",
            suffixes.join("|")
        );
        let mut admin = mariadb.admin().await;
        assert_eq!(admin.query::<usize, _>(&of_released).await.unwrap(), [RELEASED]);
        let begun = Instant::now();
        let releases = acquired.iter().map(async |id| {
            assert_eq!(server.call("DELETE", &format!("/api/v1/demo/{id}"), "").await.status, 200);
        });
        futures_util::future::join_all(releases).await;
        eventually_within(LONGEST_FILL, "the databases are gone", async || {
            (admin.query::<usize, _>(&of_released).await.unwrap() == [0]).then_some(())
        })
        .await;
        println!(
            "{RELEASED} released at once, seeded: {is_seeded}, {options:?}: filled in {filled:?}, databases gone after {:?}",
            begun.elapsed()
        );
    }
}
