//! Each instance has a database of its own, made before a visitor asks, and dropped with the instance.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use tokio::time::Instant;

use crate::support::harness::{MAX_WAIT, Server, eventually, eventually_within, get};
use crate::support::mariadb_server::{MariaDbServer, PASSWORD, USER, Version};

/// Longest time until the database of a released instance is gone.
const GONE: Duration = Duration::from_secs(5);

const DUMP: &str = "CREATE TABLE posts (text TEXT);\nINSERT INTO posts VALUES ('welcome');\n";

/// A MariaDB, and the folder of a server whose app `blog` writes a post when it starts.
pub(crate) struct Host {
    pub(crate) mariadb: MariaDbServer,
    folder: PathBuf,
}

impl Host {
    pub(crate) async fn start(version: Version) -> Option<Self> {
        let mariadb = MariaDbServer::start(version).await?;
        let folder = std::env::temp_dir().join(format!("try-it-now-serve-{}", uuid::Uuid::now_v7()));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("seed.sql"), DUMP).unwrap();
        let (client, program) = (mariadb.client().display().to_string(), env!("CARGO_BIN_EXE_try-it-now"));
        let file = format!(
            r#"
[templates.blog]
command = ["sh", "-c", """
"{client}" --no-defaults --host="$DB_HOST" --port="$DB_PORT" --user="$DB_USER" --password="$DB_PASSWORD" \
    --skip-ssl --database="$DB_NAME" --execute="INSERT INTO posts VALUES ('$INSTANCE_ID')" && exec "{program}" sample-app"""]
[templates.blog.database]
seed = "seed.sql"
env = {{ DB_HOST = "{{DATABASE_HOST}}", DB_PORT = "{{DATABASE_PORT}}", DB_NAME = "{{DATABASE_NAME}}", DB_USER = "{{DATABASE_USER}}", DB_PASSWORD = "{{DATABASE_PASSWORD}}" }}
[templates.plain]
command = ["{program}", "sample-app"]
"#
        );
        std::fs::write(folder.join("templates.toml"), file).unwrap();
        Some(Self { mariadb, folder })
    }

    async fn serve(&self) -> Server {
        self.serve_in(self.folder.clone(), &[]).await
    }

    /// Starts a server in this state folder, with these variables too. Does not wait for the pools.
    pub(crate) async fn serve_in(&self, state: PathBuf, more: &[(&str, &str)]) -> Server {
        let host = self.mariadb.host();
        let variables = [
            ("PS_DB_HOST", host.as_str()),
            ("PS_DB_USER", USER),
            ("PS_DB_PASSWORD", PASSWORD),
            ("POOL_REPLENISH_THRESHOLD", "1"),
        ];
        let file = self.folder.join("templates.toml");
        let arguments = ["serve", "--config", file.to_str().unwrap()];
        Server::start_in(state, &[&variables, more].concat(), &arguments).await
    }

    /// Runs `clean` for this host's state folder. Returns its exit status, and what it writes.
    fn clean(&self) -> (Option<i32>, String, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_try-it-now"))
            .arg("clean")
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("STATE_DIR", &self.folder)
            .env("CONTAINERD_ADDRESS", self.folder.join("no-containerd.sock"))
            .envs([("PS_DB_HOST", self.mariadb.host().as_str()), ("PS_DB_USER", USER)])
            .env("PS_DB_PASSWORD", PASSWORD)
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    }

    /// Returns the database of an instance, if it has one.
    async fn database_of(&self, id: &str) -> Option<String> {
        let suffix = id.rsplit('-').next().unwrap();
        self.mariadb.names().await.into_iter().find(|name| name.ends_with(suffix))
    }

    /// Returns how many users have this name.
    async fn users(&self, name: &str) -> i64 {
        self.mariadb.query(&format!("SELECT COUNT(*) FROM mysql.user WHERE User = '{name}'")).await[0]
    }

    /// Checks that an instance has a database of its own, with a user, the seed and its own post.
    pub(crate) async fn assert_has_its_own(&self, id: &str) {
        let name = self.database_of(id).await.expect("it has a database");
        assert_eq!(self.users(&name).await, 1, "{name}");
        let posts = format!("SELECT text FROM {name}.posts ORDER BY text = 'welcome' DESC");
        assert_eq!(self.mariadb.query::<String>(&posts).await, ["welcome", id]);
    }
}

#[tokio::test]
async fn two_visitors_have_databases_apart_and_a_released_one_is_gone_while_the_other_stays() {
    for version in [Version::New, Version::Old] {
        let Some(host) = Host::start(version).await else { return };
        let mut server = host.serve().await.full().await;
        let (one, two) = (server.acquire_of("blog").await, server.acquire_of("blog").await);
        host.assert_has_its_own(&one.id).await;
        host.assert_has_its_own(&two.id).await;
        let name = host.database_of(&one.id).await.unwrap();
        let begun = Instant::now();
        assert_eq!(server.call("DELETE", &format!("/api/v1/demo/{}", one.id), "").await.status, 200);
        eventually("its database and its user are gone", async || {
            (host.database_of(&one.id).await.is_none() && host.users(&name).await == 0).then_some(())
        })
        .await;
        assert!(begun.elapsed() < GONE, "after {:?}: {:#?}", begun.elapsed(), server.log());
        host.assert_has_its_own(&two.id).await;
        assert_eq!(get(server.port, &two.host, "/").await.status, 200);
        server.signal("TERM");
        assert_eq!(server.wait_for_exit().await, Some(0));
        assert_eq!(host.mariadb.names().await, [] as [&str; 0], "{version:?}");
    }
}

