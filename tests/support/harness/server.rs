//! One server under test, with a process, a port and a state folder of its own.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::Pid;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

use super::processes::instance_folders_of;
use super::{Answer, MAX_WAIT, eventually, eventually_within, request};

/// A running server. When it is dropped, it is killed together with its instances.
pub struct Server {
    child: Child,
    /// The port on which it listens.
    pub port: u16,
    /// Its state folder. It is removed when the server is dropped.
    pub folder: PathBuf,
    /// The name of its node, which is that of its folder below `nodes` in the state folder.
    node: String,
    log: Arc<Mutex<Vec<String>>>,
    log_stop: CancellationToken,
    /// The process that took the place of the one that was started.
    successor: Option<Pid>,
}

/// An instance that the API has assigned to this test.
#[derive(Debug, Clone)]
pub struct AcquiredInstance {
    pub id: String,
    pub url: String,
    /// The host of its URL, with the port.
    pub host: String,
}

impl AcquiredInstance {
    /// Reads it from the answer to an acquire.
    pub fn from_json(acquired: &Value) -> Self {
        let url = acquired["url"].as_str().unwrap().to_owned();
        let host = url.split_once("://").unwrap().1.trim_end_matches('/').to_owned();
        AcquiredInstance { id: acquired["id"].as_str().unwrap().to_owned(), url, host }
    }
}

impl Server {
    /// Starts a server on a port that the system chooses, with these variables on top of the defaults of the tests: a
    /// pool of two, no rate limits. Returns when it listens and its pool is full.
    pub async fn start(variables: &[(&str, &str)]) -> Self {
        Self::start_with(variables, &[]).await.full().await
    }

    /// Starts a server with these command-line arguments too. Does not wait for the pool.
    pub async fn start_with(variables: &[(&str, &str)], arguments: &[&str]) -> Self {
        let folder = std::env::temp_dir().join(format!("try-it-now-serve-{}", uuid::Uuid::now_v7()));
        Self::start_in(folder, variables, arguments).await
    }

