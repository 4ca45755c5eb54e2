//! The trait that every runtime implements.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::{ExecCommand, ExecOutput, ImageFacts, MemoryReport, RuntimeError, StartRequest};
use crate::instance::{Endpoint, InstanceId};
use crate::template::{App, HealthCheck};

/// What a start made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Started {
    /// Where the app listens, now or soon.
    pub endpoint: Endpoint,
    /// How the instance was made.
    pub method: StartMethod,
}

/// How an instance was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StartMethod {
    /// By a cold start: the app was started from its image or its files.
    Cold,
    /// By a restore from a checkpoint, which was warmed up before it was frozen.
    Restored,
}

/// How many bytes of an image have come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TransferProgress {
    /// Bytes that have come.
    pub received: u64,
    /// Bytes of all parts that are known so far.
    pub total: u64,
}

/// Whether a runtime has a checkpoint of an app. A restore is faster than a cold start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckpointStatus {
    /// The runtime makes no checkpoints, or cannot on this host: every start is cold.
    Never,
    /// No checkpoint fits: starts are cold until [`Runtime::bake`] has made one.
    Missing,
    /// A checkpoint fits; starts restore it.
    Present,
}

/// A checkpoint that is stored on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Name of the template.
    pub template: String,
    /// Revision of the template.
    pub revision: u64,
    /// Bytes of memory that instances of this checkpoint share, or why each instance has its own memory.
    pub shared_memory: Result<u64, String>,
    /// Values that two restored instances both drew, though they should be random; described for the operator.
    pub repeated_values: Vec<String>,
    /// Which generators may draw the same random numbers in several instances, each with what to do.
    pub repeating_numbers: Vec<String>,
}

/// An instance that ended without a call of [`Runtime::stop`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// The instance.
    pub id: InstanceId,
    /// How it ended, for logs: `exit status 1`, `signal 9`.
    pub cause: String,
}

