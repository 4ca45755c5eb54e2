//! The server that is measured: the real program, a process of its own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::certificate::Certificate;
use crate::child::{self, ChildProcess};
use crate::client::Client;
use crate::clock::now;
use crate::failure::Failure;
use crate::http2;
use crate::peers::Role;
use crate::traffic::request;

/// Maximum time until a pool is full. A million records take about half of it.
const FILL_TIMEOUT: Duration = Duration::from_secs(120);

/// The maximum lease of an instance: longer than a load extends any.
const MAX_TTL: &str = "365d";

/// Maximum time until a response.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);

/// What runs the instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum RuntimeKind {
    /// Nothing: instances are records only. This needs a server built with the feature `runtime-none`
    None,
    /// Processes of the sample app, so only a few
    Process,
}

/// How to start servers, and apps without a server.
#[derive(Debug, Clone)]
pub(crate) struct Programs {
    /// The server's program.
    pub(crate) server: PathBuf,
    /// What runs the instances.
    pub(crate) runtime: RuntimeKind,
}

/// The options of a server to start.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ServerOptions<'a> {
    /// Ready instances at the start.
    pub(crate) ready: usize,
    /// Whether assigned instances are replaced by new ones.
    pub(crate) is_refilled: bool,
    /// The endpoint of instances that are records only.
    pub(crate) app: SocketAddr,
    /// The Valkey that is its store; with `None` the store is embedded.
    pub(crate) valkey: Option<SocketAddr>,
    /// Its `HTTP1_ENGINE`; `None` for that of this program's environment, or the default.
    pub(crate) engine: Option<&'static str>,
    /// The certificate with which it speaks TLS; `None` for a server in the clear.
    pub(crate) certificate: Option<&'a Certificate>,
    /// What an instance that is a process runs: this program in a role; `None` for the sample app.
    pub(crate) role: Option<Role>,
    /// Whether freed memory returns to the system. Otherwise it does not: see `Bench::warm_up_memory`.
    pub(crate) returns_memory: bool,
}

impl ServerOptions<'_> {
    /// Returns the options of a server in the clear with an embedded store, whose instances are not replaced.
    pub(crate) fn new(ready: usize, app: SocketAddr) -> Self {
        Self {
            ready,
            is_refilled: false,
            app,
            valkey: None,
            engine: None,
            certificate: None,
            role: None,
            returns_memory: false,
        }
    }
}

impl Programs {
    /// Starts a server, and waits until its pool is full.
    pub(crate) fn server(&self, options: ServerOptions<'_>, core: usize) -> Result<ChildProcess, Failure> {
        let folder = child::folder()?;
        let mut command = child::killed_with_this(&self.server)?;
        command
            .args(["serve", "--config"])
            .arg(write_templates(&folder, self.runtime, options)?)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("STATE_DIR", &folder)
            .env("SERVER_HOST", "127.0.0.1")
            .env("LOG_LEVEL", "error")
            .env("POOL_MAX_TTL", MAX_TTL)
            .env("RATE_LIMIT_HOURLY", "0")
            .env("RATE_LIMIT_DAILY", "0")
            .envs(
                options
                    .engine
                    .map(Into::into)
                    .or_else(|| std::env::var_os("HTTP1_ENGINE"))
                    .map(|engine| ("HTTP1_ENGINE", engine)),
            );
        if !options.returns_memory {
            command.env("MIMALLOC_PURGE_DELAY", "-1");
        }
        if let Some(certificate) = options.certificate {
            command.env("TLS_CERT", certificate.chain_file()).env("TLS_KEY", certificate.key_file());
        }
        if self.runtime == RuntimeKind::None {
            command.env("CONTAINER_MODE", "none").env("CONTAINER_NONE_ENDPOINT", options.app.to_string());
        }
        if let Some(valkey) = options.valkey {
            command.env("VALKEY_ADDR", valkey.to_string());
        }
        let server = ChildProcess::listening("the server", command, "SERVER_PORT", folder, core)?;
        let begin = now();
        while ready_count(server.address, options.certificate)? < options.ready as u64 {
            if now() >= begin + FILL_TIMEOUT {
                return Err("the pool did not become full in time".into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(server)
    }

    /// Starts the sample app without a server.
    pub(crate) fn sample_app(&self, core: usize) -> Result<ChildProcess, Failure> {
        let folder = child::folder()?;
        let mut command = child::killed_with_this(&self.server)?;
        command.arg("sample-app").env_clear().env("HOST", "127.0.0.1").current_dir(&folder);
        ChildProcess::listening("the sample app", command, "PORT", folder, core)
    }
}

/// Writes the file of templates. Only there the number of instances that are started at once can be set.
fn write_templates(
    folder: &Path,
    runtime: RuntimeKind,
    options: ServerOptions<'_>,
) -> Result<PathBuf, Failure> {
    let ServerOptions { ready, is_refilled, role, .. } = options;
    let command = match (runtime, role) {
        (RuntimeKind::None, _) => r#"["none"]"#.to_owned(),
        (RuntimeKind::Process, None) => r#"["try-it-now", "sample-app"]"#.to_owned(),
        (RuntimeKind::Process, Some(role)) => {
            format!("[{:?}, \"--role\", \"{}\"]", std::env::current_exe()?, role.name())
        }
    };
    let (threshold, interval) = if is_refilled { ("1.0", "100ms") } else { ("0.0", "24h") };
    let concurrency = if runtime == RuntimeKind::None { 256 } else { 4 };
    let file = folder.join("templates.toml");
    let text = format!(
        "[templates.default]\ncommand = {command}\n[templates.default.pool]\ntarget = {ready}\nmin = 0\nmax = {max}\n\
         concurrency = {concurrency}\nreplenish_threshold = {threshold}\nreplenish_interval = \"{interval}\"\n",
        max = (2 * ready).max(1),
    );
    std::fs::write(&file, text)?;
    Ok(file)
}

/// Returns how many instances are ready.
fn ready_count(server: SocketAddr, certificate: Option<&Certificate>) -> Result<u64, Failure> {
    const PATH: &str = "/api/v1/pool/stats";
    let body = match certificate {
        Some(certificate) => {
            let stats = http2::request("GET", PATH, "localhost")?;
            http2::exchange(server, certificate, vec![stats])?.pop().map(|(_, body)| body).unwrap_or_default()
        }
        None => Client::connect(server, RESPONSE_TIMEOUT)?.request(&request("GET", PATH, "localhost"))?.1,
    };
    let stats: Value = serde_json::from_slice(&body)?;
    stats["ready"].as_u64().ok_or_else(|| format!("no number of ready instances in {stats}").into())
}
