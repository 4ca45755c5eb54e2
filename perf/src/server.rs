//! The server that is measured: the real program, a process of its own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::Failure;
use crate::child::{self, Running};
use crate::clock::now;
use crate::traffic::request;
use crate::visitor::Visitor;

/// Longest time to fill a pool; a million records take about half of it.
const FILL: Duration = Duration::from_secs(120);

/// How far an instance can be extended: further than a load does.
const LONGEST: &str = "365d";

/// Longest time of an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// What runs the instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum RuntimeKind {
    /// Nothing: they are records only. Needs a server built with the feature `runtime-none`.
    None,
    /// Processes of the sample app, so few of them.
    Process,
}

/// How to start servers, and apps without one.
#[derive(Debug, Clone)]
pub(crate) struct Programs {
    /// The server's program.
    pub(crate) server: PathBuf,
    /// What runs the instances.
    pub(crate) runtime: RuntimeKind,
}

/// A server to start.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    /// Ready instances to begin with.
    pub(crate) ready: usize,
    /// Whether what is taken is made anew.
    pub(crate) refilled: bool,
    /// Where instances that are records only are said to listen.
    pub(crate) app: SocketAddr,
    /// The Valkey that it shares; `None` has a store of its own.
    pub(crate) valkey: Option<SocketAddr>,
}

impl Programs {
    /// A server with a full pool.
    pub(crate) fn server(&self, wanted: Wanted, core: usize) -> Result<Running, Failure> {
        let folder = child::folder()?;
        let mut command = child::leashed(&self.server)?;
        command
            .args(["serve", "--config"])
            .arg(templates(&folder, self.runtime, wanted)?)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("STATE_DIR", &folder)
            .env("SERVER_HOST", "127.0.0.1")
            .env("LOG_LEVEL", "error")
            // Memory that it has had stays its own: see `Bench::touch`.
            .env("MIMALLOC_PURGE_DELAY", "-1")
            .env("POOL_MAX_TTL", LONGEST)
            .env("RATE_LIMIT_HOURLY", "0")
            .env("RATE_LIMIT_DAILY", "0");
        if self.runtime == RuntimeKind::None {
            command.env("CONTAINER_MODE", "none").env("CONTAINER_NONE_ENDPOINT", wanted.app.to_string());
        }
        if let Some(valkey) = wanted.valkey {
            command.env("VALKEY_ADDR", valkey.to_string());
        }
        let server = Running::listening("the server", command, "SERVER_PORT", folder, core)?;
        let begin = now();
        while ready(server.address)? < wanted.ready as u64 {
            if now() >= begin + FILL {
                return Err("the pool does not get full".into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(server)
    }

    /// The sample app, alone.
    pub(crate) fn sample_app(&self, core: usize) -> Result<Running, Failure> {
        let folder = child::folder()?;
        let mut command = child::leashed(&self.server)?;
        command.arg("sample-app").env_clear().env("HOST", "127.0.0.1").current_dir(&folder);
        Running::listening("the sample app", command, "PORT", folder, core)
    }
}

/// Writes the file of templates, since only there the number of instances made at once can be set.
fn templates(folder: &Path, runtime: RuntimeKind, wanted: Wanted) -> Result<PathBuf, Failure> {
    let Wanted { ready, refilled, .. } = wanted;
    let command = match runtime {
        RuntimeKind::None => r#"["none"]"#.to_owned(),
        RuntimeKind::Process => "[\"try-it-now\", \"sample-app\"]".to_owned(),
    };
    let (threshold, interval) = if refilled { ("1.0", "100ms") } else { ("0.0", "24h") };
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

/// How many instances wait for a visitor.
fn ready(server: SocketAddr) -> Result<u64, Failure> {
    let (_, body) =
        Visitor::connect(server, PATIENCE)?.ask(&request("GET", "/api/v1/pool/stats", "localhost"))?;
    let stats: Value = serde_json::from_slice(&body)?;
    stats["ready"].as_u64().ok_or_else(|| format!("no number of ready ones in {stats}").into())
}
