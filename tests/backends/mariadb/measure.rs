//! How long it takes to make a database from a seed of 100 tables and 50 MB, by each way that there is: `make measure-backends`.

use std::fmt::Write as _;
use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use tokio::time::Instant;
use try_it_now::runtime::Databases;
use try_it_now::runtime::mariadb::MariaDb;
use try_it_now::template::Secret;

use crate::suites::databases::{OWN_PASSWORD, new_id, settings, wanted};
use crate::support::mariadb_server::{MariaDbServer, PASSWORD, USER, Version};

const TABLES: usize = 100;
/// Rows of a table, of about 500 bytes each.
const ROWS: usize = 1_000;
const ROUNDS: usize = 5;

/// Returns what `mariadb-dump` writes for such a database: keys, and one insertion with all rows for each table.
fn dump() -> String {
    let mut dump = "SET NAMES utf8mb4;\nSET FOREIGN_KEY_CHECKS=0, UNIQUE_CHECKS=0;\n".to_owned();
    for table in 0..TABLES {
        let columns = "id BIGINT NOT NULL AUTO_INCREMENT, author BIGINT NOT NULL, title VARCHAR(100) NOT NULL, \
                       body TEXT, PRIMARY KEY (id), KEY author (author), KEY title (title)";
        write!(dump, "CREATE TABLE t{table} ({columns}) ENGINE=InnoDB;\nINSERT INTO t{table} VALUES ")
            .unwrap();
        for row in 0..ROWS {
            let (title, end) = (row * 7919 % 10_007, if row + 1 == ROWS { ";\n" } else { "," });
            write!(
                dump,
                "({},{},'title {title} of {table}','{}'){end}",
                row + 1,
                row % 17,
                "lorem ip".repeat(55)
            )
            .unwrap();
        }
    }
    dump
}

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

/// Imports the tablespaces of a database whose tables are flushed for export, as an operator on the same host could.
async fn import_tablespaces(server: &MariaDbServer, admin: &mut Conn, from: &str, name: &str) {
    let data = server.folder().join("data");
    admin.query_drop(format!("CREATE DATABASE {name}")).await.unwrap();
    admin.query_drop(format!("USE {name}")).await.unwrap();
    let tables: Vec<String> = (0..TABLES).map(|table| format!("t{table}")).collect();
    for table in &tables {
        admin.query_drop(format!("CREATE TABLE {table} LIKE {from}.{table}")).await.unwrap();
        admin.query_drop(format!("ALTER TABLE {table} DISCARD TABLESPACE")).await.unwrap();
    }
    let list: Vec<String> = tables.iter().map(|table| format!("{from}.{table}")).collect();
    admin.query_drop(format!("FLUSH TABLES {} FOR EXPORT", list.join(","))).await.unwrap();
    for table in &tables {
        for extension in ["ibd", "cfg"] {
            let file = format!("{table}.{extension}");
            fs::copy(data.join(from).join(&file), data.join(name).join(&file)).unwrap();
        }
    }
    admin.query_drop("UNLOCK TABLES").await.unwrap();
    for table in &tables {
        admin.query_drop(format!("ALTER TABLE {table} IMPORT TABLESPACE")).await.unwrap();
    }
}

/// The sizes that MariaDB has by default: those of the other tests are smaller.
const DEFAULTS: [&str; 2] = ["--innodb-log-file-size=96M", "--innodb-buffer-pool-size=128M"];
/// What docs/databases.md recommends for a MariaDB that has only the databases of instances.
const RECOMMENDED: [&str; 4] = [
    "--innodb-log-file-size=1G",
    "--innodb-buffer-pool-size=1G",
    "--innodb-flush-log-at-trx-commit=2",
    "--innodb-file-per-table=OFF",
];

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
        let took = begun.elapsed();
        databases.drop_database(&id).await.unwrap();
        took
    };
    create(&seeded).await;
    let names = server.names().await;
    let from = names.iter().find(|name| name.contains("_seed")).unwrap();
    let mut admin = server.admin().await;
    let has_files = admin.query_first("SELECT @@innodb_file_per_table").await.unwrap() == Some(1);
    let (mut loaded, mut copied, mut liked, mut imported) = (vec![], vec![], vec![], vec![]);
    for round in 0..ROUNDS {
        let name = format!("tryitnow_measured{round}");
        let begun = Instant::now();
        load_with_client(&server, &name, &dump);
        loaded.push(begun.elapsed());
        admin.query_drop(format!("DROP DATABASE {name}")).await.unwrap();
        copied.push(create(&seeded).await);
        let begun = Instant::now();
        admin.query_drop(format!("CREATE DATABASE {name}")).await.unwrap();
        for table in 0..TABLES {
            let (source, target) = (format!("{from}.t{table}"), format!("{name}.t{table}"));
            admin.query_drop(format!("CREATE TABLE {target} LIKE {source}")).await.unwrap();
            admin.query_drop(format!("INSERT INTO {target} SELECT * FROM {source}")).await.unwrap();
        }
        liked.push(begun.elapsed());
        admin.query_drop(format!("DROP DATABASE {name}")).await.unwrap();
        if has_files {
            let begun = Instant::now();
            import_tablespaces(&server, &mut admin, from, &name).await;
            imported.push(begun.elapsed());
            admin.query_drop(format!("DROP DATABASE {name}")).await.unwrap();
        }
    }
    let empty = wanted(None);
    let (begun, many) = (Instant::now(), 100);
    for _ in 0..many {
        create(&empty).await;
    }
    let each = begun.elapsed() / many;
    let base = median(loaded);
    println!("{version:?} {options:?}: {:.1} MB, medians of {ROUNDS}", dump.len() as f64 / 1e6);
    println!("  dump and load                {base:?}");
    for (way, times) in [
        ("copied by this program", copied),
        ("CREATE LIKE + INSERT SELECT", liked),
        ("tablespace import", imported),
    ]
    .into_iter()
    .filter(|(_, times)| !times.is_empty())
    {
        let time = median(times);
        println!("  {way:28} {time:?}, {:.1} times as fast", base.as_secs_f64() / time.as_secs_f64());
    }
    println!("  an empty one made and dropped in {each:?}, {:.0} a second", 1.0 / each.as_secs_f64());
    let mut listed = vec![];
    for _ in 0..many {
        let begun = Instant::now();
        databases.list().await.unwrap();
        listed.push(begun.elapsed());
    }
    println!("  a connection with one query   {:?}", median(listed));
}
