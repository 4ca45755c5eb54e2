//! The conformance suite of the trait `Databases`: what every implementation with a server does.
//!
//! `database_suite!(NAME, VERSION)` runs it on one version of MariaDB.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use try_it_now::instance::{InstanceId, NodeId, TemplateName};
use try_it_now::runtime::mariadb::{MariaDb, Settings, Tls};
use try_it_now::runtime::{DatabaseAccess, Databases};
use try_it_now::template::{Database, Secret};

use crate::support::mariadb_server::{MariaDbServer, PASSWORD, PREFIX, USER, Version};

/// The password of the instances of these tests.
pub(crate) const OWN_PASSWORD: &str = "abcdefgh23456789abcdefgh23456789";

/// A server, and the databases of a node on it.
pub(crate) struct DatabaseFixture {
    pub(crate) server: MariaDbServer,
    pub(crate) databases: Arc<MariaDb>,
}

impl DatabaseFixture {
    pub(crate) async fn start(version: Version) -> Option<Self> {
        let server = MariaDbServer::start(version).await?;
        let databases = Arc::new(MariaDb::new(settings(&server, "node-a")));
        Some(Self { server, databases })
    }

    /// Makes the database of a new instance.
    pub(crate) async fn create(&self, wanted: &Database) -> (InstanceId, DatabaseAccess) {
        let id = new_id();
        self.databases.create_database(&id, wanted, &Secret::new(OWN_PASSWORD)).await.unwrap();
        let access = self.databases.access(&id).unwrap();
        (id, access)
    }

    /// Connects as the user of an instance.
    pub(crate) async fn connect(&self, access: &DatabaseAccess) -> mysql_async::Result<Conn> {
        self.server.connect(&access.user, OWN_PASSWORD, Some(&access.name)).await
    }

    /// Writes a dump and returns what a template says that wants it.
    pub(crate) fn seed(&self, dump: &str) -> Database {
        let path = self.server.folder().join("seed.sql");
        std::fs::write(&path, dump).unwrap();
        wanted(Some(path))
    }
}

pub(crate) fn settings(server: &MariaDbServer, node: &str) -> Settings {
    Settings {
        host: server.host(),
        port: 3306,
        user: USER.to_owned(),
        password: Some(Secret::new(PASSWORD)),
        tls: Tls::Prefer,
        prefix: PREFIX.to_owned(),
        node: NodeId::parse(node).unwrap(),
        statement_deadline: Settings::STATEMENT_DEADLINE,
    }
}

pub(crate) fn wanted(seed: Option<PathBuf>) -> Database {
    Database { seed, max_connections: 3, env: Default::default() }
}

pub(crate) fn new_id() -> InstanceId {
    InstanceId::random(&TemplateName::new("my-shop").unwrap())
}

/// A dump with what a dump has: comments, versions, an unusual name, generated columns, keys, binary and odd values.
pub(crate) const DUMP: &str = r"/*M!999999\- enable the sandbox mode */
-- MariaDB dump; of 'shop'
/*!40101 SET @OLD_CHARACTER_SET_CLIENT=@@CHARACTER_SET_CLIENT */;
/*!40101 SET NAMES utf8mb4 */;
SET FOREIGN_KEY_CHECKS=0;
DROP TABLE IF EXISTS `posts`;
CREATE TABLE `posts` (`id` int NOT NULL AUTO_INCREMENT, `author` int NOT NULL, `text` text, `raw` blob,
  `length` int GENERATED ALWAYS AS (char_length(`text`)) STORED, PRIMARY KEY (`id`),
  CONSTRAINT `by` FOREIGN KEY (`author`) REFERENCES `odd ``name; --` (`i;d`)) ENGINE=InnoDB AUTO_INCREMENT=77;
CREATE TABLE `odd ``name; --` (`i;d` int PRIMARY KEY, `at` datetime DEFAULT '0000-00-00 00:00:00') ENGINE=InnoDB;
CREATE TABLE `empty` (`a` int) ENGINE=MyISAM;
INSERT INTO `odd ``name; --` VALUES (0, '0000-00-00 00:00:00'), (1, '2026-01-02 03:04:05');
INSERT INTO `posts` (`id`, `author`, `text`, `raw`) VALUES (1, 1, 'it''s; \'ü\' \\', x'00FF27');
";

