//! A server whose instances are containers, as an operator starts it, and a visitor who takes one step after another.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::Failure;
use crate::child::{self, Running};
use crate::clock::now;

/// Longest time that one answer may take: the first acquire waits until the template is baked.
const PATIENCE: Duration = Duration::from_secs(240);

/// What containers need: the folder of this repository, and what the stack says of itself.
#[derive(Debug)]
pub(crate) struct Stack {
    root: PathBuf,
    env: Vec<(String, String)>,
}

/// How a server makes instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// As copies of a checkpoint that share its memory where they can.
    Shared,
    /// As copies that each have memory of their own.
    Stock,
    /// From nothing.
    Cold,
}

/// A template to serve alone.
#[derive(Debug)]
pub(crate) struct Template {
    /// What its servers keep their state under.
    name: String,
    config: PathBuf,
}

impl Stack {
    /// The stack of this repository; the missing part's name where it is not up.
    fn find() -> Result<Self, String> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let env = std::fs::read_to_string(root.join("target/stack/env"))
            .map_err(|_| "target/stack/env (make stack-up)".to_owned())?;
        let env: Vec<(String, String)> = env
            .lines()
            .filter_map(|line| line.split_once('='))
            // The store is the server's own, as in the other cases.
            .filter(|(name, _)| *name != "VALKEY_ADDR")
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let socket = env.iter().find(|(name, _)| name == "CONTAINERD_ADDRESS");
        if !socket.is_some_and(|(_, path)| Path::new(path).exists()) {
            return Err("containerd's socket (make stack-up)".to_owned());
        }
        Ok(Self { root, env })
    }

    /// The same; `None`, with a line that says so, where it is not up.
    pub(crate) fn find_for(case: &str) -> Option<Self> {
        let found = Self::find();
        found.inspect_err(|missing| println!("skipped: {case}, {missing} is missing")).ok()
    }

    /// Whether the image of a template was built; a line says so if not.
    pub(crate) fn has_image(&self, case: &str, template: &str) -> bool {
        let has = self.root.join(format!("target/images/{template}.tar")).exists();
        if !has {
            println!("skipped: {case}, the image {template} is missing (make images)");
        }
        has
    }

    /// One of the ready templates.
    pub(crate) fn template(&self, name: &str) -> Template {
        let config = self.root.join(format!("deployments/templates/{name}.toml"));
        Template { name: name.to_owned(), config }
    }

    /// The same with another text in one place, under a name of its own.
    pub(crate) fn template_with(
        &self,
        name: &str,
        own: &str,
        from: &str,
        to: &str,
    ) -> Result<Template, Failure> {
        let text = std::fs::read_to_string(self.template(name).config)?;
        if text.matches(from).count() != 1 {
            return Err(format!("the template {name} does not say `{from}` once").into());
        }
        // As far below the root as the one it comes from, for the sake of its paths.
        let config = self.root.join("target/perf").join(format!("{own}.toml"));
        std::fs::create_dir_all(self.root.join("target/perf"))?;
        std::fs::write(&config, text.replace(from, to))?;
        Ok(Template { name: own.to_owned(), config })
    }

    /// A server of one template with a pool of `target`. Its state stays: what a broken run left is cleaned up by the
    /// next, and a checkpoint is made only once.
    pub(crate) fn serve(
        &self,
        program: &Path,
        template: &Template,
        target: usize,
        how: How,
        core: usize,
    ) -> Result<Site, Failure> {
        let name = match how {
            How::Shared => "restored",
            How::Stock => "stock",
            How::Cold => "cold",
        };
        let state = self.root.join(format!("target/perf/{}-{name}", template.name));
        std::fs::create_dir_all(&state)?;
        let mut command = child::leashed(program)?;
        command
            .args(["serve", "--config"])
            .arg(&template.config)
            .env_clear()
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .env("STATE_DIR", &state)
            .env("CONTAINER_MODE", "containerd")
            .env("CRIU_ENABLED", (how != How::Cold).to_string())
            .env("SHARED_MEMORY_MAX", if how == How::Shared { "" } else { "0" })
            .env("POOL_TARGET_SIZE", target.to_string())
            .env("POOL_MIN_SIZE", "0")
            .env("POOL_MAX_SIZE", (4 * target + 4).to_string())
            .env("POOL_REPLENISH_THRESHOLD", "1.0")
            .env("ACQUIRE_TIMEOUT", format!("{}s", PATIENCE.as_secs()))
            .env("SERVER_READ_TIMEOUT", format!("{}s", PATIENCE.as_secs()))
            .env("SERVER_WRITE_TIMEOUT", format!("{}s", PATIENCE.as_secs()))
            .env("SERVER_HOST", "127.0.0.1")
            .env("LOG_LEVEL", "debug")
            .env("LOG_FORMAT", "json")
            .env("RATE_LIMIT_HOURLY", "0")
            .env("RATE_LIMIT_DAILY", "0");
        let server = Running::listening("the server", command, "SERVER_PORT", child::folder()?, core)?;
        Ok(Site { address: server.address, server: Some(server), state })
    }
}

/// A server that ends its instances when it is dropped.
#[derive(Debug)]
pub(crate) struct Site {
    address: SocketAddr,
    server: Option<Running>,
    state: PathBuf,
}