    /// Starts a server with this template file. Does not wait for the pools. See [`Server::write_templates`].
    pub async fn with_file(variables: &[(&str, &str)], templates: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("try-it-now-serve-{}", uuid::Uuid::now_v7()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("templates.toml");
        std::fs::write(&file, templates).unwrap();
        Self::start_in(folder, variables, &["serve", "--config", file.to_str().unwrap()]).await
    }

    /// Overwrites the template file, which the server reads again on SIGHUP.
    pub fn write_templates(&self, templates: &str) {
        std::fs::write(self.folder.join("templates.toml"), templates).unwrap();
    }

    /// Starts a server in this state folder, which another server may have used before. Does not wait for the pools.
    pub async fn start_in(folder: PathBuf, variables: &[(&str, &str)], arguments: &[&str]) -> Self {
        Self::spawn(Command::new(env!("CARGO_BIN_EXE_try-it-now")), folder, variables, arguments).await
    }

    /// Starts a server whose soft and hard limits of open files are these, with this template file. Does not wait for
    /// the pools.
    pub async fn with_open_files(
        (soft, hard): (u32, u32),
        variables: &[(&str, &str)],
        templates: &str,
    ) -> Self {
        let folder = std::env::temp_dir().join(format!("try-it-now-serve-{}", uuid::Uuid::now_v7()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("templates.toml");
        std::fs::write(&file, templates).unwrap();
        let mut shell = Command::new("sh");
        // Soft first: it may not be above the hard limit.
        shell.args(["-c", &format!("ulimit -Sn {soft} && ulimit -Hn {hard} && exec \"$0\" \"$@\"")]);
        shell.arg(env!("CARGO_BIN_EXE_try-it-now"));
        Self::spawn(shell, folder, variables, &["serve", "--config", file.to_str().unwrap()]).await
    }

    /// Starts a server as process 1 of a process namespace of its own, which needs root. [`Server::pid`] is the process
    /// that made the namespace. Does not wait for the pools.
    pub async fn as_first_process(variables: &[(&str, &str)]) -> Self {
        let folder = std::env::temp_dir().join(format!("try-it-now-serve-{}", uuid::Uuid::now_v7()));
        let mut unshare = Command::new("unshare");
        unshare.args(["--pid", "--fork", "--kill-child", "--mount-proc", env!("CARGO_BIN_EXE_try-it-now")]);
        Self::spawn(unshare, folder, variables, &["serve"]).await
    }

    /// Starts a server by a command to which the arguments are appended.
    pub async fn spawn(
        mut command: Command,
        folder: PathBuf,
        variables: &[(&str, &str)],
        arguments: &[&str],
    ) -> Self {
        std::fs::create_dir_all(&folder).unwrap();
        let mut child = command
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
            // What the whole run of the tests is for, see docs/settings.md.
            .envs(std::env::var_os("HTTP1_ENGINE").map(|engine| ("HTTP1_ENGINE", engine)))
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
                let entry = serde_json::from_str::<Value>(&line).unwrap_or_default();
                log.lock().unwrap().push(line);
                if let (Some(port), Some(node)) = (entry["port"].as_u64(), entry["node"].as_str()) {
                    return (port as u16, node.to_owned());
                }
            }
        };
        let (port, node) = tokio::time::timeout(MAX_WAIT, listening).await.expect("the server listens");
        let (kept, log_stop) = (log.clone(), CancellationToken::new());
        let stopped = log_stop.clone();
        try_it_now::telemetry::task::spawn("test", async move {
            let reading = async {
                while let Ok(Some(line)) = lines.next_line().await {
                    kept.lock().unwrap().push(line);
                }
            };
            if stopped.run_until_cancelled(reading).await.is_none() {
                // The pipe stays open.
                std::future::pending::<()>().await;
            }
        });
        Self { child, port, folder, node, log, log_stop, successor: None }
    }

    /// Waits until every pool has as many ready instances as its target.
    pub async fn full(self) -> Self {
        self.full_within(MAX_WAIT).await
    }

    /// Waits until every pool has as many ready instances as its target. Panics after `limit`, for apps that take long
    /// to start.
    pub async fn full_within(self, limit: Duration) -> Self {
        eventually_within(limit, "the pool is full", async || {
            let stats = self.call("GET", "/api/v1/pool/stats", "").await.json();
            (stats["ready"].as_u64()? >= stats["target"].as_u64()?).then_some(())
        })
        .await;
        self
    }

    /// Sends one request to the API on a connection of its own. The body is sent as JSON.
    pub async fn call(&self, method: &str, path: &str, body: &str) -> Answer {
        request(self.port, method, "localhost", path, &[("content-type", "application/json")], body).await
    }

    /// Sends one request to the API with exactly these headers, on a connection of its own.
    pub async fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        request(self.port, method, "localhost", path, headers, body).await
    }

    /// Returns the numbers of all pools together.
    pub async fn stats(&self) -> Value {
        let answer = self.call("GET", "/api/v1/pool/stats", "").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    }

    /// Starts a server with the templates `default` (an app that misbehaves on demand, see [`super::fake_upstream`])
    /// and `book` (the sample app). Returns when its pools are full.
    pub async fn with_fake_upstream(variables: &[(&str, &str)]) -> Self {
        Self::with_file(variables, &super::fake_upstream::templates()).await.full().await
    }

    /// Acquires an instance of the default template.
    pub async fn acquire(&self) -> AcquiredInstance {
        self.acquire_with("").await
    }