/// What a dump of triggers and views adds.
pub(crate) const TRIGGER_AND_VIEW: &str = r"
DELIMITER ;;
/*!50003 CREATE TRIGGER shout BEFORE INSERT ON posts FOR EACH ROW BEGIN SET NEW.text = UPPER(NEW.text); END */;;
DELIMITER ;
CREATE VIEW texts AS SELECT text FROM posts;
";

pub(crate) async fn an_instance_connects_to_its_own_database_and_it_is_gone_with_the_instance(
    it: DatabaseFixture,
) {
    let (id, access) = it.create(&wanted(None)).await;
    let mut app = it.connect(&access).await.unwrap();
    app.query_drop("CREATE TABLE a (b INT)").await.unwrap();
    assert_eq!(it.server.names().await, std::slice::from_ref(&access.name));
    it.databases.drop_database(&id).await.unwrap();
    assert_eq!(it.server.names().await, [] as [&str; 0]);
    assert!(app.query_drop("SELECT 1").await.is_err(), "its connection has ended");
    assert!(it.connect(&access).await.is_err(), "its user is gone");
    it.databases.drop_database(&id).await.unwrap();
}

pub(crate) async fn an_instance_that_ends_in_the_middle_of_a_transaction_leaves_nothing(it: DatabaseFixture) {
    let (id, access) = it.create(&wanted(None)).await;
    let mut app = it.connect(&access).await.unwrap();
    app.query_drop("CREATE TABLE a (b INT) ENGINE=InnoDB").await.unwrap();
    app.query_drop("START TRANSACTION").await.unwrap();
    app.query_drop("INSERT INTO a VALUES (1)").await.unwrap();
    it.databases.drop_database(&id).await.unwrap();
    assert_eq!(it.server.names().await, [] as [&str; 0]);
}

pub(crate) async fn two_instances_are_apart_and_one_ends_without_the_other(it: DatabaseFixture) {
    let wanted = it.seed(DUMP);
    let ((one, of_one), (_, of_two)) = (it.create(&wanted).await, it.create(&wanted).await);
    let (mut app_one, mut app_two) = (it.connect(&of_one).await.unwrap(), it.connect(&of_two).await.unwrap());
    app_one.query_drop("INSERT INTO posts (author, text) VALUES (1, 'one')").await.unwrap();
    app_two.query_drop("INSERT INTO posts (author, text) VALUES (1, 'two')").await.unwrap();
    it.databases.drop_database(&one).await.unwrap();
    let texts: Vec<String> = app_two.query("SELECT text FROM posts WHERE id > 1").await.unwrap();
    assert_eq!(texts, ["two"]);
    assert!(it.connect(&of_one).await.is_err());
}