impl Drop for Site {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.server.take().map(Running::end) {
            eprintln!("perf: {error}");
        }
    }
}

impl Site {
    /// An instance for this visitor; its id.
    pub(crate) fn acquire(&self) -> Result<String, Failure> {
        let body = self.ask("POST", "/api/v1/demo/acquire", "localhost")?.good()?;
        let answer: Value = serde_json::from_slice(&body)?;
        Ok(answer["id"].as_str().ok_or("an acquire without an id")?.to_owned())
    }

    /// Asks an instance for its front page through the proxy until that comes and holds `text`.
    pub(crate) fn first_page(&self, id: &str, text: &str) -> Result<(), Failure> {
        let deadline = now() + PATIENCE;
        loop {
            let answer = self.ask("GET", "/", &format!("{id}.localhost"))?;
            if answer.status == 200 && memchr::memmem::find(&answer.body, text.as_bytes()).is_some() {
                return Ok(());
            }
            if now() >= deadline {
                return Err(format!("{id} does not give its page but {}", answer.status).into());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Bytes of memory that an instance has for itself, once the server has measured that.
    pub(crate) fn private_memory(&self, id: &str) -> Result<f64, Failure> {
        let mut bytes = None;
        wait_for("what an instance takes", || {
            let body = self.ask("GET", &format!("/api/v1/demo/{id}"), "localhost")?.good()?;
            let answer: Value = serde_json::from_slice(&body)?;
            bytes = answer["memory"]["private_bytes"].as_f64();
            Ok(bytes.is_some())
        })?;
        Ok(bytes.unwrap_or_default())
    }

    /// Gives an instance back.
    pub(crate) fn release(&self, id: &str) -> Result<(), Failure> {
        self.ask("DELETE", &format!("/api/v1/demo/{id}"), "localhost")?.good().map(drop)
    }

    /// Waits until nothing of an instance is left: its folder is what the server removes last.
    pub(crate) fn wait_until_gone(&self, id: &str) -> Result<(), Failure> {
        let folders = self.instances()?;
        wait_for(&format!("the end of {id}"), || Ok(!folders.iter().any(|folder| folder.join(id).exists())))
    }

    /// Waits until `count` instances are ready.
    pub(crate) fn wait_until_ready(&self, count: u64) -> Result<(), Failure> {
        wait_for("a full pool", || {
            let body = self.ask("GET", "/api/v1/pool/stats", "localhost")?.good()?;
            let stats: Value = serde_json::from_slice(&body)?;
            Ok(stats["ready"].as_u64().is_some_and(|ready| ready >= count))
        })
    }

    /// What the server says each part of its restores took so far, in microseconds by the part's name.
    pub(crate) fn launches(&self) -> Result<BTreeMap<String, Vec<f64>>, Failure> {
        let said = self.server.as_ref().map_or(Ok(String::new()), Running::said)?;
        let mut parts: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        for line in said.lines() {
            let Ok(Value::Object(line)) = serde_json::from_str(line) else { continue };
            if line.get("message").is_none_or(|m| m != "launched") || line["restored"] != true {
                continue;
            }
            for (name, value) in &line {
                if let (Some(part), Some(micros)) = (name.strip_suffix("_micros"), value.as_f64()) {
                    parts.entry(part.to_owned()).or_default().push(micros);
                }
            }
        }
        Ok(parts)
    }

    /// The folders of instances: one of each node that has used this state, of which one runs.
    fn instances(&self) -> Result<Vec<PathBuf>, Failure> {
        let nodes = std::fs::read_dir(self.state.join("nodes"))?;
        let nodes: Vec<_> = nodes.collect::<Result<_, _>>()?;
        let folders = nodes.iter().map(|node| node.path().join("containers/instances"));
        let folders: Vec<PathBuf> = folders.filter(|folder| folder.exists()).collect();
        if folders.is_empty() { Err("the server keeps its instances elsewhere".into()) } else { Ok(folders) }
    }

    /// One request on a connection of its own.
    fn ask(&self, method: &str, path: &str, host: &str) -> Result<Answer, Failure> {
        let mut socket = TcpStream::connect(self.address)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let text =
            format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\naccept: */*\r\nconnection: close\r\n\r\n");
        socket.write_all(text.as_bytes())?;
        let mut bytes = Vec::new();
        socket.read_to_end(&mut bytes)?;
        let head = memchr::memmem::find(&bytes, b"\r\n\r\n").ok_or("an answer without a head")?;
        let status = std::str::from_utf8(bytes.get(9..12).unwrap_or_default())?.parse()?;
        Ok(Answer { status, body: bytes.split_off(head + 4) })
    }
}

struct Answer {
    status: u16,
    body: Vec<u8>,
}

impl Answer {
    fn good(self) -> Result<Vec<u8>, Failure> {
        if self.status == 200 {
            return Ok(self.body);
        }
        Err(format!("answered {}: {}", self.status, String::from_utf8_lossy(&self.body)).into())
    }
}

fn wait_for(what: &str, mut is_so: impl FnMut() -> Result<bool, Failure>) -> Result<(), Failure> {
    let deadline = now() + PATIENCE;
    while !is_so()? {
        if now() >= deadline {
            return Err(format!("{what} does not come").into());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}
