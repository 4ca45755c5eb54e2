//! Valkeys of a test's own: one server, a cluster of three, or a pair with a Sentinel.
//!
//! Each listens on a loopback address that nobody else has, at the usual ports, and in a folder of its own. All end
//! with the test.

use std::io::Write;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use std::{env, fs, thread};

use redis::{Client, FromRedisValue};
use tokio::time::Instant;
use try_it_now::instance::ClaimToken;

use crate::support::stack;

/// Longest time to start or to take over; met only by a failure.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

const PORT: u16 = 6379;

/// One server.
pub(crate) struct Server {
    child: Child,
    folder: PathBuf,
    ip: Ipv4Addr,
    arguments: Vec<String>,
}

/// What it keeps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Keeps {
    /// Nothing: it forgets all when it ends.
    Nothing,
    /// Each change, in a file that is synced every second.
    Changes,
}

impl Server {
    /// `None`, with a line that says so, where there is no Valkey.
    pub(crate) fn start(keeps: Keeps, more: &[&str]) -> Option<Self> {
        let [.., a, b, c] = ClaimToken::random().0.to_be_bytes();
        // 127.0.0.0/8 is all loopback; the lower half of it may be somebody's by hand.
        let ip = Ipv4Addr::new(127, a | 128, b, c);
        let folder = env::temp_dir().join(format!("try-it-now-valkey-{:032x}", ClaimToken::random().0));
        fs::create_dir_all(&folder).unwrap();
        let appendonly = if keeps == Keeps::Changes { "yes" } else { "no" };
        let mut arguments: Vec<String> = [
            "--unixsocket",
            "socket",
            "--save",
            "",
            "--appendonly",
            appendonly,
            "--appendfsync",
            "everysec",
            "--protected-mode",
            "no",
            "--repl-diskless-sync-delay",
            "0",
            "--port",
        ]
        .map(str::to_owned)
        .to_vec();
        arguments.push(PORT.to_string());
        for word in ["--bind", "--replica-announce-ip", "--cluster-announce-ip"] {
            arguments.extend([word.to_owned(), ip.to_string()]);
        }
        arguments.extend(more.iter().map(|word| (*word).to_owned()));
        let child = spawn(&folder, &arguments)?;
        let server = Self { child, folder, ip, arguments };
        server.answers();
        Some(server)
    }

    /// Kills it, as a crash would.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again where it was, with what it kept.
    pub(crate) fn start_again(&mut self) {
        self.kill();
        self.child = spawn(&self.folder, &self.arguments).expect("it was there a moment ago");
        self.answers();
    }

    /// Loses all that it kept.
    pub(crate) fn forget(&mut self) {
        self.kill();
        let _ = fs::remove_dir_all(self.folder.join("appendonlydir"));
    }

