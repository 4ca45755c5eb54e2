//! Valkey servers that belong to one test: a single server, a cluster of three, or a primary and a replica with a
//! Sentinel.
//!
//! Each listens on a loopback address of its own at the usual port and runs in a folder of its own. All end with the
//! test.

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

/// The longest time that a server may take to start or to take over. Only a failure takes that long.
pub(crate) const MAX_WAIT: Duration = Duration::from_secs(20);

const PORT: u16 = 6379;

/// One Valkey server.
pub(crate) struct ValkeyServer {
    child: Child,
    folder: PathBuf,
    ip: Ipv4Addr,
    arguments: Vec<String>,
    variables: Vec<(String, String)>,
}

/// What a server keeps on disk.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Persistence {
    /// Nothing: all data is lost when it ends.
    None,
    /// Each change, in the append-only file, which is synced every second.
    AppendOnly,
}

impl ValkeyServer {
    /// Starts a server. Returns `None` and prints why if Valkey is not installed.
    pub(crate) fn start(keeps: Persistence, more: &[&str]) -> Option<Self> {
        Self::start_with(keeps, more, &[])
    }

    /// Starts a server with these environment variables too.
    pub(crate) fn start_with(keeps: Persistence, more: &[&str], variables: &[(&str, &str)]) -> Option<Self> {
        let [.., a, b, c] = ClaimToken::random().0.to_be_bytes();
        // All of 127.0.0.0/8 is loopback. Addresses of the lower half may be in use on this host.
        let ip = Ipv4Addr::new(127, a | 128, b, c);
        let folder = env::temp_dir().join(format!("try-it-now-valkey-{:032x}", ClaimToken::random().0));
        fs::create_dir_all(&folder).unwrap();
        let appendonly = if keeps == Persistence::AppendOnly { "yes" } else { "no" };
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
        let variables: Vec<_> =
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let child = spawn(&folder, &arguments, &variables)?;
        let server = Self { child, folder, ip, arguments, variables };
        server.wait_until_it_answers();
        Some(server)
    }

    /// Kills the process, as a crash does.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts the server again at its address, with the data that is on disk.
    pub(crate) fn restart(&mut self) {
        self.kill();
        self.child = spawn(&self.folder, &self.arguments, &self.variables).expect("it started before");
        self.wait_until_it_answers();
    }

    /// Kills the server and removes all data on disk.
    pub(crate) fn lose_data(&mut self) {
        self.kill();
        let _ = fs::remove_dir_all(self.folder.join("appendonlydir"));
    }

    /// Copies the append-only file as it is now.
    pub(crate) fn save_backup(&self) {
        let copy = self.folder.join("copy");
        fs::create_dir_all(&copy).unwrap();
        for entry in fs::read_dir(self.folder.join("appendonlydir")).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
        }
    }

    /// Kills the server and puts the data of that copy in place of all that was written since.
    pub(crate) fn restore_backup(&mut self) {
        self.lose_data();
        fs::rename(self.folder.join("copy"), self.folder.join("appendonlydir")).unwrap();
    }

    /// Returns the address and the port on which it listens.
    pub(crate) fn address(&self) -> (String, u16) {
        (self.ip.to_string(), PORT)
    }

    /// Returns its address in the form that `VALKEY_ADDR` takes, `host:port`.
    pub(crate) fn host_and_port(&self) -> String {
        format!("{}:{PORT}", self.ip)
    }

    /// Returns the path of its Unix socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.join("socket")
    }

    /// Sends one command on a connection of its own and returns the answer.
    pub(crate) fn query<T: FromRedisValue>(&self, command: &[&str]) -> redis::RedisResult<T> {
        let client = Client::open(format!("redis://{}:{PORT}", self.ip))?;
        let mut connection = client.get_connection_with_timeout(Duration::from_secs(2))?;
        connection.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut request = redis::cmd(command[0]);
        request.arg(&command[1..]);
        request.query(&mut connection)
    }

    fn wait_until_it_answers(&self) {
        wait_until("Valkey answers", || self.query::<String>(&["PING"]).is_ok());
    }
}

