//! Servers of NATS that belong to one test, each on a loopback address of its own and in a folder of its own. All end with
//! the test.

use std::net::{Ipv4Addr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use std::{env, fs, thread};

use tokio::time::Instant;
use try_it_now::instance::ClaimToken;

use crate::support::stack;

/// The longest time that a server may take to start. Only a failure takes that long.
const MAX_WAIT: Duration = Duration::from_secs(20);

const PORT: u16 = 4222;

/// One server with JetStream, which syncs each message, as `deployments/nats.conf` has it.
pub(crate) struct NatsServer {
    child: Child,
    folder: PathBuf,
    ip: Ipv4Addr,
}

impl NatsServer {
    /// Starts a server. Returns `None` and prints why if NATS is not installed.
    pub(crate) fn start() -> Option<Self> {
        Self::start_with("")
    }

    /// Starts a server with these lines in its configuration too.
    pub(crate) fn start_with(more: &str) -> Option<Self> {
        let [.., a, b, c] = ClaimToken::random().0.to_be_bytes();
        // All of 127.0.0.0/8 is loopback. Addresses of the lower half may be in use on this host.
        let ip = Ipv4Addr::new(127, a | 128, b, c);
        let folder = env::temp_dir().join(format!("try-it-now-nats-{:032x}", ClaimToken::random().0));
        fs::create_dir_all(&folder).unwrap();
        let store = folder.join("store");
        let configuration = format!(
            "listen: \"{ip}:{PORT}\"\njetstream {{ store_dir: {:?}, sync_interval: always }}\n{more}\n",
            store.to_str().unwrap()
        );
        fs::write(folder.join("nats.conf"), configuration).unwrap();
        let child = spawn(&folder)?;
        let server = Self { child, folder, ip };
        server.wait_until_it_listens();
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
        self.child = spawn(&self.folder).expect("it started before");
        self.wait_until_it_listens();
    }

    /// Kills the server and removes all data on disk.
    pub(crate) fn lose_data(&mut self) {
        self.kill();
        let _ = fs::remove_dir_all(self.folder.join("store"));
    }

    /// Kills the server, copies what it has on disk, and starts it again.
    pub(crate) fn save_backup(&mut self) {
        self.kill();
        copy(&self.folder.join("store"), &self.folder.join("copy"));
        self.restart();
    }

    /// Kills the server, puts that copy in place of what was written since, and starts it again.
    pub(crate) fn restore_backup(&mut self) {
        self.lose_data();
        fs::rename(self.folder.join("copy"), self.folder.join("store")).unwrap();
        self.restart();
    }

    /// Returns its address in the form that `NATS_URL` takes.
    pub(crate) fn url(&self) -> String {
        format!("nats://{}:{PORT}", self.ip)
    }

    fn wait_until_it_listens(&self) {
        let begun = Instant::now();
        let address = (self.ip, PORT).into();
        while TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_err() {
            assert!(begun.elapsed() < MAX_WAIT, "timed out: NATS listens");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        self.kill();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn spawn(folder: &std::path::Path) -> Option<Child> {
    let path = stack::path_with("nats-server")?;
    let log = fs::File::create(folder.join("log")).unwrap();
    let mut command = Command::new("nats-server");
    command.env("PATH", path).args(["--config", "nats.conf"]).current_dir(folder);
    Some(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap())
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (entry, to) = (entry.unwrap().path(), to.join(""));
        let target = to.join(entry.file_name().unwrap());
        if entry.is_dir() {
            copy(&entry, &target);
        } else {
            fs::copy(&entry, target).unwrap();
        }
    }
}