    /// Keeps a copy of what it has written so far.
    pub(crate) fn keep_copy(&self) {
        let copy = self.folder.join("copy");
        fs::create_dir_all(&copy).unwrap();
        for entry in fs::read_dir(self.folder.join("appendonlydir")).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
        }
    }

    /// Loses all that it wrote since that copy was made.
    pub(crate) fn fall_back(&mut self) {
        self.forget();
        fs::rename(self.folder.join("copy"), self.folder.join("appendonlydir")).unwrap();
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> (String, u16) {
        (self.ip.to_string(), PORT)
    }

    /// Its socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.join("socket")
    }

    /// Asks it, on a connection of its own.
    pub(crate) fn ask<T: FromRedisValue>(&self, words: &[&str]) -> redis::RedisResult<T> {
        let client = Client::open(format!("redis://{}:{PORT}", self.ip))?;
        let mut connection = client.get_connection_with_timeout(Duration::from_secs(2))?;
        connection.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        command.query(&mut connection)
    }

    fn answers(&self) {
        wait_until("Valkey answers", || self.ask::<String>(&["PING"]).is_ok());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn spawn(folder: &Path, arguments: &[String]) -> Option<Child> {
    let path = stack::programs("valkey-server")?;
    let mut command = Command::new("valkey-server");
    command.env("PATH", path).args(arguments).current_dir(folder).stdin(Stdio::null()).stdout(Stdio::null());
    Some(command.spawn().unwrap())
}

/// Until it is true, looked at again and again.
pub(crate) fn wait_until(what: &str, mut is: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is() {
        assert!(begun.elapsed() < PATIENCE, "never happened: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Three servers that share the keys.
pub(crate) struct Cluster(Vec<Server>);

impl Cluster {
    /// `None` where there is no Valkey.
    pub(crate) fn start() -> Option<Self> {
        let options = ["--cluster-enabled", "yes", "--cluster-node-timeout", "2000"];
        let servers: Vec<Server> =
            (0..3).map(|_| Server::start(Keeps::Nothing, &options)).collect::<Option<_>>()?;
        for (n, server) in servers.iter().enumerate() {
            let (first, last) = (n * 16_384 / 3, (n + 1) * 16_384 / 3 - 1);
            let slots = ["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()];
            server.ask::<()>(&slots).unwrap();
            server.ask::<()>(&["CLUSTER", "SET-CONFIG-EPOCH", &(n + 1).to_string()]).unwrap();
        }
        for other in &servers[1..] {
            let (ip, port) = other.address();
            servers[0].ask::<()>(&["CLUSTER", "MEET", &ip, &port.to_string()]).unwrap();
        }
        for server in &servers {
            wait_until("the cluster is whole", || {
                let info: String = server.ask(&["CLUSTER", "INFO"]).unwrap();
                ["cluster_state:ok", "cluster_slots_ok:16384", "cluster_known_nodes:3"]
                    .iter()
                    .all(|line| info.contains(line))
            });
        }
        Some(Self(servers))
    }

    pub(crate) fn addresses(&self) -> Vec<(String, u16)> {
        self.0.iter().map(Server::address).collect()
    }

    /// The server that has a key.
    pub(crate) fn owner(&mut self, key: &str) -> &mut Server {
        let slot: usize = self.0[0].ask(&["CLUSTER", "KEYSLOT", key]).unwrap();
        let n = (0..3).find(|n| slot < (n + 1) * 16_384 / 3).unwrap();
        &mut self.0[n]
    }
}

/// A server, its replica, and a Sentinel that watches them.
pub(crate) struct Watched {
    pub(crate) master: Server,
    pub(crate) replica: Server,
    sentinel: Server,
}

/// What the Sentinel calls them.
pub(crate) const SERVICE: &str = "shared";

impl Watched {
    /// `None` where there is no Valkey.
    pub(crate) fn start() -> Option<Self> {
        let master = Server::start(Keeps::Nothing, &[])?;
        let (ip, port) = master.address();
        let replica = Server::start(Keeps::Nothing, &["--replicaof", &ip, &port.to_string()])?;
        let sentinel = Self::sentinel(&ip)?;
        wait_until("the replica has the whole of its master", || {
            replica
                .ask::<String>(&["INFO", "replication"])
                .is_ok_and(|it| it.contains("master_link_status:up"))
        });
        wait_until("the Sentinel knows the replica", || {
            let known: redis::RedisResult<Vec<redis::Value>> =
                sentinel.ask(&["SENTINEL", "REPLICAS", SERVICE]);
            known.is_ok_and(|replicas| replicas.len() == 1)
        });
        Some(Self { master, replica, sentinel })
    }

    fn sentinel(master: &str) -> Option<Server> {
        let [.., a, b, c] = ClaimToken::random().0.to_be_bytes();
        let ip = Ipv4Addr::new(127, a | 128, b, c);
        let folder = env::temp_dir().join(format!("try-it-now-valkey-{:032x}", ClaimToken::random().0));
        fs::create_dir_all(&folder).unwrap();
        // It writes to its file what it learns.
        let mut file = fs::File::create(folder.join("sentinel.conf")).unwrap();
        writeln!(
            file,
            "port {PORT}\nbind {ip}\nprotected-mode no\nsentinel monitor {SERVICE} {master} {PORT} 1\n\
             sentinel down-after-milliseconds {SERVICE} 500\nsentinel failover-timeout {SERVICE} 3000"
        )
        .unwrap();
        let arguments = vec!["sentinel.conf".to_owned(), "--sentinel".to_owned()];
        let child = spawn(&folder, &arguments)?;
        let server = Server { child, folder, ip, arguments };
        server.answers();
        Some(server)
    }

    /// Where the Sentinel listens.
    pub(crate) fn address(&self) -> (String, u16) {
        self.sentinel.address()
    }

    /// Makes the replica the master, while the old one lives.
    pub(crate) fn swap(&self) {
        self.sentinel.ask::<()>(&["SENTINEL", "FAILOVER", SERVICE]).unwrap();
    }

    /// Waits until the Sentinel names the replica as the master.
    pub(crate) fn swapped(&self) {
        let (ip, _) = self.replica.address();
        wait_until("the replica is the master", || {
            let named: redis::RedisResult<Vec<String>> =
                self.sentinel.ask(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE]);
            named.is_ok_and(|named| named[0] == ip)
        });
    }
}
