//! What runs instances.
//!
//! Every implementation passes the same conformance suite (`tests/conformance/runtime.rs`).

mod blocking;
pub mod containerd;
pub mod containerd_process;
mod log;
mod memory_report;
#[cfg(feature = "runtime-none")]
pub mod null;
pub mod process;
mod registry_auth;
pub mod tracefs;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::net::TcpStream;
use tokio::sync::mpsc;

pub use memory_report::{HostMemory, MemoryReport, MemoryUse};
pub use registry_auth::{Login, LoginFile, Logins};

use crate::instance::{Endpoint, InstanceId};
use crate::template::App;

/// An order to start one instance.
#[derive(Debug, Clone)]
pub struct StartRequest {
    /// Its id, `INSTANCE_ID` to the app.
    pub id: InstanceId,
    /// Its public address, `INSTANCE_URL` to the app.
    pub url: String,
    /// The host in that address without a port, `INSTANCE_HOST` to the app.
    pub host: String,
    /// What to run.
    pub app: Arc<App>,
    /// The version of the template that `app` is from: what it is restored from, if anything, is of the same.
    pub revision: u64,
    /// What it has of its own from its first moment on, restored or not. Only where instances are containers.
    pub files: Vec<OwnFile>,
    /// Whether [`Runtime::bake`] will be called, if nothing fails: what it does until then is watched.
    pub to_be_frozen: bool,
}

/// A file of one instance, which takes the place of one in its image. Its `Debug` does not show what is in it.
#[derive(Clone, PartialEq, Eq)]
pub struct OwnFile {
    /// Absolute, with neither `.` nor `..` in it.
    pub path: String,
    /// What is in it.
    pub content: String,
    /// Its permissions.
    pub mode: u32,
    /// Whose it is, by number: user and group.
    pub owner: (u32, u32),
}

impl OwnFile {
    /// One that is root's, and that everybody may read.
    pub fn new(path: impl Into<String>, content: impl Into<String>) -> Self {
        Self { path: path.into(), content: content.into(), mode: 0o644, owner: (0, 0) }
    }
}

impl fmt::Debug for OwnFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OwnFile({})", self.path)
    }
}

/// A command to run in an instance. Its `Debug` shows the program only.
#[derive(Clone, PartialEq, Eq)]
pub struct Command {
    /// Program and arguments; never empty.
    pub words: Vec<String>,
    /// Environment beyond the app's.
    pub env: BTreeMap<String, String>,
    /// Time after which it is killed.
    pub timeout: Duration,
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Command({})", self.words.first().map_or("", String::as_str))
    }
}

/// What became of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecOutput {
    /// Its exit status; `None` when it was killed because it took too long.
    pub status: Option<u32>,
    /// The end of its output, bounded.
    pub output: Bytes,
}

/// What a start has made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Started {
    /// Where its app listens, or will.
    pub endpoint: Endpoint,
    /// How it was made.
    pub how: StartMethod,
}

/// How an instance was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StartMethod {
    /// Its app was started from nothing.
    Cold,
    /// It is a copy of a golden checkpoint, which was warmed up before it was frozen.
    Restored,
}

/// Whether a runtime has a golden checkpoint of an app, of which it makes instances faster than from nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckpointStatus {
    /// This runtime makes none, or cannot here and now: every start is cold.
    Never,
    /// None that fits: starts are cold until [`Runtime::bake`] has made one.
    Missing,
    /// One that fits; starts restore it.
    Present,
}

/// A golden checkpoint that lies on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Of which template.
    pub template: String,
    /// Of which revision of it.
    pub revision: u64,
    /// Bytes of memory that its copies share, or why each has its own.
    pub shares: Result<u64, String>,
}

/// An instance ended without having been stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// Which one.
    pub id: InstanceId,
    /// How it ended, for logs: `exit status 1`, `signal 9`.
    pub how: String,
}

/// Why a runtime did not do it. After a failed start nothing of the instance is left.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The host has no room: no free port, no process, no disk.
    #[error("the host has no {0} left")]
    Exhausted(&'static str),
    /// The app could not be started; the text says why and is for the operator.
    #[error("cannot start the app: {0}")]
    Start(String),
    /// An operation on the host failed.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done.
        doing: String,
        /// What the system said.
        source: std::io::Error,
    },
}

