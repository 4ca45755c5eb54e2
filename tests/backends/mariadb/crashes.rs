//! MariaDB is killed, or does not answer.

use std::collections::HashSet;
use std::time::Duration;

use mysql_async::prelude::Queryable;
use try_it_now::runtime::mariadb::{MariaDb, Settings};
use try_it_now::runtime::{DatabaseError, Databases};
use try_it_now::telemetry::task;
use try_it_now::template::Secret;

use crate::suites::databases::{DatabaseFixture, OWN_PASSWORD, new_id, settings, wanted};
use crate::support::mariadb_server::Version;

/// Returns a dump of tables that are large enough for a copy to take a while: 2048 rows in each.
fn large_dump() -> String {
    let table = |n: usize| {
        let doubled = format!("INSERT INTO t{n} (b) SELECT b FROM t{n};\n").repeat(11);
        format!(
            "CREATE TABLE t{n} (a INT PRIMARY KEY AUTO_INCREMENT, b VARCHAR(200)) ENGINE=InnoDB;\n\
             INSERT INTO t{n} (b) VALUES (REPEAT('x', 200));\n{doubled}"
        )
    };
    // One commit for each table: each waits for the disk.
    format!("SET autocommit=0;\n{}COMMIT;\n", (0..TABLES).map(table).collect::<String>())
}

const TABLES: usize = 20;

#[tokio::test]
async fn a_mariadb_that_is_killed_while_it_copies_leaves_nothing_that_is_not_found() {
    // While it makes tables, and while it fills them.
    for (version, tables_made) in [(Version::New, 5), (Version::Old, TABLES as i64)] {
        let Some(mut it) = DatabaseFixture::start(version).await else { return };
        let seed = it.seed(&large_dump());
        let (kept, of_kept) = it.create(&seed).await;
        let (id, databases, wanted) = (new_id(), it.databases.clone(), seed.clone());
        let name = it.databases.access(&id).unwrap().name;
        let copy = task::spawn("copy", async move {
            databases.create_database(&id, &wanted, &Secret::new(OWN_PASSWORD)).await
        });
        let tables = format!("SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_SCHEMA = '{name}'");
        let mut admin = it.server.admin().await;
        while !copy.is_finished() && admin.query::<i64, _>(&tables).await.unwrap()[0] < tables_made {
            tokio::task::yield_now().await;
        }
        it.server.kill();
        let copied = copy.await.unwrap();
        it.server.restart().await;
        let listed = it.databases.list().await.unwrap();
        assert!(copied.is_err() || listed.iter().any(|listed| listed.0 == name), "{version:?}");
        it.databases.drop_unowned(listed, &HashSet::from([kept])).await.unwrap();
        let left = it.server.names().await;
        assert!(!left.contains(&name) && left.contains(&of_kept.name), "{version:?}: {left:?}");
        let mut app = it.connect(&of_kept).await.unwrap();
        assert_eq!(app.query::<i64, _>("SELECT COUNT(*) FROM t19").await.unwrap(), [2048], "{version:?}");
        // The seed was dropped or survived; either way the next instance gets its tables.
        let (_, next) = it.create(&seed).await;
        let mut app = it.connect(&next).await.unwrap();
        assert_eq!(app.query::<i64, _>("SELECT COUNT(*) FROM t0").await.unwrap(), [2048], "{version:?}");
    }
}

#[tokio::test]
async fn a_mariadb_that_is_down_is_an_error_with_its_address_and_the_next_call_works() {
    let Some(mut it) = DatabaseFixture::start(Version::New).await else { return };
    it.server.kill();
    let failed = it.databases.list().await.unwrap_err();
    let text = failed.to_string();
    assert!(matches!(failed, DatabaseError::Unreachable { .. }), "{text}");
    assert!(text.contains(&it.server.host()) && !text.contains("secret"), "{text}");
    it.server.restart().await;
    it.create(&wanted(None)).await;
}

#[tokio::test]
async fn a_wrong_password_is_an_error_that_does_not_show_it() {
    let Some(it) = DatabaseFixture::start(Version::New).await else { return };
    let password = Some(Secret::new("hunter2"));
    let wrong = MariaDb::new(Settings { password, ..settings(&it.server, "node-a") });
    let text = wrong.list().await.unwrap_err().to_string();
    assert!(text.contains("Access denied") && text.contains("PS_DB_") && !text.contains("hunter2"), "{text}");
}

#[tokio::test]
async fn a_statement_that_waits_for_another_session_ends_in_time() {
    let Some(it) = DatabaseFixture::start(Version::New).await else { return };
    let (id, access) = it.create(&wanted(None)).await;
    let mut operator = it.server.admin().await;
    operator.query_drop(format!("CREATE TABLE {}.a (b INT) ENGINE=InnoDB", access.name)).await.unwrap();
    operator.query_drop(format!("LOCK TABLES {}.a WRITE", access.name)).await.unwrap();
    let dropping = it.databases.drop_database(&id);
    let ended = tokio::time::timeout(Duration::from_secs(30), dropping).await.expect("it ends in time");
    assert!(ended.unwrap_err().to_string().contains("Lock wait timeout"));
    operator.query_drop("UNLOCK TABLES").await.unwrap();
    it.databases.drop_database(&id).await.unwrap();
}
