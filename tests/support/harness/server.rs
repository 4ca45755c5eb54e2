//! One server: a process, a port and a state folder of its own.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use super::processes::instance_folders_of;
use super::{Answer, PATIENCE, eventually, eventually_within, request};

/// A running server. Dropped, it is killed, and its instances with it.
pub struct Server {
    child: Child,
    /// The one port.
    pub port: u16,
    /// Its state folder, removed with it.
    pub folder: PathBuf,
    /// The name of its folder below `nodes` there.
    node: String,
    log: Arc<Mutex<Vec<String>>>,
}

/// An instance that was acquired.
#[derive(Debug, Clone)]
pub struct Demo {
    pub id: String,
    pub url: String,
    /// The host of its address, with the port.
    pub host: String,
}

impl Demo {
    /// Out of the answer to an acquire.
    pub fn from_json(handed: &Value) -> Self {
        let url = handed["url"].as_str().unwrap().to_owned();
        let host = url.split_once("://").unwrap().1.trim_end_matches('/').to_owned();
        Demo { id: handed["id"].as_str().unwrap().to_owned(), url, host }
    }
}

impl Server {
    /// Starts a server on a port of the system's choice with these variables on top of the defaults of the tests: a
    /// pool of two, no rate limits. Returns when it listens and its pool is full.
    pub async fn start(variables: &[(&str, &str)]) -> Self {
        Self::start_with(variables, &[]).await.full().await
    }

    /// The same with arguments of the command line, and without waiting for the pool.
    pub async fn start_with(variables: &[(&str, &str)], arguments: &[&str]) -> Self {
        let folder = std::env::temp_dir().join(format!("try-it-now-serve-{}", uuid::Uuid::now_v7()));
        Self::start_in(folder, variables, arguments).await
    }

    /// The same with a file of templates, without waiting for the pools. See [`Server::write_templates`].
    pub async fn with_file(variables: &[(&str, &str)], templates: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("try-it-now-serve-{}", uuid::Uuid::now_v7()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("templates.toml");
        std::fs::write(&file, templates).unwrap();
        Self::start_in(folder, variables, &["serve", "--config", file.to_str().unwrap()]).await
    }

    /// Writes the file of templates anew; the server reads it on SIGHUP.
    pub fn write_templates(&self, templates: &str) {
        std::fs::write(self.folder.join("templates.toml"), templates).unwrap();
    }

    /// The same in a given state folder, to start again where another server ended.
    pub async fn start_in(folder: PathBuf, variables: &[(&str, &str)], arguments: &[&str]) -> Self {
        std::fs::create_dir_all(&folder).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_try-it-now"))
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs([
                ("SERVER_HOST", "127.0.0.1"),
                ("SERVER_PORT", "0"),
                ("POOL_TARGET_SIZE", "2"),
                ("POOL_MIN_SIZE", "1"),
                ("RATE_LIMIT_HOURLY", "0"),
                ("RATE_LIMIT_DAILY", "0"),
                ("LOG_LEVEL", "debug"),
            ])
            .env("STATE_DIR", &folder)
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let log = Arc::new(Mutex::new(Vec::new()));
        let listening = async {
            loop {
                let line = lines.next_line().await.unwrap();
                let line = line.unwrap_or_else(|| panic!("the server ended: {:?}", log.lock().unwrap()));
                let told = serde_json::from_str::<Value>(&line).unwrap_or_default();
                log.lock().unwrap().push(line);
                if let (Some(port), Some(node)) = (told["port"].as_u64(), told["node"].as_str()) {
                    return (port as u16, node.to_owned());
                }
            }
        };
        let (port, node) = tokio::time::timeout(PATIENCE, listening).await.expect("the server listens");
        let kept = log.clone();
        try_it_now::telemetry::task::spawn("test", async move {
            while let Ok(Some(line)) = lines.next_line().await {
                kept.lock().unwrap().push(line);
            }
        });
        Self { child, port, folder, node, log }
    }

    /// Waits until every pool holds as many ready instances as it wants.
    pub async fn full(self) -> Self {
        self.full_within(PATIENCE).await
    }

    /// The same with a deadline of its own, for apps that take long to start.
    pub async fn full_within(self, limit: Duration) -> Self {
        eventually_within(limit, "the pool is full", async || {
            let stats = self.call("GET", "/api/v1/pool/stats", "").await.json();
            (stats["ready"].as_u64()? >= stats["target"].as_u64()?).then_some(())
        })
        .await;
        self
    }

    /// One request to the API, on a connection of its own. A body is sent as JSON.
    pub async fn call(&self, method: &str, path: &str, body: &str) -> Answer {
        request(self.port, method, "localhost", path, &[("content-type", "application/json")], body).await
    }

    /// One request to the API with these headers and no others of ours, on a connection of its own.
    pub async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        request(self.port, method, "localhost", path, headers, body).await
    }

