//! The server's side of one instance: a task that lives from the request to start it until no resource of it remains.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use rustix::pipe::{PipeFlags, pipe_with};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::unix::pipe::Receiver;
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::ports::ReservedPort;
use super::protocol::{
    INSTANCE_LABEL, LaunchRequest, MissingResource, NODE_LABEL, Report, encode_line, temporary_directory,
    working_directory,
};
use super::shared::{SharedState, StopReply};
use super::takeover::ProcessMarks;
use super::{guardian, instance_dir};
use crate::runtime::blocking::{IoContext, blocking};
use crate::runtime::output_log::OutputLog;
use crate::runtime::{Exit, RuntimeError, StartRequest};
use crate::telemetry::task;

/// Longest time from the launch request to the running app; copying files takes most of it.
const START_DEADLINE: Duration = Duration::from_secs(120);
/// Longest time in which a guardian kills all processes and removes the folder. After it the guardian is killed and the
/// server does that work.
const END_DEADLINE: Duration = Duration::from_secs(5);

/// Supervises one instance.
pub(super) struct Supervisor {
    shared: Arc<SharedState>,
    request: StartRequest,
    log: Arc<OutputLog>,
    stop_requests: mpsc::UnboundedReceiver<oneshot::Sender<StopReply>>,
    /// Callers that requested a stop and wait for its end.
    stop_waiters: Vec<oneshot::Sender<StopReply>>,
    folder: PathBuf,
}

/// A guardian, and the pipes to it.
struct GuardianProcess {
    process: Child,
    /// Standard input of the guardian. Dropping it makes the guardian end the instance.
    stdin: ChildStdin,
    reports: Lines<BufReader<ChildStdout>>,
    log_reader: JoinHandle<()>,
}

impl Supervisor {
    /// Returns the supervisor of an instance that is in the list of running instances already.
    pub(super) fn new(
        shared: Arc<SharedState>,
        request: StartRequest,
        log: Arc<OutputLog>,
        stop_requests: mpsc::UnboundedReceiver<oneshot::Sender<StopReply>>,
    ) -> Self {
        let folder = shared.settings.instances_dir.join(request.id.as_str());
        Self { shared, request, log, stop_requests, stop_waiters: Vec::new(), folder }
    }

    /// Starts the instance, replies with the address of its app, and runs until no resource of it remains. If the
    /// caller no longer waits for the reply, the instance is stopped.
    pub(super) async fn run(mut self, mut reply: oneshot::Sender<Result<SocketAddr, RuntimeError>>) {
        let port = match self.shared.ports.reserve() {
            Ok(port) => port,
            Err(lacking) => {
                self.deregister();
                let _ = reply.send(Err(RuntimeError::Exhausted(lacking)));
                return;
            }
        };
        let mut guardian = match self.start_guardian(&port).await {
            Ok(guardian) => guardian,
            Err(error) => {
                drop(port);
                self.deregister();
                let _ = reply.send(Err(error));
                return;
            }
        };
        let started = tokio::select! {
            started = timeout(START_DEADLINE, guardian.started()) => {
                started.unwrap_or_else(|_| Err(RuntimeError::Start("it took too long".to_owned())))
            }
            stop = self.stop_requests.recv() => {
                self.stop_waiters.extend(stop);
                Err(RuntimeError::Start("it was stopped while it started".to_owned()))
            }
            () = reply.closed() => Err(RuntimeError::Start("its caller no longer waits for it".to_owned())),
        };
        match started {
            Ok(()) => {
                if reply.send(Ok(port.address())).is_ok() {
                    self.wait_for_end(&mut guardian).await;
                }
                self.end(guardian, port).await;
            }
            Err(error) => {
                self.end(guardian, port).await;
                let _ = reply.send(Err(error));
            }
        }
    }

    /// Waits until a stop is requested or the app ended. An exit is reported before this returns.
    async fn wait_for_end(&mut self, guardian: &mut GuardianProcess) {
        let cause = tokio::select! {
            // A stop takes precedence: an instance that was stopped reports no exit.
            biased;
            // `None` means that the runtime was dropped.
            stop = self.stop_requests.recv() => {
                self.stop_waiters.extend(stop);
                return;
            }
            report = guardian.next_report() => match report {
                Some(Report::Ended { how }) => how,
                _ => "its guardian was killed".to_owned(),
            },
        };
        tracing::debug!(instance = %self.request.id.template(), cause, "app ended");
        if let Some(exit_listener) = &*self.shared.exit_listener.lock() {
            let _ = exit_listener.send(Exit { id: self.request.id.clone(), cause });
        }
    }

    /// Ends all processes and removes all files, however long that takes, and then removes the instance from the list.
    async fn end(&mut self, guardian: GuardianProcess, port: ReservedPort) {
        let mut result = if guardian.end().await { Ok(()) } else { self.clean_up().await };
        while let Err(why) = result {
            tracing::error!(instance = %self.request.id.template(), why, "failed to stop instance");
            for waiter in self.stop_waiters.drain(..) {
                let _ = waiter.send(Err(why.clone()));
            }
            // The instance stays in the list and keeps its port. The next request to stop it tries again.
            match self.stop_requests.recv().await {
                Some(stop) => self.stop_waiters.push(stop),
                None => return,
            }
            result = self.clean_up().await;
        }
        drop(port);
        self.deregister();
    }

    /// Removes the instance from the list and answers the callers that wait for its end.
    fn deregister(&mut self) {
        self.shared.running.lock().remove(&self.request.id);
        self.stop_requests.close();
        while let Ok(stop) = self.stop_requests.try_recv() {
            self.stop_waiters.push(stop);
        }
        for waiter in self.stop_waiters.drain(..) {
            let _ = waiter.send(Ok(()));
        }
    }

