//! A server whose instances are containers, as an operator starts it, and requests to it one after another.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::child::{self, ChildProcess};
use crate::clock::now;
use crate::failure::Failure;
use crate::progress;
use crate::repository;

/// Maximum time until a response: the first acquire waits until the template is baked.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(240);

/// What containers need: the folder of this repository, and the environment of its stack.
#[derive(Debug)]
pub(crate) struct Stack {
    root: PathBuf,
    env: Vec<(String, String)>,
}

/// How a server starts instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StartMode {
    /// It restores them from a checkpoint, and they share memory where possible.
    Shared,
    /// It restores them from a checkpoint, and each has its own memory.
    Unshared,
    /// It starts them cold.
    Cold,
    /// Docker starts them.
    Docker,
    /// Podman starts them.
    Podman,
}

impl StartMode {
    /// Returns the runtime as `CONTAINER_MODE` names it, and what ends the name of the state.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Shared => ("containerd", "restored"),
            Self::Unshared => ("containerd", "stock"),
            Self::Cold => ("containerd", "cold"),
            Self::Docker => ("docker", "docker"),
            Self::Podman => ("podman", "podman"),
        }
    }
}

/// A template for a server with no other template.
#[derive(Debug)]
pub(crate) struct Template {
    /// The name under which its servers store their state.
    name: String,
    config: PathBuf,
}

impl Template {
    /// Returns the same template for servers that store their state under another name.
    pub(crate) fn renamed(&self, name: &str) -> Self {
        Self { name: name.to_owned(), config: self.config.clone() }
    }
}

impl Stack {
    /// Finds the running stack of the repository in which this program runs. The error names the missing part.
    fn find() -> Result<Self, String> {
        let root = repository::root().map_err(|error| error.to_string())?;
        let file = repository::stack().map_err(|error| error.to_string())?.join("env");
        let env =
            std::fs::read_to_string(&file).map_err(|_| format!("{} (make stack-up)", file.display()))?;
        let env: Vec<(String, String)> = env
            .lines()
            .filter_map(|line| line.split_once('='))
            // The store is embedded, as in the other cases.
            .filter(|(name, _)| *name != "VALKEY_ADDR")
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let socket = env.iter().find(|(name, _)| name == "CONTAINERD_ADDRESS");
        if !socket.is_some_and(|(_, path)| Path::new(path).exists()) {
            return Err("containerd's socket (make stack-up)".to_owned());
        }
        Ok(Self { root, env })
    }

    /// Finds the running stack. If it is not running, prints that the case is skipped.
    pub(crate) fn find_for(case: &str) -> Option<Self> {
        let found = Self::find();
        found.inspect_err(|missing| progress::print(&format!("skipped: {case}, {missing} is missing"))).ok()
    }

    /// Returns the socket that a variable of the stack names. If it does not exist, prints that the case is skipped.
    pub(crate) fn socket(&self, case: &str, variable: &str) -> Option<&str> {
        let named = self.env.iter().find(|(name, _)| name == variable).map(|(_, socket)| socket.as_str());
        let found = named.filter(|socket| Path::new(socket.trim_start_matches("unix://")).exists());
        if found.is_none() {
            progress::print(&format!("skipped: {case}, the socket of {variable} is missing (make stack-up)"));
        }
        found
    }

    /// Whether the image of a template was built. If not, prints that the case is skipped.
    pub(crate) fn has_image(&self, case: &str, template: &str) -> bool {
        let exists = self.root.join(format!("target/images/{template}.tar")).exists();
        if !exists {
            progress::print(&format!("skipped: {case}, the image {template} is missing (make images)"));
        }
        exists
    }

    /// Returns one of the ready templates.
    pub(crate) fn template(&self, name: &str) -> Template {
        let config = self.root.join(format!("deployments/templates/{name}.toml"));
        Template { name: name.to_owned(), config }
    }

    /// Writes a variant of a ready template under another name, with `from` replaced by `to`.
    pub(crate) fn template_with(
        &self,
        name: &str,
        new_name: &str,
        from: &str,
        to: &str,
    ) -> Result<Template, Failure> {
        let text = std::fs::read_to_string(self.template(name).config)?;
        if text.matches(from).count() != 1 {
            return Err(format!("the template {name} does not contain `{from}` once").into());
        }
        // The variant is as far below the root as the original, because its paths are relative.
        let config = self.root.join("target/perf").join(format!("{new_name}.toml"));
        std::fs::create_dir_all(self.root.join("target/perf"))?;
        std::fs::write(&config, text.replace(from, to))?;
        Ok(Template { name: new_name.to_owned(), config })
    }