    /// The numbers of all pools together.
    pub async fn stats(&self) -> Value {
        let answer = self.call("GET", "/api/v1/pool/stats", "").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    }

    /// The same as [`Server::start`] with the templates `default` (an app that misbehaves on demand, see
    /// [`super::fake_upstream`]) and `book` (the sample app).
    pub async fn with_stand_in(variables: &[(&str, &str)]) -> Self {
        Self::with_file(variables, &super::fake_upstream::templates()).await.full().await
    }

    /// Acquires an instance of the default template.
    pub async fn acquire(&self) -> Demo {
        self.acquire_with("").await
    }

    /// Acquires an instance of a template.
    pub async fn acquire_of(&self, template: &str) -> Demo {
        self.acquire_with(&format!(r#"{{"template":"{template}"}}"#)).await
    }

    async fn acquire_with(&self, body: &str) -> Demo {
        let answer = self.call("POST", "/api/v1/demo/acquire", body).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        Demo::from_json(&answer.json())
    }

    /// Everything logged so far, one JSON object a line.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    /// Everything logged until a line is there that `wanted` accepts.
    pub async fn log_until(&self, wanted: impl Fn(&str) -> bool) -> Vec<String> {
        eventually("the line is logged", async || {
            let log = self.log();
            log.iter().any(|line| wanted(line)).then_some(log)
        })
        .await
    }

    /// Leaves the state folder to a server that starts again where this one ends.
    pub fn keep_folder(&mut self) -> PathBuf {
        std::mem::take(&mut self.folder)
    }

    /// Its name among those that share a store.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// The server's process.
    pub fn pid(&self) -> u32 {
        self.child.id().expect("it was not waited for")
    }

    /// Sends a signal by name: `TERM`, `INT`, `KILL`, `HUP`, `STOP`, `CONT`.
    pub fn signal(&self, name: &str) {
        let pid = rustix::process::Pid::from_raw(self.pid() as i32).unwrap();
        let signal = match name {
            "TERM" => rustix::process::Signal::TERM,
            "KILL" => rustix::process::Signal::KILL,
            "HUP" => rustix::process::Signal::HUP,
            "INT" => rustix::process::Signal::INT,
            "CONT" => rustix::process::Signal::CONT,
            "STOP" => rustix::process::Signal::STOP,
            other => panic!("no signal {other}"),
        };
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits for the process to end and returns its exit status; `None` when a signal ended it.
    pub async fn ended(&mut self) -> Option<i32> {
        tokio::time::timeout(PATIENCE * 2, self.child.wait()).await.expect("the server ends").unwrap().code()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The guardians end and remove the instances by themselves, a moment after the server. A folder that is removed
        // under them could come back.
        let _ = self.child.start_kill();
        for _ in 0..400 {
            let ended = matches!(self.child.try_wait(), Ok(Some(_)));
            if ended && instance_folders_of(&self.folder, &self.node).is_empty() {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