pub(crate) async fn a_seed_is_copied_with_its_rows_keys_and_generated_columns(it: DatabaseFixture) {
    let wanted = it.seed(DUMP);
    let (_, access) = it.create(&wanted).await;
    let mut app = it.connect(&access).await.unwrap();
    let posts: Vec<(i32, i32, String, Vec<u8>, i32)> = app.query("SELECT * FROM posts").await.unwrap();
    assert_eq!(posts, [(1, 1, r"it's; 'ü' \".to_owned(), vec![0, 0xff, 0x27], 11)]);
    let odd: Vec<(i32, String)> = app.query("SELECT `i;d`, CONCAT(at) FROM `odd ``name; --`").await.unwrap();
    assert_eq!(odd, [(0, "0000-00-00 00:00:00".to_owned()), (1, "2026-01-02 03:04:05".to_owned())]);
    app.query_drop("INSERT INTO posts (author) VALUES (1)").await.unwrap();
    let next: Vec<i32> = app.query("SELECT MAX(id) FROM posts").await.unwrap();
    assert_eq!(next, [77], "the counter of the dump");
    let orphan = app.query_drop("INSERT INTO posts (author) VALUES (5)").await;
    assert!(orphan.unwrap_err().to_string().contains("foreign key"));
    assert!(app.query::<i32, _>("SELECT a FROM empty").await.unwrap().is_empty());
}

pub(crate) async fn tables_that_refer_to_each_other_are_copied_at_the_same_time(it: DatabaseFixture) {
    const TABLES: usize = 40;
    let mut dump = "SET FOREIGN_KEY_CHECKS=0;\n".to_owned();
    for table in 0..TABLES {
        let (next, last) = ((table + 1) % TABLES, (table + TABLES - 1) % TABLES);
        dump += &format!(
            "CREATE TABLE t{table} (id INT PRIMARY KEY, FOREIGN KEY (id) REFERENCES t{next} (id) ON DELETE CASCADE, \
             FOREIGN KEY (id) REFERENCES t{last} (id)) ENGINE=InnoDB;\nINSERT INTO t{table} VALUES (1), (2), ({table} + 3);\n"
        );
    }
    let wanted = it.seed(&dump);
    // Several copies share the connections that may be open.
    let copies = (0..4).map(|_| it.create(&wanted));
    for (_, access) in futures_util::future::join_all(copies).await {
        let mut app = it.connect(&access).await.unwrap();
        for table in 0..TABLES {
            let ids: Vec<usize> = app.query(format!("SELECT id FROM t{table} ORDER BY id")).await.unwrap();
            assert_eq!(ids, [1, 2, table + 3]);
        }
        let keys: Vec<usize> = app
            .query("SELECT COUNT(*) FROM information_schema.REFERENTIAL_CONSTRAINTS WHERE CONSTRAINT_SCHEMA = DATABASE()")
            .await
            .unwrap();
        assert_eq!(keys, [2 * TABLES]);
    }
}

pub(crate) async fn a_seed_with_triggers_and_views_is_loaded_for_each_instance(it: DatabaseFixture) {
    let wanted = it.seed(&format!("{DUMP}{TRIGGER_AND_VIEW}"));
    for _ in 0..2 {
        let (_, access) = it.create(&wanted).await;
        let mut app = it.connect(&access).await.unwrap();
        app.query_drop("INSERT INTO posts (author, text) VALUES (1, 'loud')").await.unwrap();
        let texts: Vec<String> = app.query("SELECT text FROM texts").await.unwrap();
        assert_eq!(texts, [r"it's; 'ü' \", "LOUD"]);
    }
}

pub(crate) async fn a_seed_that_changes_has_an_effect_on_the_next_instance(it: DatabaseFixture) {
    let wanted = it.seed("CREATE TABLE a (b INT); INSERT INTO a VALUES (1);");
    let (one, of_one) = it.create(&wanted).await;
    it.seed("CREATE TABLE a (b INT); INSERT INTO a VALUES (22);");
    let (two, of_two) = it.create(&wanted).await;
    for (access, value) in [(&of_one, 1), (&of_two, 22)] {
        let mut app = it.connect(access).await.unwrap();
        assert_eq!(app.query::<i32, _>("SELECT b FROM a").await.unwrap(), [value]);
    }
    // The seed that is not used any more is dropped, the other one stays.
    let listed = it.databases.list().await.unwrap();
    assert_eq!(listed.len(), 4);
    assert_eq!(it.databases.drop_unowned(listed, &HashSet::from([one, two])).await.unwrap(), 1);
    it.create(&wanted).await;
}

pub(crate) async fn a_seed_that_cannot_be_loaded_says_where_and_leaves_nothing(it: DatabaseFixture) {
    for (dump, why) in [
        ("CREATE TABLE a (b INT);\nINSERT INTO a VALUES (1, 2);\n", "line 2"),
        ("CREATE DATABASE other;", "line 1"),
        ("CREATE TABLE mysql.a (b INT);", "line 1"),
        ("USE mysql;", "line 1"),
        ("GRANT ALL ON *.* TO CURRENT_USER;", "line 1"),
        ("CREATE TABLE a (b INT);\nLOAD DATA LOCAL INFILE '/etc/passwd' INTO TABLE a;", "line 2"),
    ] {
        let (wanted, id) = (it.seed(dump), new_id());
        let failed = it.databases.create_database(&id, &wanted, &Secret::new(OWN_PASSWORD)).await;
        let failed = failed.unwrap_err().to_string();
        assert!(failed.contains("seed.sql") && failed.contains(why), "{dump}: {failed}");
        it.databases.drop_database(&id).await.unwrap();
        assert_eq!(it.server.names().await, [] as [&str; 0], "{dump}");
    }
    let missing = wanted(Some("/nonexistent/seed.sql".into()));
    let failed = it.databases.create_database(&new_id(), &missing, &Secret::new(OWN_PASSWORD)).await;
    assert!(failed.unwrap_err().to_string().contains("write the path of a dump"));
}

pub(crate) async fn what_has_no_owner_is_dropped_and_another_nodes_and_the_operators_stay(
    it: DatabaseFixture,
) {
    let (kept, of_kept) = it.create(&wanted(None)).await;
    let (_, lost) = it.create(&wanted(None)).await;
    let (_, halfway) = it.create(&wanted(None)).await;
    // As a crash between two statements leaves it.
    it.server.admin().await.query_drop(format!("DROP DATABASE {}", halfway.name)).await.unwrap();
    let peer = MariaDb::new(settings(&it.server, "node-b"));
    let of_peer = new_id();
    peer.create_database(&of_peer, &wanted(None), &Secret::new(OWN_PASSWORD)).await.unwrap();
    it.server.admin().await.query_drop(format!("CREATE DATABASE {PREFIX}_books")).await.unwrap();
    let listed = it.databases.list().await.unwrap();
    assert_eq!(listed.len(), 3);
    assert_eq!(it.databases.drop_unowned(listed, &HashSet::from([kept])).await.unwrap(), 2);
    let mut left = vec![of_kept.name, peer.access(&of_peer).unwrap().name, format!("{PREFIX}_books")];
    left.sort();
    assert_eq!(it.server.names().await, left);
    assert!(it.connect(&lost).await.is_err());
}

pub(crate) async fn the_databases_of_a_node_that_is_gone_are_dropped_by_another(it: DatabaseFixture) {
    let seed = it.seed(DUMP);
    let (_, own) = it.create(&wanted(None)).await;
    let dead = MariaDb::new(settings(&it.server, "node-b"));
    for _ in 0..2 {
        dead.create_database(&new_id(), &seed, &Secret::new(OWN_PASSWORD)).await.unwrap();
    }
    // Two nodes do so at once.
    let of_dead = || it.databases.of_node(&NodeId::parse("node-b").unwrap());
    let (one, other) = (of_dead(), of_dead());
    let listed = one.list().await.unwrap();
    assert_eq!(listed.len(), 3, "two instances and the seed");
    let none = HashSet::new();
    let (one, other) =
        tokio::join!(one.drop_unowned(listed.clone(), &none), other.drop_unowned(listed, &none));
    assert_eq!((one.unwrap(), other.unwrap()), (3, 3));
    assert_eq!(it.server.names().await, [own.name]);
}

pub(crate) async fn a_shutdown_leaves_only_what_is_kept(it: DatabaseFixture) {
    let wanted = it.seed(DUMP);
    let ((kept, of_kept), _) = (it.create(&wanted).await, it.create(&wanted).await);
    it.databases.shut_down(&HashSet::from([kept])).await.unwrap();
    assert_eq!(it.server.names().await, [of_kept.name]);
}

pub(crate) async fn an_instance_has_no_more_connections_than_its_template_says(it: DatabaseFixture) {
    let (_, access) = it.create(&wanted(None)).await;
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(it.connect(&access).await.unwrap());
    }
    assert!(it.connect(&access).await.unwrap_err().to_string().contains("max_user_connections"));
}

macro_rules! database_suite {
    ($name:ident, $version:expr) => {
        mod $name {
            use crate::suites::databases::{self, DatabaseFixture};
            use crate::support::mariadb_server::Version;
            database_suite!(@tests $version;
                an_instance_connects_to_its_own_database_and_it_is_gone_with_the_instance
                an_instance_that_ends_in_the_middle_of_a_transaction_leaves_nothing
                two_instances_are_apart_and_one_ends_without_the_other
                a_seed_is_copied_with_its_rows_keys_and_generated_columns
                tables_that_refer_to_each_other_are_copied_at_the_same_time
                a_seed_with_triggers_and_views_is_loaded_for_each_instance
                a_seed_that_changes_has_an_effect_on_the_next_instance
                a_seed_that_cannot_be_loaded_says_where_and_leaves_nothing
                what_has_no_owner_is_dropped_and_another_nodes_and_the_operators_stay
                the_databases_of_a_node_that_is_gone_are_dropped_by_another
                a_shutdown_leaves_only_what_is_kept
                an_instance_has_no_more_connections_than_its_template_says
            );
        }
    };
    (@tests $version:expr; $($test:ident)*) => {
        $(
            #[tokio::test]
            async fn $test() {
                if let Some(fixture) = DatabaseFixture::start($version).await {
                    databases::$test(fixture).await;
                }
            }
        )*
    };
}
