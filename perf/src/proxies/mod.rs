//! Other proxies, configured for the same work as the server: the same hosts, kept connections to the app of each, the
//! same fields added, and one thread. Each is found where it is installed.

mod caddy;
mod haproxy;
mod nginx;
mod traefik;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::certificate::Certificate;
use crate::child::{self, ChildProcess};
use crate::client::Client;
use crate::clock::now;
use crate::failure::Failure;
use crate::progress;
use crate::traffic::request;

/// Maximum time until a proxy that listens knows its hosts.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// Most kept connections to the app of one host, as many as the load has.
const KEPT: usize = crate::load::CONNECTIONS;

/// What a proxy is configured for.
pub(crate) struct Setup<'a> {
    /// The app behind all hosts.
    pub(crate) app: SocketAddr,
    /// The hosts that it knows.
    pub(crate) hosts: &'a [String],
    /// The certificate with which it speaks TLS and HTTP/2; `None` for HTTP/1.1 in the clear.
    pub(crate) certificate: Option<&'a Certificate>,
}

/// Where a proxy listens, and what it may write.
struct Place<'a> {
    folder: &'a Path,
    address: SocketAddr,
}

/// How a proxy is started.
struct Launch {
    arguments: Vec<String>,
    variables: Vec<(&'static str, String)>,
}

impl Launch {
    fn new(arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        Self { arguments, variables: Vec::new() }
    }
}

/// A kind of proxy.
pub(crate) struct ProxyKind {
    /// The name of the proxy.
    pub(crate) name: &'static str,
    program: &'static str,
    /// The argument with which it prints its version.
    version: &'static str,
    /// Writes its configuration.
    configure: fn(&Setup<'_>, &Place<'_>) -> Result<Launch, Failure>,
    /// Whether the server has to keep up with it.
    pub(crate) has_bounds: bool,
}

/// nginx, which the bounds are about.
pub(crate) static NGINX: ProxyKind = ProxyKind {
    name: "nginx",
    program: "nginx",
    version: "-v",
    configure: nginx::configure,
    has_bounds: true,
};
/// HAProxy.
pub(crate) static HAPROXY: ProxyKind = ProxyKind {
    name: "HAProxy",
    program: "haproxy",
    version: "-v",
    configure: haproxy::configure,
    has_bounds: false,
};
/// Caddy.
pub(crate) static CADDY: ProxyKind = ProxyKind {
    name: "Caddy",
    program: "caddy",
    version: "version",
    configure: caddy::configure,
    has_bounds: false,
};
/// Traefik.
pub(crate) static TRAEFIK: ProxyKind = ProxyKind {
    name: "Traefik",
    program: "traefik",
    version: "version",
    configure: traefik::configure,
    has_bounds: false,
};

/// A proxy that is installed.
pub(crate) struct InstalledProxy {
    /// What it is.
    pub(crate) kind: &'static ProxyKind,
    program: PathBuf,
    /// Its version, as it prints it.
    pub(crate) version: String,
}

impl InstalledProxy {
    /// Finds a proxy. If it is not installed, prints that it is skipped.
    pub(crate) fn find(kind: &'static ProxyKind) -> Result<Option<Self>, Failure> {
        // Debian keeps programs for the administrator where not every user's PATH leads.
        let folders = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin";
        let found = folders.split(':').map(|folder| Path::new(folder).join(kind.program));
        let Some(program) = found.into_iter().find(|path| path.is_file()) else {
            progress::print(&format!("skipped: {} is not installed", kind.program));
            return Ok(None);
        };
        let output = Command::new(&program).arg(kind.version).output()?;
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        let version = text.lines().next().unwrap_or_default().trim();
        let version = version.trim_start_matches("nginx version: ").trim_start_matches("Version:").trim();
        let version = format!("{} ({version})", kind.name);
        progress::print(&version);
        Ok(Some(Self { kind, program, version }))
    }

    /// Starts it on a core.
    pub(crate) fn start(&self, setup: &Setup<'_>, core: usize) -> Result<ChildProcess, Failure> {
        let (address, folder) = (child::free_address()?, child::folder()?);
        let launch = (self.kind.configure)(setup, &Place { folder: &folder, address })?;
        let mut command = child::killed_with_this(&self.program)?;
        command.args(launch.arguments).envs(launch.variables);
        let proxy = ChildProcess::listening_at(self.kind.program, command, address, folder, core)?;
        if let (None, Some(host)) = (setup.certificate, setup.hosts.last()) {
            wait_until_serving(self.kind.name, address, host)?;
        }
        Ok(proxy)
    }
}

/// Waits until a proxy knows a host: it may listen before.
fn wait_until_serving(name: &str, address: SocketAddr, host: &str) -> Result<(), Failure> {
    let deadline = now() + START_TIMEOUT;
    loop {
        let status = Client::connect(address, START_TIMEOUT)?.request(&request("GET", "/", host))?.0;
        if status == 200 {
            return Ok(());
        }
        if now() >= deadline {
            return Err(format!("{name} responds with {status}").into());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