impl Drop for ValkeyServer {
    fn drop(&mut self) {
        self.kill();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn spawn(folder: &Path, arguments: &[String], variables: &[(String, String)]) -> Option<Child> {
    let path = stack::path_with("valkey-server")?;
    let mut command = Command::new("valkey-server");
    command.envs(variables.iter().map(|(name, value)| (name, value)));
    command.env("PATH", path).args(arguments).current_dir(folder).stdin(Stdio::null()).stdout(Stdio::null());
    Some(command.spawn().unwrap())
}

/// Polls `is` until it is true. Panics after [`MAX_WAIT`].
pub(crate) fn wait_until(what: &str, mut is: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is() {
        assert!(begun.elapsed() < MAX_WAIT, "timed out: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// A cluster of three servers.
pub(crate) struct ValkeyCluster(Vec<ValkeyServer>);

impl ValkeyCluster {
    /// Starts all servers and waits until they know each other. Returns `None` if Valkey is not installed.
    pub(crate) fn start() -> Option<Self> {
        let options = ["--cluster-enabled", "yes", "--cluster-node-timeout", "2000"];
        let servers: Vec<ValkeyServer> =
            (0..3).map(|_| ValkeyServer::start(Persistence::None, &options)).collect::<Option<_>>()?;
        for (n, server) in servers.iter().enumerate() {
            let (first, last) = (n * 16_384 / 3, (n + 1) * 16_384 / 3 - 1);
            let slots = ["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()];
            server.query::<()>(&slots).unwrap();
            server.query::<()>(&["CLUSTER", "SET-CONFIG-EPOCH", &(n + 1).to_string()]).unwrap();
        }
        for other in &servers[1..] {
            let (ip, port) = other.address();
            servers[0].query::<()>(&["CLUSTER", "MEET", &ip, &port.to_string()]).unwrap();
        }
        for server in &servers {
            wait_until("all slots of the cluster are served", || {
                let info: String = server.query(&["CLUSTER", "INFO"]).unwrap();
                ["cluster_state:ok", "cluster_slots_ok:16384", "cluster_known_nodes:3"]
                    .iter()
                    .all(|line| info.contains(line))
            });
        }
        Some(Self(servers))
    }

    pub(crate) fn addresses(&self) -> Vec<(String, u16)> {
        self.0.iter().map(ValkeyServer::address).collect()
    }

    /// Returns the server that owns the slot of a key.
    pub(crate) fn owner(&mut self, key: &str) -> &mut ValkeyServer {
        let slot: usize = self.0[0].query(&["CLUSTER", "KEYSLOT", key]).unwrap();
        let n = (0..3).find(|n| slot < (n + 1) * 16_384 / 3).unwrap();
        &mut self.0[n]
    }
}

/// A primary, its replica, and a Sentinel that monitors both.
pub(crate) struct ReplicatedValkey {
    pub(crate) primary: ValkeyServer,
    pub(crate) replica: ValkeyServer,
    sentinel: ValkeyServer,
}

/// The name under which the Sentinel monitors them.
pub(crate) const SERVICE: &str = "shared";

impl ReplicatedValkey {
    /// Starts all servers and waits until they know each other. Returns `None` if Valkey is not installed.
    pub(crate) fn start() -> Option<Self> {
        let primary = ValkeyServer::start(Persistence::None, &[])?;
        let (ip, port) = primary.address();
        let replica = ValkeyServer::start(Persistence::None, &["--replicaof", &ip, &port.to_string()])?;
        let sentinel = Self::sentinel(&ip)?;
        wait_until("the replica is in sync with the primary", || {
            replica
                .query::<String>(&["INFO", "replication"])
                .is_ok_and(|it| it.contains("master_link_status:up"))
        });
        wait_until("the Sentinel knows the replica", || {
            let known: redis::RedisResult<Vec<redis::Value>> =
                sentinel.query(&["SENTINEL", "REPLICAS", SERVICE]);
            known.is_ok_and(|replicas| replicas.len() == 1)
        });
        Some(Self { primary, replica, sentinel })
    }

    fn sentinel(primary: &str) -> Option<ValkeyServer> {
        let [.., a, b, c] = ClaimToken::random().0.to_be_bytes();
        let ip = Ipv4Addr::new(127, a | 128, b, c);
        let folder = env::temp_dir().join(format!("try-it-now-valkey-{:032x}", ClaimToken::random().0));
        fs::create_dir_all(&folder).unwrap();
        // A Sentinel writes what it learns to its configuration file.
        let mut file = fs::File::create(folder.join("sentinel.conf")).unwrap();
        writeln!(
            file,
            "port {PORT}\nbind {ip}\nprotected-mode no\nsentinel monitor {SERVICE} {primary} {PORT} 1\n\
             sentinel down-after-milliseconds {SERVICE} 500\nsentinel failover-timeout {SERVICE} 3000"
        )
        .unwrap();
        let arguments = vec!["sentinel.conf".to_owned(), "--sentinel".to_owned()];
        let child = spawn(&folder, &arguments, &[])?;
        let server = ValkeyServer { child, folder, ip, arguments, variables: Vec::new() };
        server.wait_until_it_answers();
        Some(server)
    }

    /// Returns the address and the port of the Sentinel.
    pub(crate) fn address(&self) -> (String, u16) {
        self.sentinel.address()
    }

    /// Promotes the replica while the old primary is alive.
    pub(crate) fn fail_over(&self) {
        self.sentinel.query::<()>(&["SENTINEL", "FAILOVER", SERVICE]).unwrap();
    }

    /// Waits until the Sentinel reports the replica as the primary.
    pub(crate) fn wait_for_failover(&self) {
        let (ip, _) = self.replica.address();
        wait_until("the replica is the primary", || {
            let named: redis::RedisResult<Vec<String>> =
                self.sentinel.query(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE]);
            named.is_ok_and(|named| named[0] == ip)
        });
    }
}
