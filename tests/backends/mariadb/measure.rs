//! How long it takes to make a database from a seed of 100 tables and 50 MB, by each way that there is: `make measure-backends`.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use futures_util::future::join_all;
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use tokio::time::Instant;
use try_it_now::runtime::Databases;
use try_it_now::runtime::mariadb::MariaDb;
use try_it_now::template::Secret;

use crate::suites::databases::{OWN_PASSWORD, new_id, settings, wanted};
use crate::support::large_seed::{DEFAULTS, RECOMMENDED, TABLES, dump};
use crate::support::mariadb_server::{MariaDbServer, PASSWORD, USER, Version};

const ROUNDS: usize = 5;
/// Connections that work at the same time.
const HELPERS: usize = 16;
/// Other databases while empty ones are made and dropped.
const OTHERS: usize = 1_000;

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// Loads the dump with the client program, into a new database.
fn load_with_client(server: &MariaDbServer, name: &str, dump: &str) {
    let path = server.folder().join("measured.sql");
    fs::write(&path, dump).unwrap();
    let make = format!("CREATE DATABASE {name}");
    for (arguments, input) in [(vec!["--execute", make.as_str()], None), (vec![name], Some(&path))] {
        let stdin = input.map_or(Stdio::null(), |path| fs::File::open(path).unwrap().into());
        let mut client = Command::new(server.client());
        client.arg("--no-defaults").arg(format!("--host={}", server.host())).arg(format!("--user={USER}"));
        client.arg(format!("--password={PASSWORD}")).arg("--skip-ssl").args(arguments).stdin(stdin);
        assert!(client.status().unwrap().success());
    }
}

/// Copies the files of a database's tables into the folder of another one, while the tables are flushed for export.
async fn copy_files(
    server: &MariaDbServer,
    admin: &mut Conn,
    (from, name): (&str, &str),
    extensions: &[&str],
) {
    let data = server.folder().join("data");
    let list: Vec<String> = (0..TABLES).map(|table| format!("{from}.t{table}")).collect();
    admin.query_drop(format!("FLUSH TABLES {} FOR EXPORT", list.join(","))).await.unwrap();
    for table in 0..TABLES {
        for extension in extensions {
            let file = format!("t{table}.{extension}");
            fs::copy(data.join(from).join(&file), data.join(name).join(&file)).unwrap();
        }
    }
    admin.query_drop("UNLOCK TABLES").await.unwrap();
}

/// Imports the tablespaces of a database with their definitions, which MariaDB can from 11.2 on, by several connections.
async fn import_with_definitions(server: &MariaDbServer, others: &mut [Conn], from: &str, name: &str) {
    let [admin, ..] = others else { unreachable!("there are some") };
    admin.query_drop(format!("CREATE DATABASE {name}")).await.unwrap();
    copy_files(server, admin, (from, name), &["frm", "ibd", "cfg"]).await;
    let count = others.len();
    let imports = others.iter_mut().enumerate().map(async |(first, connection)| {
        for table in (first..TABLES).step_by(count) {
            connection.query_drop(format!("ALTER TABLE {name}.t{table} IMPORT TABLESPACE")).await.unwrap();
        }
    });
    join_all(imports).await;
}

/// Makes all tables by several connections, and then copies the rows, in one transaction for each connection.
async fn copy_in_transactions(others: &mut [Conn], from: &str, name: &str) {
    let [admin, ..] = others else { unreachable!("there are some") };
    admin.query_drop(format!("CREATE DATABASE {name}")).await.unwrap();
    let count = others.len();
    let made = others.iter_mut().enumerate().map(async |(first, connection)| {
        for table in (first..TABLES).step_by(count) {
            connection
                .query_drop(format!("CREATE TABLE {name}.t{table} LIKE {from}.t{table}"))
                .await
                .unwrap();
        }
    });
    join_all(made).await;
    let filled = others.iter_mut().enumerate().map(async |(first, connection)| {
        connection.query_drop("START TRANSACTION").await.unwrap();
        for table in (first..TABLES).step_by(count) {
            let rows = format!("INSERT INTO {name}.t{table} SELECT * FROM {from}.t{table}");
            connection.query_drop(rows).await.unwrap();
        }
        connection.query_drop("COMMIT").await.unwrap();
    });
    join_all(filled).await;
}

/// Imports the tablespaces of a database into tables that were made before, as an operator on the same host could.
async fn import_tablespaces(server: &MariaDbServer, admin: &mut Conn, from: &str, name: &str) {
    admin.query_drop(format!("CREATE DATABASE {name}")).await.unwrap();
    for table in 0..TABLES {
        admin.query_drop(format!("CREATE TABLE {name}.t{table} LIKE {from}.t{table}")).await.unwrap();
        admin.query_drop(format!("ALTER TABLE {name}.t{table} DISCARD TABLESPACE")).await.unwrap();
    }
    copy_files(server, admin, (from, name), &["ibd", "cfg"]).await;
    for table in 0..TABLES {
        admin.query_drop(format!("ALTER TABLE {name}.t{table} IMPORT TABLESPACE")).await.unwrap();
    }
}

#[tokio::test]
async fn ways_to_make_a_database_with_the_newest_version() {
    measure(Version::New, &DEFAULTS).await;
}