/// See the module.
#[async_trait]
pub trait Runtime: Send + Sync + 'static {
    /// Its name in `CONTAINER_MODE` and `/health`.
    fn name(&self) -> &'static str;

    /// Whether there is an app behind each endpoint that can be asked whether it is ready. Only a runtime whose
    /// instances are mere records says no; those are ready as soon as they are started.
    fn runs_apps(&self) -> bool {
        true
    }

    /// Whether what it runs goes on when the server ends, and is picked up by the next one of its node.
    fn outlives_the_server(&self) -> bool {
        false
    }

    /// Whether it can make instances by restoring them on this host.
    fn restores(&self) -> bool {
        false
    }

    /// Starts an instance and says where its app will listen. The app need not listen yet. Starting an id that
    /// runs is an error and leaves it alone.
    async fn start(&self, order: &StartRequest) -> Result<Started, RuntimeError>;

    /// A connection to an endpoint that [`Runtime::start`] of this very runtime named. It has no deadline of its own.
    ///
    /// # Errors
    /// What the system says: nobody listens there, or the instance is gone. `Unsupported` for an endpoint of a kind
    /// that this runtime never names.
    async fn connect(&self, endpoint: Endpoint) -> io::Result<TcpStream> {
        match endpoint {
            Endpoint::Direct(address) => TcpStream::connect(address).await,
            Endpoint::Sealed { .. } => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                format!("the {} runtime cannot reach {endpoint}", self.name()),
            )),
        }
    }

    /// Brings what the app is made of to this host, an image for example, which may take minutes. Done already, it is
    /// quick. [`Runtime::start`] does the same where nobody did it before.
    async fn fetch(&self, _app: &App) -> Result<(), RuntimeError> {
        Ok(())
    }

    /// Whether there is a golden checkpoint for this revision of an app. Asked often; it must be quick. Before the app
    /// was fetched, `Missing` may mean that this is not known yet.
    async fn checkpoint_status(&self, _revision: u64, _app: &App) -> CheckpointStatus {
        CheckpointStatus::Never
    }

    /// What is to be known of the golden checkpoint of this revision of an app, in words for its operator: whether copies
    /// share their memory. `None` where there is nothing to tell.
    async fn describe_checkpoint(&self, _revision: u64, _app: &App) -> Option<String> {
        None
    }

    /// Whether it is of use to observe what an instance does with its first requests: a copy of a checkpoint of which no
    /// copy was observed yet.
    async fn wants_observation(&self, _id: &InstanceId) -> bool {
        false
    }

    /// The instance has answered what most visitors ask for first. What it needed for that the next copies have sooner.
    ///
    /// # Errors
    /// It could not be seen, which does no harm.
    async fn observe(&self, _id: &InstanceId) -> Result<(), RuntimeError> {
        Ok(())
    }

    /// Makes a running instance into the golden checkpoint of this revision of its app. The caller has warmed it up.
    /// When this returns, the instance has ended as if by [`Runtime::stop`], with no [`Exit`], and nothing of it is
    /// left but the checkpoint. Two templates with the same app have the same revision, and may be baked at once.
    ///
    /// # Errors
    /// There is no new checkpoint and nothing half made. The instance may run or not: the caller stops it. A future
    /// that is dropped is an error of that kind.
    async fn bake(&self, id: &InstanceId, _revision: u64, _app: &App) -> Result<(), RuntimeError> {
        let source = io::Error::from(io::ErrorKind::Unsupported);
        Err(RuntimeError::Io { doing: format!("freeze {id} under the {} runtime", self.name()), source })
    }

    /// Runs a command in an instance that runs, beside its app and with the same rights, to its end or its deadline.
    /// What the command has started, and has not ended with it, lives on in the instance.
    ///
    /// # Errors
    /// The instance does not run, or there is no such program, or this runtime cannot. A future that is dropped lets
    /// the command go on; [`Runtime::stop`] ends it.
    async fn exec(&self, order: &StartRequest, _command: Command) -> Result<ExecOutput, RuntimeError> {
        let source = io::Error::from(io::ErrorKind::Unsupported);
        let doing = format!("run a command in {} under the {} runtime", order.id, self.name());
        Err(RuntimeError::Io { doing, source })
    }

    /// Ends an instance: when this returns, no process, file or port of it is left. An id that does not run is
    /// no error, and no [`Exit`] is reported for an instance that was stopped.
    async fn stop(&self, id: &InstanceId) -> Result<(), RuntimeError>;

    /// All that runs.
    async fn list(&self) -> Result<Vec<InstanceId>, RuntimeError>;

    /// The last output of an instance, oldest first, bounded; `None` when it does not run.
    async fn logs(&self, id: &InstanceId) -> Option<Bytes>;

    /// What its instances take of this host's memory. It may take a while, and is asked now and then. `None` for a runtime
    /// that does not know, and where the kernel does not tell.
    async fn memory(&self) -> Option<MemoryReport> {
        None
    }

    /// The exits from now on. There is one listener: a second call takes over from the first.
    fn exits(&self) -> mpsc::UnboundedReceiver<Exit>;
}