    /// Starts a server of one template with a pool of `target`. Its state remains, so that the next run removes what an
    /// interrupted run left, and a template is baked only once.
    pub(crate) fn serve(
        &self,
        program: &Path,
        template: &Template,
        target: usize,
        mode: StartMode,
        core: usize,
    ) -> Result<ContainerHost, Failure> {
        let (runtime, name) = mode.names();
        let state = self.root.join(format!("target/perf/{}-{name}", template.name));
        std::fs::create_dir_all(&state)?;
        let mut command = child::killed_with_this(program)?;
        command
            .args(["serve", "--config"])
            .arg(&template.config)
            .env_clear()
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .env("STATE_DIR", &state)
            .env("CONTAINER_MODE", runtime)
            .env("CRIU_ENABLED", (mode != StartMode::Cold).to_string())
            .env("SHARED_MEMORY_MAX", if mode == StartMode::Shared { "" } else { "0" })
            .env("POOL_TARGET_SIZE", target.to_string())
            .env("POOL_MIN_SIZE", "0")
            .env("POOL_MAX_SIZE", (4 * target + 4).to_string())
            .env("POOL_REPLENISH_THRESHOLD", "1.0")
            .env("ACQUIRE_TIMEOUT", format!("{}s", RESPONSE_TIMEOUT.as_secs()))
            .env("SERVER_READ_TIMEOUT", format!("{}s", RESPONSE_TIMEOUT.as_secs()))
            .env("SERVER_WRITE_TIMEOUT", format!("{}s", RESPONSE_TIMEOUT.as_secs()))
            .env("SERVER_HOST", "127.0.0.1")
            .env("LOG_LEVEL", "debug")
            .env("LOG_FORMAT", "json")
            .env("RATE_LIMIT_HOURLY", "0")
            .env("RATE_LIMIT_DAILY", "0");
        let folder = child::folder()?;
        let server = ChildProcess::listening("the server", command, "SERVER_PORT", folder, core)?;
        Ok(ContainerHost { address: server.address, server: Some(server), state, has_folders: true })
    }
}

/// A running server. When dropped, it is stopped, and ends its instances.
#[derive(Debug)]
pub(crate) struct ContainerHost {
    address: SocketAddr,
    server: Option<ChildProcess>,
    state: PathBuf,
    /// Whether each instance has a folder in the state, which is removed last. A process has none.
    has_folders: bool,
}

impl Drop for ContainerHost {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.server.take().map(ChildProcess::stop) {
            eprintln!("perf: {error}");
        }
    }
}

impl ContainerHost {
    /// Returns a server whose instances are processes.
    pub(crate) fn of_processes(server: ChildProcess) -> Self {
        Self { address: server.address, server: Some(server), state: PathBuf::new(), has_folders: false }
    }

    /// Returns where the server listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Acquires an instance, and returns its id.
    pub(crate) fn acquire(&self) -> Result<String, Failure> {
        let body = self.request("POST", "/api/v1/demo/acquire", "localhost")?.ok()?;
        let response: Value = serde_json::from_slice(&body)?;
        Ok(response["id"].as_str().ok_or("the response to an acquire has no id")?.to_owned())
    }

