//! What an instance's user, which runs whatever its visitor likes, cannot do.

use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use crate::suites::databases::{DatabaseFixture, OWN_PASSWORD, new_id, wanted};
use crate::support::mariadb_server::Version;
use try_it_now::runtime::Databases;
use try_it_now::template::Secret;

const VERSIONS: [Version; 2] = [Version::New, Version::Old];

async fn assert_refused(app: &mut Conn, statement: &str) {
    assert!(app.query_drop(statement).await.is_err(), "{statement}");
}

#[tokio::test]
async fn an_instances_user_reaches_nothing_but_its_own_database() {
    for version in VERSIONS {
        let Some(it) = DatabaseFixture::start(version).await else { return };
        let ((_, victim), (_, attacker)) = (it.create(&wanted(None)).await, it.create(&wanted(None)).await);
        let mut of_victim = it.connect(&victim).await.unwrap();
        of_victim.query_drop("CREATE TABLE secrets (a TEXT)").await.unwrap();
        let mut app = it.connect(&attacker).await.unwrap();
        let (other, own) = (&victim.name, &attacker.name);
        // Names that differ from its own only where a pattern of a grant has `_`.
        let similar = own.replace('_', "x");
        it.server.admin().await.query_drop(format!("CREATE DATABASE {similar}")).await.unwrap();
        for statement in [
            format!("SELECT * FROM {other}.secrets"),
            format!("USE {other}"),
            format!("USE {similar}"),
            format!("DROP DATABASE {other}"),
            format!("CREATE TABLE {similar}.a (b INT)"),
            format!("CREATE DATABASE {own}2"),
            "CREATE DATABASE tryitnow_books".to_owned(),
            "SELECT * FROM mysql.user".to_owned(),
            format!("GRANT SELECT ON {own}.* TO {other}@'%'"),
            format!("GRANT ALL ON *.* TO {own}@'%'"),
            "CREATE USER friend".to_owned(),
            format!("ALTER USER {other}@'%' IDENTIFIED BY 'x'"),
            format!("SET PASSWORD FOR {other}@'%' = PASSWORD('x')"),
            format!("ALTER USER {own}@'%' WITH MAX_USER_CONNECTIONS 1000"),
            format!("KILL {}", of_victim.id()),
            "SELECT 1 INTO OUTFILE '/tmp/tin-stolen'".to_owned(),
            "LOAD DATA INFILE '/etc/passwd' INTO TABLE a".to_owned(),
            "SET GLOBAL max_connections = 1".to_owned(),
            "SET GLOBAL general_log = 1".to_owned(),
            "INSTALL SONAME 'ha_connect'".to_owned(),
            "SHUTDOWN".to_owned(),
            "FLUSH PRIVILEGES".to_owned(),
            format!("CREATE DEFINER = {other}@'%' VIEW stolen AS SELECT * FROM {other}.secrets"),
            "CREATE DEFINER = tin@'%' PROCEDURE stolen() SELECT 1".to_owned(),
        ] {
            assert_refused(&mut app, &statement).await;
        }
        // It may succeed, and end none but its own.
        let _ = app.query_drop(format!("KILL USER {other}")).await;
        let file: Vec<Option<String>> = app.query("SELECT LOAD_FILE('/etc/passwd')").await.unwrap();
        assert_eq!(file, [None]);
        let seen: Vec<String> = app.query("SHOW DATABASES").await.unwrap();
        assert_eq!(
            seen,
            [own, "information_schema"].map(|name| name.to_owned()).into_iter().rev().collect::<Vec<_>>()
        );
        let threads: Vec<u64> = app.query("SELECT ID FROM information_schema.PROCESSLIST").await.unwrap();
        assert_eq!(threads.len(), 1, "it sees its own connections only");
        of_victim.query_drop("SELECT * FROM secrets").await.unwrap();
    }
}

#[tokio::test]
async fn a_user_that_drops_its_own_database_changes_nothing_for_others() {
    let Some(it) = DatabaseFixture::start(Version::New).await else { return };
    let ((id, own), (_, other)) = (it.create(&wanted(None)).await, it.create(&wanted(None)).await);
    it.connect(&own).await.unwrap().query_drop(format!("DROP DATABASE {}", own.name)).await.unwrap();
    it.databases.drop_database(&id).await.unwrap();
    assert_eq!(it.server.names().await, [other.name]);
}

#[tokio::test]
async fn no_password_and_no_table_of_a_seed_becomes_a_statement() {
    let Some(it) = DatabaseFixture::start(Version::New).await else { return };
    for password in
        ["", "short", "' OR 1 -- aaaaaaaaaaaaaaaa", "aaaaaaaaaaaaaaaa\\'", "äaaaaaaaaaaaaaaaaaaaa"]
    {
        let refused = it.databases.create_database(&new_id(), &wanted(None), &Secret::new(password)).await;
        assert!(refused.unwrap_err().to_string().contains("letters and digits"), "{password}");
    }
    assert_eq!(it.server.names().await, [] as [&str; 0]);
    // Names of tables and columns of a seed may be anything.
    let names = ["a`; DROP DATABASE mysql; --", "a'b\"c", "100%_", "naïve ☕", "`", "a\\`b"];
    let tables = names.map(|name| {
        let quoted = name.replace('`', "``");
        format!("CREATE TABLE `{quoted}` (`{quoted}` INT); INSERT INTO `{quoted}` VALUES (7);\n")
    });
    let seed = it.seed(&format!("SET NAMES utf8mb4;\n{}", tables.concat()));
    let (_, access) = it.create(&seed).await;
    let mut app = it.server.connect(&access.user, OWN_PASSWORD, Some(&access.name)).await.unwrap();
    let mut found: Vec<String> = app.query("SHOW TABLES").await.unwrap();
    found.sort();
    let mut expected = names.map(str::to_owned).to_vec();
    expected.sort();
    assert_eq!(found, expected);
    for name in names {
        let quoted = name.replace('`', "``");
        let values: Vec<i32> = app.query(format!("SELECT `{quoted}` FROM `{quoted}`")).await.unwrap();
        assert_eq!(values, [7], "{name}");
    }
}