/// Runs instances on this host. All implementations pass the conformance suite in `tests/suites/runtime.rs`.
#[async_trait]
pub trait Runtime: Send + Sync + 'static {
    /// Returns the runtime's name in `CONTAINER_MODE` and `/health`.
    fn name(&self) -> &'static str;

    /// Returns whether an app listens at each endpoint, so that its ready check can run. Only a runtime whose instances
    /// are mere records returns false; these instances are ready as soon as they are started.
    fn runs_apps(&self) -> bool {
        true
    }

    /// Returns whether instances survive the end of the server and are taken over by the next server of the same node.
    fn outlives_server(&self) -> bool {
        false
    }

    /// Returns whether the runtime can make instances by restoring them on this host.
    fn may_restore(&self) -> bool {
        false
    }

    /// Starts an instance and returns where its app will listen. The app need not listen yet.
    ///
    /// # Errors
    /// The start failed, and no resource of the instance remains. If an instance with this id runs already, the call
    /// fails and that instance is left as it is.
    async fn start(&self, request: &StartRequest) -> Result<Started, RuntimeError>;

    /// Gives an instance that was started with [`StartRequest::yields`] its full share of the processors, also while its
    /// start is in progress. Returns whether the runtime knows the instance: before, the call has no effect.
    async fn end_yielding(&self, _id: &InstanceId) -> bool {
        true
    }

    /// Connects to an endpoint that [`Runtime::start`] of this same runtime returned. The call has no deadline of its
    /// own.
    ///
    /// # Errors
    /// The system's error if no app listens there or the instance is gone. `Unsupported` for an endpoint of a kind that
    /// this runtime never returns.
    async fn connect(&self, endpoint: Endpoint) -> io::Result<TcpStream> {
        match endpoint {
            Endpoint::Direct(address) => TcpStream::connect(address).await,
            Endpoint::Sealed { .. } | Endpoint::SealedIpv6 { .. } => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                format!("the {} runtime cannot reach {endpoint}", self.name()),
            )),
        }
    }

    /// Returns where the app of an instance reaches its database server; `None` if that is where this server does.
    fn database_address(&self) -> Option<(Ipv4Addr, u16)> {
        None
    }

    /// Returns the health check of an app's image. The app was fetched before. `None` where the image declares none.
    fn health_check(&self, _app: &App) -> Option<HealthCheck> {
        None
    }

    /// Returns what an app's image declares. The app was fetched before. `None` for an app without an image.
    fn image_facts(&self, _app: &App) -> Option<ImageFacts> {
        None
    }

    /// Returns the TCP addresses on which the processes of an instance listen, by port; `None` where that is not known.
    /// The call may take a while, and is made for an app that does not become ready.
    async fn listeners(&self, _id: &InstanceId) -> Option<Vec<SocketAddr>> {
        None
    }

    /// Brings what the app consists of to this host, for example its image. This may take minutes; if it was done
    /// before, it is quick. [`Runtime::start`] does it too where it was not done before.
    ///
    /// # Errors
    /// The app could not be fetched.
    async fn fetch(&self, _app: &App) -> Result<(), RuntimeError> {
        Ok(())
    }

    /// Returns how far [`Runtime::fetch`] of an app is; `None` where nothing is transferred, or that is not known.
    fn fetch_progress(&self, _app: &App) -> Option<TransferProgress> {
        None
    }

    /// Returns whether there is a checkpoint for this revision of an app. The call is frequent and must be quick.
    /// Before the app was fetched, `Missing` may mean that this is not known yet.
    async fn checkpoint_status(&self, _revision: u64, _app: &App) -> CheckpointStatus {
        CheckpointStatus::Never
    }

    /// Describes the checkpoint of this revision of an app for the operator: whether its instances share their memory.
    /// `None` where there is nothing to describe.
    async fn describe_checkpoint(&self, _revision: u64, _app: &App) -> Option<String> {
        None
    }

    /// Describes for the operator whether instances of the checkpoint of this revision of an app draw different random
    /// numbers. `None` where there is nothing to describe.
    async fn describe_random_numbers(&self, _revision: u64, _app: &App) -> Option<String> {
        None
    }

    /// Returns whether [`Runtime::observe`] is of use for an instance: it was restored from a checkpoint of which no
    /// instance was observed yet.
    async fn may_observe(&self, _id: &InstanceId) -> bool {
        false
    }

    /// Records which memory the instance needed to answer its first requests, so that later restores prefault it. The
    /// caller has sent the requests that most visitors send first.
    ///
    /// # Errors
    /// The memory could not be examined, which does no harm.
    async fn observe(&self, _id: &InstanceId) -> Result<(), RuntimeError> {
        Ok(())
    }

    /// Freezes a running instance into the checkpoint of this revision of its app. The caller has warmed it up. When
    /// this returns, the instance has ended as if by [`Runtime::stop`], with no [`Exit`], and only the checkpoint
    /// remains. Two templates with the same app have the same revision, and may be baked at the same time.
    ///
    /// # Errors
    /// There is no new checkpoint and no partial one. The instance may run or not: the caller stops it. If the future
    /// is dropped, the bake counts as failed in this way.
    async fn bake(&self, id: &InstanceId, _revision: u64, _app: &App) -> Result<(), RuntimeError> {
        let source = io::Error::from(io::ErrorKind::Unsupported);
        Err(RuntimeError::Io { operation: format!("freeze {id} under the {} runtime", self.name()), source })
    }

    /// Removes the checkpoint of this revision of an app, because its instances do not work. Running instances of it go
    /// on.
    ///
    /// # Errors
    /// The checkpoint cannot be removed.
    async fn discard_checkpoint(&self, _revision: u64, _app: &App) -> Result<(), RuntimeError> {
        Ok(())
    }

    /// Removes all checkpoints of this runtime's node. Running instances of them go on.
    ///
    /// # Errors
    /// A checkpoint cannot be removed.
    async fn discard_all_checkpoints(&self) -> Result<(), RuntimeError> {
        Ok(())
    }

    /// Records with a checkpoint which values two instances of it both drew, though they should be random. `values`
    /// describes each for the operator.
    ///
    /// # Errors
    /// The checkpoint is gone, or its record cannot be written.
    async fn record_repeated_values(
        &self,
        _revision: u64,
        _app: &App,
        _values: &[String],
    ) -> Result<(), RuntimeError> {
        Ok(())
    }

    /// Runs a command in a running instance, beside its app and with the same rights, until it ends or its timeout
    /// expires. Processes that the command started and that did not end with it live on in the instance.
    ///
    /// # Errors
    /// The instance does not run, the program does not exist, or this runtime cannot run commands. If the future is
    /// dropped, the command goes on; [`Runtime::stop`] ends it.
    async fn exec(&self, request: &StartRequest, _command: ExecCommand) -> Result<ExecOutput, RuntimeError> {
        let source = io::Error::from(io::ErrorKind::Unsupported);
        let operation = format!("run a command in {} under the {} runtime", request.id, self.name());
        Err(RuntimeError::Io { operation, source })
    }

    /// Ends an instance: when this returns, no process, file or port of it remains. An id that does not run is no
    /// error. No [`Exit`] is reported for an instance that was stopped.
    ///
    /// # Errors
    /// A process or a file of the instance could not be removed. The caller may try again.
    async fn stop(&self, id: &InstanceId) -> Result<(), RuntimeError>;

    /// Returns the ids of all running instances.
    ///
    /// # Errors
    /// The runtime cannot be asked.
    async fn list(&self) -> Result<Vec<InstanceId>, RuntimeError>;

    /// Returns the last output of an instance, oldest first, bounded; `None` if it does not run. A runtime may keep that
    /// of an instance that ended by itself until it is stopped.
    async fn logs(&self, id: &InstanceId) -> Option<Bytes>;

    /// Returns what the instances use of this host's memory. The call may take a while and is made now and then. `None`
    /// for a runtime that does not know, and where the kernel does not report it.
    async fn memory(&self) -> Option<MemoryReport> {
        None
    }

    /// Ends what the runtime does by itself: another process of the node is about to take its instances over. They run
    /// on, and [`Runtime::connect`] still reaches them.
    async fn hand_over(&self) {}

    /// Returns a receiver of all exits from now on. There is one receiver: after a second call the first one gets none.
    fn exits(&self) -> mpsc::UnboundedReceiver<Exit>;
}
