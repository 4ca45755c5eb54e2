//! The server's side of one instance: a task that lives from the order to start it until nothing of it is left.

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

use super::ports::Port;
use super::protocol::{
    INSTANCE_LABEL, Lack, Launch, NODE_LABEL, Report, line, temporary_directory, working_directory,
};
use super::takeover::Traces;
use super::{IoContext, Shared, blocking, folder, guardian};
use crate::runtime::log::Log;
use crate::runtime::{Exit, RuntimeError, StartRequest};
use crate::telemetry::task;

/// How a stop ended: the error is a sentence.
pub(super) type StopReply = Result<(), String>;

/// Most of the time from the order to the running app goes into copying files.
const START_DEADLINE: Duration = Duration::from_secs(120);
/// What a guardian may take to kill all and remove the folder, before it is killed and we do it.
const END_DEADLINE: Duration = Duration::from_secs(5);

/// Keeps one instance.
pub(super) struct Supervisor {
    shared: Arc<Shared>,
    order: StartRequest,
    log: Arc<Log>,
    stops: mpsc::UnboundedReceiver<oneshot::Sender<StopReply>>,
    /// Whoever asked for a stop and waits for its end.
    waiting: Vec<oneshot::Sender<StopReply>>,
    folder: PathBuf,
}

/// A guardian and our lines to it.
struct Guardian {
    process: Child,
    /// Dropping it is the order to end.
    life: ChildStdin,
    reports: Lines<BufReader<ChildStdout>>,
    log: JoinHandle<()>,
}

impl Supervisor {
    /// The keeper of an instance that is in the list already.
    pub(super) fn new(
        shared: Arc<Shared>,
        order: StartRequest,
        log: Arc<Log>,
        stops: mpsc::UnboundedReceiver<oneshot::Sender<StopReply>>,
    ) -> Self {
        let folder = shared.settings.work.join(order.id.as_str());
        Self { shared, order, log, stops, waiting: Vec::new(), folder }
    }

    /// Starts the instance, answers where its app listens, and keeps it until nothing is left. An answer that
    /// nobody waits for any more is an order to stop.
    pub(super) async fn keep(mut self, mut reply: oneshot::Sender<Result<SocketAddr, RuntimeError>>) {
        let Some(port) = self.shared.ports.take() else {
            self.forget();
            let _ = reply.send(Err(RuntimeError::Exhausted("free port in CONTAINER_PORT_RANGE")));
            return;
        };
        let mut guardian = match self.start_guardian(&port).await {
            Ok(guardian) => guardian,
            Err(error) => {
                drop(port);
                self.forget();
                let _ = reply.send(Err(error));
                return;
            }
        };
        let started = tokio::select! {
            started = timeout(START_DEADLINE, guardian.started()) => {
                started.unwrap_or_else(|_| Err(RuntimeError::Start("it took too long".to_owned())))
            }
            stop = self.stops.recv() => {
                self.waiting.extend(stop);
                Err(RuntimeError::Start("it was stopped while it started".to_owned()))
            }
            () = reply.closed() => Err(RuntimeError::Start("nobody waits for it".to_owned())),
        };
        match started {
            Ok(()) => {
                if reply.send(Ok(port.address())).is_ok() {
                    self.watch(&mut guardian).await;
                }
                self.end(guardian, port).await;
            }
            Err(error) => {
                self.end(guardian, port).await;
                let _ = reply.send(Err(error));
            }
        }
    }

    /// Returns when the instance has to end, or has ended and that was reported.
    async fn watch(&mut self, guardian: &mut Guardian) {
        let how = tokio::select! {
            // A stop goes first, for an instance that was stopped reports no exit.
            biased;
            // Nothing to receive: the runtime was dropped.
            stop = self.stops.recv() => {
                self.waiting.extend(stop);
                return;
            }
            report = guardian.next_report() => match report {
                Some(Report::Ended { how }) => how,
                _ => "its guardian was killed".to_owned(),
            },
        };
        tracing::debug!(instance = %self.order.id.template(), how, "an app ended");
        if let Some(listener) = &*self.shared.listener.lock() {
            let _ = listener.send(Exit { id: self.order.id.clone(), how });
        }
    }

    /// Ends all that is left, however long that takes, and then takes the instance off the list.
    async fn end(&mut self, guardian: Guardian, port: Port) {
        let mut result = if guardian.end().await { Ok(()) } else { self.clean_up().await };
        while let Err(why) = result {
            tracing::error!(instance = %self.order.id.template(), why, "an instance could not be stopped");
            for waiting in self.waiting.drain(..) {
                let _ = waiting.send(Err(why.clone()));
            }
            // It stays on the list and keeps its port. Whoever orders it to stop gets another try.
            match self.stops.recv().await {
                Some(stop) => self.waiting.push(stop),
                None => return,
            }
            result = self.clean_up().await;
        }
        drop(port);
        self.forget();
    }

