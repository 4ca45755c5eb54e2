//! A MariaDB server that belongs to one test: on a loopback address of its own or, for containers, at a port of its own,
//! in a folder of its own. It ends with the test.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use std::{env, fs};

use mysql_async::prelude::{FromRow, Queryable};
use mysql_async::{Conn, OptsBuilder};
use tokio::time::Instant;
use try_it_now::instance::ClaimToken;

use crate::support::skip::skip;

/// The longest time that a server may take to start. Only a failure takes that long.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// The user of the program under test, which has the rights of docs/databases.md and no others.
pub(crate) const USER: &str = "tin";
/// Its password.
pub(crate) const PASSWORD: &str = "tin's \"secret\" \\";
/// A user of the tests that may do everything.
const ADMIN: &str = "admin";

/// The port of MariaDB.
const USUAL_PORT: u16 = 3306;

/// What the prefix of the tests' databases is.
pub(crate) const PREFIX: &str = "tryitnow";

/// The versions that the tests run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    /// The newest, of Debian's sid.
    New,
    /// The oldest that the program supports, of Debian 12.
    Old,
}

/// One MariaDB server.
pub(crate) struct MariaDbServer {
    child: Child,
    programs: PathBuf,
    folder: PathBuf,
    ip: Ipv4Addr,
    port: u16,
    options: Vec<String>,
    /// Where the server listens, if the test made that address.
    address: Option<LoopbackAddress>,
}

/// An address of the loopback device. It is removed on drop.
struct LoopbackAddress(Ipv4Addr);

impl LoopbackAddress {
    fn add(ip: Ipv4Addr) -> Self {
        let address = Self(ip);
        assert!(address.change("add"), "the loopback device gets an address");
        address
    }

    fn change(&self, verb: &str) -> bool {
        let arguments = ["address", verb, &format!("{}/32", self.0), "dev", "lo"];
        Command::new("ip").args(arguments).status().is_ok_and(|status| status.success())
    }
}

impl Drop for LoopbackAddress {
    fn drop(&mut self) {
        self.change("delete");
    }
}

impl MariaDbServer {
    /// Starts a server. Returns `None` and prints why if this version is not installed.
    pub(crate) async fn start(version: Version) -> Option<Self> {
        Self::start_with(version, &[]).await
    }

    /// Starts a server with these options too.
    pub(crate) async fn start_with(version: Version, options: &[&str]) -> Option<Self> {
        let [.., a, b, c] = ClaimToken::random().0.to_be_bytes();
        // All of 127.0.0.0/8 is loopback. Addresses of the lower half may be in use on this host.
        Self::start_at(version, Ipv4Addr::new(127, a | 128, b, c), USUAL_PORT, options).await
    }

    /// Starts a server that containers with a network of their own reach, and other hosts do not: at an address that only
    /// the loopback device has, until the server is dropped. As root.
    pub(crate) async fn start_for_containers(version: Version) -> Option<Self> {
        let [.., half, a, b] = ClaimToken::random().0.to_be_bytes();
        // The range for measurements between networks (RFC 2544), which no network of a host has.
        let ip = Ipv4Addr::new(198, 18 | (half & 1), a, b);
        let address = LoopbackAddress::add(ip);
        let mut server = Self::start_at(version, ip, USUAL_PORT, &[]).await?;
        server.address = Some(address);
        Some(server)
    }

    async fn start_at(version: Version, ip: Ipv4Addr, port: u16, options: &[&str]) -> Option<Self> {
        let (variable, suite) = match version {
            Version::New => ("MARIADB_NEW", "sid"),
            Version::Old => ("MARIADB_OLD", "bookworm"),
        };
        let in_checkout =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("target/stack").join(format!("mariadb-{suite}"));
        let programs = env::var_os(variable).map_or(in_checkout, PathBuf::from);
        if !programs.join("stamp").is_file() {
            skip(&format!("MariaDB of Debian's {suite} is missing (run `make stack-up`)"));
            return None;
        }
        // Only this host may log in as that user, at whatever address the server listens.
        let own = if ip.is_loopback() { Ipv4Addr::LOCALHOST } else { ip };
        let folder = env::temp_dir().join(format!("tin-mariadb-{:032x}", ClaimToken::random().0));
        fs::create_dir_all(folder.join("tmp")).unwrap();
        let copied = Command::new("cp").arg("-r").arg(programs.join("data")).arg(&folder).status().unwrap();
        assert!(copied.success());
        let quoted = PASSWORD.replace('\\', "\\\\").replace('\'', "''");
        // One statement a line. They are run at each start.
        let init = format!(
            "CREATE USER IF NOT EXISTS {USER}@'%' IDENTIFIED BY '{quoted}';\n\
             GRANT CREATE USER, CONNECTION ADMIN ON *.* TO {USER}@'%';\n\
             GRANT ALL PRIVILEGES ON `{PREFIX}\\_%`.* TO {USER}@'%' WITH GRANT OPTION;\n\
             GRANT SELECT ON mysql.user TO {USER}@'%';\n\
             GRANT ALL PRIVILEGES ON *.* TO {ADMIN}@'{own}' IDENTIFIED BY '{ADMIN}' WITH GRANT OPTION;\n"
        );
        fs::write(folder.join("init.sql"), init).unwrap();
        let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
        let child = spawn(&programs, &folder, (ip, port), &options);
        let server = Self { child, programs, folder, ip, port, options, address: None };
        server.wait_until_it_answers().await;
        Some(server)
    }