    /// Acquires an instance of a template.
    pub async fn acquire_of(&self, template: &str) -> AcquiredInstance {
        self.acquire_with(&format!(r#"{{"template":"{template}"}}"#)).await
    }

    async fn acquire_with(&self, body: &str) -> AcquiredInstance {
        let answer = self.call("POST", "/api/v1/demo/acquire", body).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        AcquiredInstance::from_json(&answer.json())
    }

    /// Returns all log lines so far, one JSON object a line.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    /// Waits until the log has a line for which `wanted` is true. Returns all log lines so far.
    pub async fn log_until(&self, wanted: impl Fn(&str) -> bool) -> Vec<String> {
        self.log_until_within(MAX_WAIT, wanted).await
    }

    /// Does the same, for what may take as long as `limit`.
    pub async fn log_until_within(&self, limit: Duration, wanted: impl Fn(&str) -> bool) -> Vec<String> {
        eventually_within(limit, "the line is logged", async || {
            let log = self.log();
            log.iter().any(|line| wanted(line)).then_some(log)
        })
        .await
    }

    /// Returns the state folder and keeps it when this server is dropped, so that another server can use it.
    pub fn keep_folder(&mut self) -> PathBuf {
        std::mem::take(&mut self.folder)
    }

    /// Returns the state folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns the name of its node.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// Returns its process id.
    pub fn pid(&self) -> u32 {
        match self.successor {
            Some(pid) => pid.as_raw_nonzero().get() as u32,
            None => self.child.id().expect("the process was not waited for"),
        }
    }

    /// Has another process take the place of this one, and waits until it serves.
    pub async fn replace(&mut self) {
        self.signal("USR2");
        self.follow_successor().await;
    }

    /// Waits until another process has taken the place of this one.
    pub async fn follow_successor(&mut self) {
        let old = self.pid();
        let next = async || self.last_successor().filter(|pid| pid.as_raw_nonzero().get() as u32 != old);
        self.successor = Some(eventually_within(MAX_WAIT * 2, "another server serves", next).await);
    }

    /// Returns the last process that has taken the place of another, as the log says.
    fn last_successor(&self) -> Option<Pid> {
        let log = self.log();
        let mut lines = log.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let taken = |line: &Value| line["message"] == "another server has taken the place of this one";
        Pid::from_raw(lines.rfind(taken)?["pid"].as_i64()? as i32)
    }

    /// Reads no more of what the server logs, and keeps the pipe open.
    pub fn stop_reading_log(&self) {
        self.log_stop.cancel();
    }

    /// Sends a signal by name: `TERM`, `INT`, `KILL`, `HUP`, `STOP`, `CONT`, `USR2`.
    pub fn signal(&self, name: &str) {
        let pid = rustix::process::Pid::from_raw(self.pid() as i32).unwrap();
        let signal = match name {
            "TERM" => rustix::process::Signal::TERM,
            "KILL" => rustix::process::Signal::KILL,
            "HUP" => rustix::process::Signal::HUP,
            "INT" => rustix::process::Signal::INT,
            "CONT" => rustix::process::Signal::CONT,
            "STOP" => rustix::process::Signal::STOP,
            "USR2" => rustix::process::Signal::USR2,
            other => panic!("unknown signal {other}"),
        };
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits until the process ends. Returns its exit status, or `None` if a signal ended it.
    pub async fn wait_for_exit(&mut self) -> Option<i32> {
        if let Some(pid) = self.successor {
            eventually("the other process ends", async || {
                rustix::process::test_kill_process(pid).is_err().then_some(())
            })
            .await;
        }
        tokio::time::timeout(MAX_WAIT * 2, self.child.wait()).await.expect("the server ends").unwrap().code()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The guardians end and remove the instances themselves, a moment after the server. They could create a folder
        // again that is removed before that.
        let _ = self.child.start_kill();
        // Also after a panic in the middle of a handover. It may have ended, and its number may be another process's.
        if let Some(pid) = self.last_successor()
            && std::fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero()))
                .is_ok_and(|line| String::from_utf8_lossy(&line).contains(&*self.folder.to_string_lossy()))
        {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
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