#[tokio::test]
async fn what_a_killed_server_left_is_dropped_by_the_next_one() {
    let Some(host) = Host::start(Version::New).await else { return };
    let mut first = host.serve().await.full().await;
    let mine = first.acquire_of("blog").await;
    let before = host.mariadb.names().await;
    assert!(before.len() > 2, "{before:?}");
    first.keep_folder();
    first.signal("KILL");
    first.wait_for_exit().await;
    let second = host.serve().await.full().await;
    assert_eq!(second.call("GET", &format!("/api/v1/demo/{}", mine.id), "").await.status, 404);
    eventually("the databases of the killed server are gone", async || {
        let now = host.mariadb.names().await;
        // The seed has the same name with the same content.
        before.iter().filter(|name| !name.contains("_seed")).all(|name| !now.contains(name)).then_some(())
    })
    .await;
    drop(first);
}

#[tokio::test]
async fn a_clean_drops_the_databases_of_its_nodes_and_says_which_remain_without_mariadb() {
    let Some(mut host) = Host::start(Version::New).await else { return };
    let mut server = host.serve().await.full().await;
    let another_state = std::env::temp_dir().join(format!("try-it-now-serve-{}", uuid::Uuid::now_v7()));
    let another = host.serve_in(another_state, &[]).await.full().await;
    let theirs = another.acquire_of("blog").await;
    let another = another.full().await;
    let name = host.database_of(&server.acquire_of("blog").await.id).await.unwrap();
    let (prefix, _) = name.rsplit_once('_').unwrap();
    let count = async |host: &Host| {
        let names = host.mariadb.names().await;
        let ours = names.iter().filter(|name| name.starts_with(prefix)).count();
        (ours, names.len() - ours)
    };
    server.signal("KILL");
    server.wait_for_exit().await;
    server.keep_folder();
    let (ours, of_another) = count(&host).await;
    assert!(ours >= 3 && of_another >= 3, "{ours} and {of_another}");

    host.mariadb.kill();
    let (code, output, errors) = host.clean();
    assert_eq!(code, Some(1), "{output}");
    assert!(output.contains(&format!("nodes/{}/instances", server.node())), "the rest is removed: {output}");
    let remedy =
        errors.contains("run `try-it-now clean` again") && errors.contains("cannot connect to MariaDB");
    assert!(remedy && errors.contains(prefix) && !errors.contains(PASSWORD), "{errors}");

    host.mariadb.restart().await;
    assert_eq!(count(&host).await, (ours, of_another));
    let (code, output, errors) = host.clean();
    assert_eq!(code, Some(0), "{errors}");
    assert!(output.contains(&format!("databases removed: {ours}\n")), "{output}");
    assert_eq!(count(&host).await, (0, of_another));
    host.assert_has_its_own(&theirs.id).await;
    assert_eq!(get(another.port, &theirs.host, "/").await.status, 200);
}

#[tokio::test]
async fn without_mariadb_instances_run_on_and_only_its_templates_pause_with_the_reason() {
    let Some(mut host) = Host::start(Version::New).await else { return };
    let server = host.serve().await.full().await;
    let mine = server.acquire_of("blog").await;
    let server = server.full().await;
    host.mariadb.kill();
    // The pool has two ready ones, whose databases were made before.
    server.acquire_of("blog").await;
    let reason = eventually("the template says why it is not refilled", async || {
        let stats = server.call("GET", "/api/v1/pool/stats?template=blog", "").await.text();
        stats.contains("cannot connect to MariaDB").then_some(stats)
    })
    .await;
    assert!(!reason.contains(PASSWORD) && reason.contains("PS_DB_"), "{reason}");
    assert_eq!(get(server.port, &mine.host, "/").await.status, 200);
    for _ in 0..3 {
        server.acquire_of("plain").await;
        eventually("the other template is refilled", async || {
            let stats = server.call("GET", "/api/v1/pool/stats?template=plain", "").await.json();
            (stats["ready"] == 2).then_some(())
        })
        .await;
    }
    assert_eq!(server.call("GET", "/health", "").await.status, 200);
    // Its database cannot be dropped now, and is found later.
    assert_eq!(server.call("DELETE", &format!("/api/v1/demo/{}", mine.id), "").await.status, 200);
    host.mariadb.restart().await;
    let suffix = mine.id.rsplit('-').next().unwrap().to_owned();
    eventually_within(MAX_WAIT * 2, "the pool is full and the lost database is gone", async || {
        let stats = server.call("GET", "/api/v1/pool/stats?template=blog", "").await.json();
        let is_gone = host.mariadb.names().await.iter().all(|name| !name.ends_with(&suffix));
        (stats["ready"] == 2 && is_gone).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_template_with_a_database_and_no_mariadb_is_an_error_at_the_start() {
    let folder = std::env::temp_dir().join(format!("try-it-now-serve-{}", uuid::Uuid::now_v7()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("templates.toml");
    let text = "[templates.a]\ncommand = ['x']\n[templates.a.database]\nenv.DB = '{DATABASE_NAME}'\n";
    std::fs::write(&file, text).unwrap();
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_try-it-now"));
    command.args(["serve", "--config", file.to_str().unwrap()]).env_clear().env("STATE_DIR", &folder);
    let output = tokio::time::timeout(MAX_WAIT, command.output()).await.expect("it ends").unwrap();
    assert_eq!(output.status.code(), Some(64));
    assert!(String::from_utf8_lossy(&output.stderr).contains("set PS_DB_HOST"), "{output:?}");
    std::fs::remove_dir_all(folder).unwrap();
}