    /// Requests the front page of an instance through the proxy until the page contains `text`.
    pub(crate) fn first_page(&self, id: &str, text: &str) -> Result<(), Failure> {
        let deadline = now() + RESPONSE_TIMEOUT;
        loop {
            let response = self.request("GET", "/", &format!("{id}.localhost"))?;
            if response.status == 200 && memchr::memmem::find(&response.body, text.as_bytes()).is_some() {
                return Ok(());
            }
            if now() >= deadline {
                return Err(format!("{id} responds with {} instead of its page", response.status).into());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Returns the milliseconds until an instance sent its front page with `text` in it.
    pub(crate) fn page_millis(&self, id: &str, text: &str) -> Result<f64, Failure> {
        let begin = now();
        self.first_page(id, text)?;
        Ok(millis(begin.elapsed()))
    }

    /// Waits until the server has measured the private memory of an instance, and returns its bytes.
    pub(crate) fn private_memory(&self, id: &str) -> Result<f64, Failure> {
        let mut bytes = None;
        wait_for("the measured memory of an instance", || {
            let body = self.request("GET", &format!("/api/v1/demo/{id}"), "localhost")?.ok()?;
            let response: Value = serde_json::from_slice(&body)?;
            bytes = response["memory"]["private_bytes"].as_f64();
            Ok(bytes.is_some())
        })?;
        Ok(bytes.unwrap_or_default())
    }

    /// Releases an instance.
    pub(crate) fn release(&self, id: &str) -> Result<(), Failure> {
        self.request("DELETE", &format!("/api/v1/demo/{id}"), "localhost")?.ok().map(drop)
    }

    /// Waits until an instance is removed completely: the server removes its folder last, and where it has none, its
    /// record.
    pub(crate) fn wait_until_gone(&self, id: &str) -> Result<(), Failure> {
        if !self.has_folders {
            let path = format!("/api/v1/demo/{id}");
            return wait_for(&format!("the end of {id}"), || {
                Ok(self.request("GET", &path, "localhost")?.status == 404)
            });
        }
        let folders = self.instance_folders()?;
        wait_for(&format!("the end of {id}"), || Ok(!folders.iter().any(|folder| folder.join(id).exists())))
    }

    /// Waits until `count` instances are ready.
    pub(crate) fn wait_until_ready(&self, count: u64) -> Result<(), Failure> {
        wait_for("a full pool", || {
            let body = self.request("GET", "/api/v1/pool/stats", "localhost")?.ok()?;
            let stats: Value = serde_json::from_slice(&body)?;
            Ok(stats["ready"].as_u64().is_some_and(|ready| ready >= count))
        })
    }

    /// Returns the microseconds that each step of the server's restores took so far, by the step's name. The server
    /// logs them.
    pub(crate) fn launches(&self) -> Result<BTreeMap<String, Vec<f64>>, Failure> {
        let log = self.server.as_ref().map_or(Ok(String::new()), ChildProcess::stderr)?;
        let mut steps: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        for line in log.lines() {
            let Ok(Value::Object(line)) = serde_json::from_str(line) else { continue };
            if line.get("message").is_none_or(|m| m != "launched") || line["restored"] != true {
                continue;
            }
            for (name, value) in &line {
                if let (Some(step), Some(micros)) = (name.strip_suffix("_micros"), value.as_f64()) {
                    steps.entry(step.to_owned()).or_default().push(micros);
                }
            }
        }
        Ok(steps)
    }

    /// Returns the folders of instances: one for each node that has used this state. One of the nodes runs.
    fn instance_folders(&self) -> Result<Vec<PathBuf>, Failure> {
        let nodes = std::fs::read_dir(self.state.join("nodes"))?;
        let nodes: Vec<_> = nodes.collect::<Result<_, _>>()?;
        let of_runtimes = ["containers/instances", "engine-files"];
        let folders = nodes.iter().flat_map(|node| of_runtimes.map(|name| node.path().join(name)));
        let folders: Vec<PathBuf> = folders.filter(|folder| folder.exists()).collect();
        if folders.is_empty() {
            Err("the server has no folder of instances below its state".into())
        } else {
            Ok(folders)
        }
    }

    /// Makes one request on a new connection.
    fn request(&self, method: &str, path: &str, host: &str) -> Result<HostResponse, Failure> {
        let mut socket = TcpStream::connect(self.address)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(RESPONSE_TIMEOUT))?;
        let text =
            format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\naccept: */*\r\nconnection: close\r\n\r\n");
        socket.write_all(text.as_bytes())?;
        let mut bytes = Vec::new();
        socket.read_to_end(&mut bytes)?;
        let head = memchr::memmem::find(&bytes, b"\r\n\r\n").ok_or("the response has no head")?;
        let status = std::str::from_utf8(bytes.get(9..12).unwrap_or_default())?.parse()?;
        Ok(HostResponse { status, body: bytes.split_off(head + 4) })
    }
}

/// An acquired instance. When dropped, it is released, and removed before anything else is measured.
pub(crate) struct AcquiredInstance<'a> {
    host: &'a ContainerHost,
    /// Its id.
    pub(crate) id: String,
}

impl<'a> AcquiredInstance<'a> {
    /// Acquires an instance, and with a text requests its front page until that contains the text.
    pub(crate) fn new(host: &'a ContainerHost, text: Option<&str>) -> Result<Self, Failure> {
        let instance = Self { host, id: host.acquire()? };
        text.map_or(Ok(()), |text| host.first_page(&instance.id, text))?;
        Ok(instance)
    }
}

impl Drop for AcquiredInstance<'_> {
    fn drop(&mut self) {
        let released = self.host.release(&self.id).and_then(|()| self.host.wait_until_gone(&self.id));
        if let Err(error) = released {
            eprintln!("perf: {}: {error}", self.id);
        }
    }
}

struct HostResponse {
    status: u16,
    body: Vec<u8>,
}

impl HostResponse {
    /// Returns the body if the status is 200.
    fn ok(self) -> Result<Vec<u8>, Failure> {
        if self.status == 200 {
            return Ok(self.body);
        }
        Err(format!("the server responded with {}: {}", self.status, String::from_utf8_lossy(&self.body))
            .into())
    }
}

/// Waits until a condition holds.
fn wait_for(what: &str, mut holds: impl FnMut() -> Result<bool, Failure>) -> Result<(), Failure> {
    let deadline = now() + RESPONSE_TIMEOUT;
    while !holds()? {
        if now() >= deadline {
            return Err(format!("timeout while waiting for {what}").into());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Returns a time in milliseconds.
pub(crate) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