    /// Does the guardian's work when the guardian is gone or failed.
    async fn clean_up(&self) -> StopReply {
        let marks = ProcessMarks::of_instance(&self.shared.settings.node, &self.request.id, &self.folder);
        let folder = self.folder.clone();
        let work = move || {
            marks.kill_all()?;
            instance_dir::remove(&folder)
        };
        timeout(END_DEADLINE, blocking(work))
            .await
            .map_err(|_| "cannot remove its folder in time".to_owned())?
            .map_err(|e| e.to_string())
    }

    async fn start_guardian(&self, port: &ReservedPort) -> Result<GuardianProcess, RuntimeError> {
        let launch = self.launch(port.address())?;
        let launch = encode_line(&launch)
            .map_err(|e| RuntimeError::Start(format!("cannot write its launch request: {e}")))?;
        let program = self.shared.settings.program.clone();
        let labels = [
            (NODE_LABEL, self.shared.settings.node.as_str().to_owned()),
            (INSTANCE_LABEL, self.request.id.as_str().to_owned()),
        ];
        let spawned = blocking(move || {
            let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
            let process = Command::new(program)
                .arg(guardian::NAME)
                .env_clear()
                .envs(labels)
                // Without it the server's allocator reserves a huge page, 4 MiB, for a guardian that needs a few KiB.
                .env("MIMALLOC_ARENA_EAGER_COMMIT", "0")
                .current_dir("/")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(write)
                // A process group of its own: Ctrl-C in a terminal is meant for the server, which decides about
                // instances.
                .process_group(0)
                .spawn()?;
            Ok((process, Receiver::from_owned_fd(read)?))
        });
        let (mut process, output) =
            spawned.await.map_err(|e: std::io::Error| match MissingResource::of(&e) {
                Some(resource) => RuntimeError::Exhausted(resource.name()),
                None => RuntimeError::Io { operation: "start a guardian".to_owned(), source: e },
            })?;
        let log = Arc::clone(&self.log);
        let log_reader = task::spawn("read an instance's output", async move { log.fill_from(output).await });
        let mut stdin = process.stdin.take().expect("it was requested as a pipe");
        let stdout = process.stdout.take().expect("it was requested as a pipe");
        // If the guardian dies meanwhile, its reports end, which is noticed later.
        let _ = timeout(START_DEADLINE, stdin.write_all(&launch)).await;
        Ok(GuardianProcess { process, stdin, reports: BufReader::new(stdout).lines(), log_reader })
    }

    fn launch(&self, address: SocketAddr) -> Result<LaunchRequest, RuntimeError> {
        let app = &self.request.app;
        if app.command.is_empty() {
            return Err(RuntimeError::Start("its command is empty".to_owned()));
        }
        if let Some(name) = app.env.keys().find(|name| name.is_empty() || name.contains(['=', '\0'])) {
            return Err(RuntimeError::Start(format!(
                "{name:?} cannot be the name of an environment variable"
            )));
        }
        let text = |path: PathBuf| path.to_string_lossy().into_owned();
        let mut env = BTreeMap::from([
            ("PATH".to_owned(), "/usr/local/bin:/usr/bin:/bin".to_owned()),
            ("HOME".to_owned(), text(working_directory(&self.folder))),
            ("TMPDIR".to_owned(), text(temporary_directory(&self.folder))),
        ]);
        for name in ["PATH", "LANG", "TZ"] {
            env.extend(std::env::var(name).ok().map(|value| (name.to_owned(), value)));
        }
        env.extend(app.env.clone());
        for (name, value) in [
            ("HOST", address.ip().to_string()),
            ("PORT", address.port().to_string()),
            (INSTANCE_LABEL, self.request.id.as_str().to_owned()),
            ("INSTANCE_URL", self.request.url.clone()),
            ("INSTANCE_HOST", self.request.host.clone()),
            (NODE_LABEL, self.shared.settings.node.as_str().to_owned()),
        ] {
            env.insert(name.to_owned(), value);
        }
        // The guardian has another working directory, where a relative path would mean another folder.
        let files = app.files.as_deref().map(std::path::absolute).transpose();
        Ok(LaunchRequest {
            command: app.command.clone(),
            env,
            folder: self.folder.clone(),
            files: files.context(|| "find the template's files".to_owned())?,
            limits: app.limits,
            open_files: self.shared.settings.open_files,
        })
    }
}

impl GuardianProcess {
    async fn next_report(&mut self) -> Option<Report> {
        let line = self.reports.next_line().await.ok().flatten()?;
        serde_json::from_str(&line).ok()
    }

    async fn started(&mut self) -> Result<(), RuntimeError> {
        match self.next_report().await {
            Some(Report::Started) => Ok(()),
            Some(Report::Failed { lacking: Some(resource), .. }) => {
                Err(RuntimeError::Exhausted(resource.name()))
            }
            Some(Report::Failed { why, .. }) => Err(RuntimeError::Start(why)),
            Some(Report::Ended { .. }) | None => Err(RuntimeError::Start(
                "its guardian was killed, or is not a program of this version".to_owned(),
            )),
        }
    }

    /// Lets the guardian clean up. Returns whether it did all of it.
    async fn end(self) -> bool {
        let Self { mut process, stdin, reports, log_reader } = self;
        drop(stdin);
        let done = timeout(END_DEADLINE, process.wait()).await;
        let clean = matches!(done, Ok(Ok(status)) if status.success());
        if !clean {
            let _ = process.start_kill();
            let _ = timeout(END_DEADLINE, process.wait()).await;
        }
        // Not earlier: a guardian whose report cannot be written must not fail for that.
        drop(reports);
        log_reader.abort();
        clean
    }
}