    /// Takes the instance off the list, and tells those who wait for that.
    fn forget(&mut self) {
        self.shared.running.lock().remove(&self.order.id);
        self.stops.close();
        while let Ok(stop) = self.stops.try_recv() {
            self.waiting.push(stop);
        }
        for waiting in self.waiting.drain(..) {
            let _ = waiting.send(Ok(()));
        }
    }

    /// Does the guardian's work without one.
    async fn clean_up(&self) -> StopReply {
        let traces = Traces::of_instance(&self.shared.settings.node, &self.order.id, &self.folder);
        let folder = self.folder.clone();
        let work = move || {
            traces.end_all()?;
            folder::remove(&folder)
        };
        timeout(END_DEADLINE, blocking(work))
            .await
            .map_err(|_| "its folder cannot be removed in time".to_owned())?
            .map_err(|e| e.to_string())
    }

    async fn start_guardian(&self, port: &Port) -> Result<Guardian, RuntimeError> {
        let launch = self.launch(port.address())?;
        let launch = line(&launch).map_err(|e| RuntimeError::Start(format!("its order: {e}")))?;
        let program = self.shared.settings.guardian.clone();
        let labels = [
            (NODE_LABEL, self.shared.settings.node.as_str().to_owned()),
            (INSTANCE_LABEL, self.order.id.as_str().to_owned()),
        ];
        let spawned = blocking(move || {
            let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
            let process = Command::new(program)
                .arg(guardian::NAME)
                .env_clear()
                .envs(labels)
                // Else the server's allocator takes a huge page, 4 MiB, for a guardian that needs a few KiB.
                .env("MIMALLOC_ARENA_EAGER_COMMIT", "0")
                .current_dir("/")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(write)
                // A group of its own: Ctrl-C in a terminal is for the server, which decides about instances.
                .process_group(0)
                .spawn()?;
            Ok((process, Receiver::from_owned_fd(read)?))
        });
        let (mut process, output) = spawned.await.map_err(|e: std::io::Error| match Lack::of(&e) {
            Some(lack) => RuntimeError::Exhausted(lack.name()),
            None => RuntimeError::Io { doing: "start a guardian".to_owned(), source: e },
        })?;
        let log = Arc::clone(&self.log);
        let log = task::spawn("read an instance's output", async move { log.fill_from(output).await });
        let mut life = process.stdin.take().expect("it was asked for as a pipe");
        let stdout = process.stdout.take().expect("it was asked for as a pipe");
        // A guardian that dies meanwhile shows in its reports.
        let _ = timeout(START_DEADLINE, life.write_all(&launch)).await;
        Ok(Guardian { process, life, reports: BufReader::new(stdout).lines(), log })
    }

    fn launch(&self, address: SocketAddr) -> Result<Launch, RuntimeError> {
        let app = &self.order.app;
        if app.command.is_empty() {
            return Err(RuntimeError::Start("its command is empty".to_owned()));
        }
        if let Some(name) = app.env.keys().find(|name| name.is_empty() || name.contains(['=', '\0'])) {
            return Err(RuntimeError::Start(format!("an environment variable cannot be called {name:?}")));
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
            (INSTANCE_LABEL, self.order.id.as_str().to_owned()),
            ("INSTANCE_URL", self.order.url.clone()),
            ("INSTANCE_HOST", self.order.host.clone()),
            (NODE_LABEL, self.shared.settings.node.as_str().to_owned()),
        ] {
            env.insert(name.to_owned(), value);
        }
        // The guardian works elsewhere, where a relative path would mean another folder.
        let files = app.files.as_deref().map(std::path::absolute).transpose();
        Ok(Launch {
            command: app.command.clone(),
            env,
            folder: self.folder.clone(),
            files: files.doing(|| "find the template's files".to_owned())?,
            limits: app.limits,
        })
    }
}

impl Guardian {
    async fn next_report(&mut self) -> Option<Report> {
        let line = self.reports.next_line().await.ok().flatten()?;
        serde_json::from_str(&line).ok()
    }

    async fn started(&mut self) -> Result<(), RuntimeError> {
        match self.next_report().await {
            Some(Report::Started) => Ok(()),
            Some(Report::Failed { lacking: Some(lack), .. }) => Err(RuntimeError::Exhausted(lack.name())),
            Some(Report::Failed { why, .. }) => Err(RuntimeError::Start(why)),
            Some(Report::Ended { .. }) | None => Err(RuntimeError::Start(
                "its guardian was killed, or is no program of this version".to_owned(),
            )),
        }
    }

    /// Lets the guardian do its work and says whether it did all of it.
    async fn end(self) -> bool {
        let Self { mut process, life, reports, log } = self;
        drop(life);
        let done = timeout(END_DEADLINE, process.wait()).await;
        let clean = matches!(done, Ok(Ok(status)) if status.success());
        if !clean {
            let _ = process.start_kill();
            let _ = timeout(END_DEADLINE, process.wait()).await;
        }
        // Only now: a guardian that cannot report must not fail for that.
        drop(reports);
        log.abort();
        clean
    }
}
