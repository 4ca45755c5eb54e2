//! The server's own connections are used again, and nothing of one call reaches the next.

use std::collections::HashSet;
use std::time::Duration;

use futures_util::future::join_all;
use mysql_async::prelude::Queryable;
use tokio::time::Instant;
use try_it_now::runtime::mariadb::{MAX_IDLE_CONNECTIONS, MariaDb, Settings};
use try_it_now::runtime::{DatabaseError, Databases};
use try_it_now::template::Secret;

use crate::suites::databases::{DatabaseFixture, OWN_PASSWORD, new_id, settings, wanted};
use crate::support::mariadb_server::{USER, Version};

/// Longest time until MariaDB shows what must become so.
const MAX_WAIT: Duration = Duration::from_secs(30);

/// Returns the ids of the connections of the program under test.
async fn open_connections(it: &DatabaseFixture) -> HashSet<u64> {
    let list = format!("SELECT ID FROM information_schema.PROCESSLIST WHERE USER = '{USER}'");
    it.server.query(&list).await.into_iter().collect()
}

/// Waits until the program has no connection any more.
async fn wait_until_closed(it: &DatabaseFixture) {
    let begun = Instant::now();
    while !open_connections(it).await.is_empty() {
        assert!(begun.elapsed() < MAX_WAIT, "{:?}", open_connections(it).await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Returns a dump of this many tables with 64 rows each.
fn dump(tables: usize) -> String {
    let values = (1..=64).map(|n| format!("({n})")).collect::<Vec<_>>().join(",");
    let table = |n| format!("CREATE TABLE t{n} (a INT PRIMARY KEY);\nINSERT INTO t{n} VALUES {values};\n");
    (0..tables).map(table).collect()
}

#[tokio::test]
async fn calls_in_turn_share_one_connection_which_is_closed_when_it_is_not_used() {
    for version in [Version::New, Version::Old] {
        let Some(it) = DatabaseFixture::start(version).await else { return };
        it.databases.list().await.unwrap();
        let first = open_connections(&it).await;
        assert_eq!(first.len(), 1, "{version:?}");
        for _ in 0..3 {
            let (id, _) = it.create(&wanted(None)).await;
            it.databases.drop_database(&id).await.unwrap();
            assert_eq!(open_connections(&it).await, first, "{version:?}");
        }
        wait_until_closed(&it).await;
        it.databases.list().await.unwrap();
        it.databases.shut_down(&HashSet::new()).await.unwrap();
        wait_until_closed(&it).await;
    }
}

#[tokio::test]
async fn many_calls_at_once_leave_a_bounded_number_of_connections() {
    let Some(it) = DatabaseFixture::start(Version::New).await else { return };
    join_all((0..40).map(|_| it.databases.list())).await.into_iter().for_each(|listed| drop(listed.unwrap()));
    // MariaDB notices the end of a connection a moment later.
    let begun = Instant::now();
    while open_connections(&it).await.len() > MAX_IDLE_CONNECTIONS {
        assert!(begun.elapsed() < MAX_WAIT);
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_mariadb_that_was_killed_and_restarted_between_two_calls_is_no_error() {
    for version in [Version::New, Version::Old] {
        let Some(mut it) = DatabaseFixture::start(version).await else { return };
        let (id, _) = it.create(&wanted(None)).await;
        join_all((0..8).map(|_| it.databases.list())).await;
        it.server.restart().await;
        for listed in join_all((0..8).map(|_| it.databases.list())).await {
            assert_eq!(listed.unwrap().len(), 1, "{version:?}");
        }
        it.server.restart().await;
        it.databases.drop_database(&id).await.unwrap();
        it.server.restart().await;
        it.create(&wanted(None)).await;
    }
}

#[tokio::test]
async fn a_connection_that_mariadb_ends_between_two_calls_is_replaced() {
    let Some(it) = DatabaseFixture::start(Version::New).await else { return };
    it.databases.list().await.unwrap();
    let first = open_connections(&it).await;
    let mut admin = it.server.admin().await;
    admin.query_drop(format!("KILL USER {USER}")).await.unwrap();
    it.databases.list().await.unwrap();
    assert!(open_connections(&it).await.is_disjoint(&first));
}

#[tokio::test]
async fn nothing_of_a_call_that_is_cancelled_half_way_reaches_the_next() {
    for version in [Version::New, Version::Old] {
        let Some(it) = DatabaseFixture::start(version).await else { return };
        let seed = it.seed(&dump(20));
        it.create(&seed).await;
        let mut admin = it.server.admin().await;
        for tables_made in [1, 12] {
            let (id, password) = (new_id(), Secret::new(OWN_PASSWORD));
            let name = it.databases.access(&id).unwrap().name;
            let tables =
                format!("SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_SCHEMA = '{name}'");
            let half_way = async {
                while admin.query::<usize, _>(&tables).await.unwrap()[0] < tables_made {
                    tokio::task::yield_now().await;
                }
            };
            tokio::select! {
                () = half_way => {}
                // It was faster than this test looked.
                made = it.databases.create_database(&id, &seed, &password) => made.unwrap(),
            }
            // The next call has neither the database nor the mode of the cancelled one, nor its rows.
            let (_, access) = it.create(&seed).await;
            let mut app = it.connect(&access).await.unwrap();
            for table in 0..20 {
                let rows: Vec<usize> = app.query(format!("SELECT COUNT(*) FROM t{table}")).await.unwrap();
                assert_eq!(rows, [64], "{version:?}: t{table}");
            }
            it.databases.drop_database(&id).await.unwrap();
            assert!(!it.server.names().await.contains(&name), "{version:?}");
        }
    }
}

#[tokio::test]
async fn the_database_and_the_mode_of_a_copy_do_not_reach_the_next_call() {
    for version in [Version::New, Version::Old] {
        let Some(it) = DatabaseFixture::start(version).await else { return };
        let (id, access) = it.create(&it.seed(&dump(1))).await;
        let used =
            format!("SELECT COALESCE(DB, '') FROM information_schema.PROCESSLIST WHERE USER = '{USER}'");
        let copied = it.server.query::<String>(&used).await;
        assert_eq!(copied, std::slice::from_ref(&access.name), "{version:?}: it was kept as it was");
        it.databases.list().await.unwrap();
        assert_eq!(it.server.query::<String>(&used).await, [""], "{version:?}");
        // A copy does not check keys. Where that is still in effect, a table to which another database refers is dropped.
        let (other, of_other) = it.create(&it.seed(&dump(2))).await;
        let mut admin = it.server.admin().await;
        let refers = format!(
            "CREATE TABLE {}.refers (a INT, FOREIGN KEY (a) REFERENCES {}.t0 (a)) ENGINE=InnoDB",
            of_other.name, access.name
        );
        admin.query_drop(refers).await.unwrap();
        let refused = it.databases.drop_database(&id).await.unwrap_err().to_string();
        assert!(refused.contains("foreign key"), "{version:?}: {refused}");
        it.databases.drop_database(&other).await.unwrap();
        it.databases.drop_database(&id).await.unwrap();
    }
}

#[tokio::test]
async fn a_connection_whose_statement_took_too_long_is_closed() {
    let Some(it) = DatabaseFixture::start(Version::New).await else { return };
    let impatient = MariaDb::new(Settings {
        statement_deadline: Duration::from_secs(1),
        ..settings(&it.server, "node-a")
    });
    let (id, access) = it.create(&wanted(None)).await;
    it.databases.shut_down(&HashSet::from([id.clone()])).await.unwrap();
    let mut operator = it.server.admin().await;
    operator.query_drop(format!("CREATE TABLE {}.a (b INT) ENGINE=InnoDB", access.name)).await.unwrap();
    operator.query_drop(format!("LOCK TABLES {}.a WRITE", access.name)).await.unwrap();
    impatient.list().await.unwrap();
    let first = open_connections(&it).await;
    let late = impatient.drop_database(&id).await.unwrap_err();
    assert!(matches!(late, DatabaseError::Late { .. }), "{late}");
    impatient.list().await.unwrap();
    operator.query_drop("UNLOCK TABLES").await.unwrap();
    let begun = Instant::now();
    while !open_connections(&it).await.is_disjoint(&first) {
        assert!(begun.elapsed() < MAX_WAIT, "the late one has ended");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    impatient.drop_database(&id).await.unwrap();
}