#[tokio::test]
async fn ways_to_make_a_database_with_the_newest_version_and_recommended_settings() {
    measure(Version::New, &RECOMMENDED).await;
}

#[tokio::test]
async fn ways_to_make_a_database_with_the_oldest_version() {
    measure(Version::Old, &DEFAULTS).await;
}

#[expect(clippy::print_stdout, reason = "a measurement prints what it measured")]
async fn measure(version: Version, options: &[&str]) {
    let Some(server) = MariaDbServer::start_with(version, options).await else { return };
    let dump = dump();
    let seed = server.folder().join("seed.sql");
    fs::write(&seed, &dump).unwrap();
    let (databases, seeded) = (MariaDb::new(settings(&server, "node-a")), wanted(Some(seed)));
    let create = async |seeded| {
        let (id, begun) = (new_id(), Instant::now());
        databases.create_database(&id, seeded, &Secret::new(OWN_PASSWORD)).await.unwrap();
        let (made, begun) = (begun.elapsed(), Instant::now());
        databases.drop_database(&id).await.unwrap();
        [made, begun.elapsed()]
    };
    create(&seeded).await;
    let names = server.names().await;
    let from = names.iter().find(|name| name.contains("_seed")).unwrap();
    let mut admin = server.admin().await;
    let has_files = admin.query_first("SELECT @@innodb_file_per_table").await.unwrap() == Some(1);
    let can_import_definitions = has_files && version == Version::New;
    let mut helpers = join_all((0..HELPERS).map(|_| server.admin())).await;
    let [
        mut loaded,
        mut copied_first,
        mut copied,
        mut copied_in_transactions,
        mut dropped,
        mut liked,
        mut imported,
        mut imported_whole,
    ] = [const { Vec::new() }; 8];
    for round in 0..ROUNDS {
        let name = format!("tryitnow_measured{round}");
        let begun = Instant::now();
        load_with_client(&server, &name, &dump);
        loaded.push(begun.elapsed());
        admin.query_drop(format!("DROP DATABASE {name}")).await.unwrap();
        // Longer than connections stay open without use has passed, but not before the second one.
        for times in [&mut copied_first, &mut copied] {
            let [made, gone] = create(&seeded).await;
            times.push(made);
            dropped.push(gone);
        }
        let begun = Instant::now();
        admin.query_drop(format!("CREATE DATABASE {name}")).await.unwrap();
        for table in 0..TABLES {
            let (source, target) = (format!("{from}.t{table}"), format!("{name}.t{table}"));
            admin.query_drop(format!("CREATE TABLE {target} LIKE {source}")).await.unwrap();
            admin.query_drop(format!("INSERT INTO {target} SELECT * FROM {source}")).await.unwrap();
        }
        liked.push(begun.elapsed());
        admin.query_drop(format!("DROP DATABASE {name}")).await.unwrap();
        let begun = Instant::now();
        copy_in_transactions(&mut helpers, from, &name).await;
        copied_in_transactions.push(begun.elapsed());
        admin.query_drop(format!("DROP DATABASE {name}")).await.unwrap();
        if has_files {
            let begun = Instant::now();
            import_tablespaces(&server, &mut admin, from, &name).await;
            imported.push(begun.elapsed());
            admin.query_drop(format!("DROP DATABASE {name}")).await.unwrap();
        }
        if can_import_definitions {
            let begun = Instant::now();
            import_with_definitions(&server, &mut helpers, from, &name).await;
            imported_whole.push(begun.elapsed());
            let rows: Vec<i64> = admin.query(format!("SELECT COUNT(*) FROM {name}.t99")).await.unwrap();
            assert_eq!(rows, [1_000]);
            admin.query_drop(format!("DROP DATABASE {name}")).await.unwrap();
        }
    }
    let empty = wanted(None);
    let many = 100;
    let each = async || {
        let begun = Instant::now();
        for _ in 0..many {
            create(&empty).await;
        }
        begun.elapsed() / many
    };
    let alone = each().await;
    for other in 0..OTHERS {
        admin.query_drop(format!("CREATE DATABASE tryitnow_other{other}")).await.unwrap();
    }
    let among_others = each().await;
    let base = median(loaded);
    println!("{version:?} {options:?}: {:.1} MB, medians of {ROUNDS}", dump.len() as f64 / 1e6);
    println!("  dump and load                {base:?}");
    for (way, times) in [
        ("copied by this program", copied_first),
        ("by connections that are open", copied),
        ("tables, then transactions", copied_in_transactions),
        ("CREATE LIKE + INSERT SELECT", liked),
        ("tablespace import", imported),
        ("the same with definitions", imported_whole),
        ("(the copied one dropped)", dropped),
    ]
    .into_iter()
    .filter(|(_, times)| !times.is_empty())
    {
        let time = median(times);
        println!("  {way:28} {time:?}, {:.1} times as fast", base.as_secs_f64() / time.as_secs_f64());
    }
    for (others, each) in [(0, alone), (OTHERS, among_others)] {
        let rate = 1.0 / each.as_secs_f64();
        println!("  an empty one made and dropped in {each:?}, {rate:.0} a second, with {others} others");
    }
    let mut listed = vec![];
    for _ in 0..many {
        let begun = Instant::now();
        databases.list().await.unwrap();
        listed.push(begun.elapsed());
    }
    println!("  the names of all databases, with {OTHERS} others, in {:?}", median(listed));
}
