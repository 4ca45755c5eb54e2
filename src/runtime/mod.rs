//! What runs instances.
//!
//! Every implementation passes the same conformance suite (`tests/conformance/runtime.rs`).

mod image;
#[cfg(feature = "runtime-none")]
pub mod none;
pub mod process;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

pub use image::Image;

use crate::instance::InstanceId;

/// What to run: the part of a template that a runtime needs. Serialised to compare versions of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct App {
    /// The image that its containers are made from; `None` for an app that is a command on this host.
    pub image: Option<Image>,
    /// Program and arguments. A program without a slash is looked up in `PATH`; a relative one starts in the
    /// instance's working directory. Empty only with an image, and then the image's own is meant; else it takes the
    /// place of both the image's entrypoint and its arguments.
    pub command: Vec<String>,
    /// Where the app listens inside its container; 0 without an image, for then each instance is told its own.
    pub port: u16,
    /// Additional environment.
    pub env: BTreeMap<String, String>,
    /// A folder whose contents each instance gets a copy of, as its working directory. `None` with an image.
    pub files: Option<PathBuf>,
    /// What one instance may use.
    pub limits: ResourceLimits,
}

/// What one instance may use. `None` means as much as the host gives, and for a container as much as its runtime
/// thinks fit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceLimits {
    /// Processor time in seconds, over its whole life and per process. `None` with an image.
    pub cpu_seconds: Option<u64>,
    /// Bytes of memory: of a container in all, else of what is private and writable in each process.
    pub memory: Option<u64>,
    /// Open files per process.
    pub open_files: Option<u64>,
    /// Bytes of the largest file that it may write.
    pub file_size: Option<u64>,
    /// Processes and threads at a time. Containers only, like the rest.
    pub pids: Option<u32>,
    /// Bytes that it may write beside what its image holds.
    pub disk: Option<u64>,
    /// Thousandths of one processor, in all: 1500 are one and a half.
    pub millicpus: Option<u32>,
}

/// An order to start one instance.
#[derive(Debug, Clone)]
pub struct Order {
    /// Its id, `INSTANCE_ID` to the app.
    pub id: InstanceId,
    /// Its public address, `INSTANCE_URL` to the app.
    pub url: String,
    /// The host in that address without a port, `INSTANCE_HOST` to the app.
    pub host: String,
    /// What to run.
    pub app: Arc<App>,
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

    /// Starts an instance and says where its app will listen. The app need not listen yet. Starting an id that
    /// runs is an error and leaves it alone.
    async fn start(&self, order: &Order) -> Result<SocketAddr, RuntimeError>;

    /// Ends an instance: when this returns, no process, file or port of it is left. An id that does not run is
    /// no error, and no [`Exit`] is reported for an instance that was stopped.
    async fn stop(&self, id: &InstanceId) -> Result<(), RuntimeError>;

    /// All that runs.
    async fn list(&self) -> Result<Vec<InstanceId>, RuntimeError>;

    /// The last output of an instance, oldest first, bounded; `None` when it does not run.
    async fn logs(&self, id: &InstanceId) -> Option<Bytes>;

    /// The exits from now on. There is one listener: a second call takes over from the first.
    fn exits(&self) -> mpsc::UnboundedReceiver<Exit>;
}