    /// Kills the process, as a crash does.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts the server again at its address, with the data that is on disk.
    pub(crate) async fn restart(&mut self) {
        self.kill();
        self.child = spawn(&self.programs, &self.folder, (self.ip, self.port), &self.options);
        self.wait_until_it_answers().await;
    }

    /// Returns the address on which it listens.
    pub(crate) fn host(&self) -> String {
        self.ip.to_string()
    }

    /// Returns the port on which it listens.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Returns a folder that ends with the server, for dumps.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns the path of the client program.
    pub(crate) fn client(&self) -> PathBuf {
        self.programs.join("usr/bin/mariadb")
    }

    /// Connects as a user.
    pub(crate) async fn connect(
        &self,
        user: &str,
        password: &str,
        database: Option<&str>,
    ) -> mysql_async::Result<Conn> {
        let options = OptsBuilder::default().ip_or_hostname(self.host()).tcp_port(self.port);
        let connecting =
            Conn::new(options.user(Some(user)).pass(Some(password)).db_name(database).prefer_socket(false));
        tokio::time::timeout(MAX_WAIT, connecting).await.expect("MariaDB answers or refuses")
    }

    /// Connects as a user that may do everything.
    pub(crate) async fn admin(&self) -> Conn {
        self.connect(ADMIN, ADMIN, None).await.unwrap()
    }

    /// Returns the rows of a query, as a user that may do everything.
    pub(crate) async fn query<R: FromRow + Send + 'static>(&self, query: &str) -> Vec<R> {
        self.admin().await.query(query).await.unwrap()
    }

    /// Returns the names of all databases and all users with the prefix of the tests, each once, in order.
    pub(crate) async fn names(&self) -> Vec<String> {
        let both = format!(
            "SELECT SCHEMA_NAME FROM information_schema.SCHEMATA WHERE SCHEMA_NAME LIKE '{PREFIX}%' \
             UNION SELECT User FROM mysql.user WHERE User LIKE '{PREFIX}%' ORDER BY 1"
        );
        self.query(&both).await
    }

    async fn wait_until_it_answers(&self) {
        let begun = Instant::now();
        // The last statement of the first file makes this user.
        while self.connect(ADMIN, ADMIN, None).await.is_err() {
            let log = || fs::read_to_string(self.folder.join("log")).unwrap_or_default();
            assert!(begun.elapsed() < MAX_WAIT, "MariaDB did not start: {}", log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for MariaDbServer {
    fn drop(&mut self) {
        self.kill();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn spawn(programs: &Path, folder: &Path, (ip, port): (Ipv4Addr, u16), options: &[String]) -> Child {
    let path = |name: &str| folder.join(name).display().to_string();
    Command::new(programs.join("usr/sbin/mariadbd"))
        .arg("--no-defaults")
        .arg(format!("--datadir={}", path("data")))
        .arg(format!("--bind-address={ip}"))
        // Files of several servers in one folder may have the same names.
        .arg(format!("--tmpdir={}", path("tmp")))
        .arg(format!("--socket={}", path("socket")))
        .arg(format!("--pid-file={}", path("pid")))
        .arg(format!("--init-file={}", path("init.sql")))
        .arg(format!("--log-error={}", path("log")))
        .arg(format!("--lc-messages-dir={}", programs.join("usr/share/mysql").display()))
        .arg(format!("--character-sets-dir={}", programs.join("usr/share/mysql/charsets").display()))
        .arg(format!("--port={port}"))
        .args(["--user=root", "--skip-name-resolve", "--innodb-log-file-size=8M"])
        .args(["--plugin-dir=/nonexistent"])
        .args(options)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}
