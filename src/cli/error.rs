//! Why `bake`, `clean`, `run` or `try-image` failed.

use std::io;
use std::path::PathBuf;

use crate::config::ConfigErrors;
use crate::instance::{InstanceId, NodeId};
use crate::pool::BakeError;
use crate::runtime::{DatabaseError, RuntimeError};
use crate::server::start_error::StartError;

/// Why `bake`, `clean`, `run` or `try-image` failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum CommandError {
    /// A server uses the state folder.
    #[error("cannot use {} while a server runs with it ({node}): stop it first", .folder.display())]
    ServerRuns {
        /// The state folder.
        folder: PathBuf,
        /// The name of the server's node.
        node: NodeId,
    },
    /// A file or folder of the state folder cannot be used.
    #[error("cannot use {}: {source}", .folder.display())]
    Folder {
        /// The file or folder.
        folder: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// No template has the requested name.
    #[error("there is no template `{requested}`; the templates are {known}")]
    NoTemplate {
        /// The requested name.
        requested: String,
        /// All names, with commas between them.
        known: String,
    },
    /// The databases of nodes could not be dropped.
    #[error(
        "cannot drop the databases and users whose names begin with {prefixes}: {source}; then run `try-it-now clean` again \
         with the same STATE_DIR, or drop them in MariaDB by hand; everything else was removed"
    )]
    DatabasesRemain {
        /// What the names begin with, with commas between them.
        prefixes: String,
        /// Why the first of them was not dropped.
        source: DatabaseError,
    },
    /// The runtime failed.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// A template could not be baked.
    #[error("cannot bake {template}: {source}")]
    Bake {
        /// The template's name.
        template: String,
        /// The reason.
        source: BakeError,
    },
    /// The process cannot receive signals.
    #[error("cannot listen for signals: {0}")]
    Signals(io::Error),
    /// A signal ended the command.
    #[error("interrupted; no partial checkpoint remains")]
    Interrupted,
    /// A signal ended `try-image`.
    #[error("interrupted; everything of the trial was removed")]
    TrialInterrupted,
    /// containerd does not answer.
    #[error("cannot try an image without containerd: {0}")]
    Containerd(String),
    /// Another run tries an image.
    #[error("another try-image runs with {}: wait until it has ended", .0.display())]
    TrialRuns(PathBuf),
    /// An instance does not end.
    #[error("cannot stop {0} in time; the next try-image removes it")]
    NotStopped(InstanceId),
    /// The environment has errors.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// The runtime that `run` needs does not answer.
    #[error("cannot run the image: {0}")]
    NoRuntime(String),
    /// No runtime answers.
    #[error(
        "cannot run the image: this host has no container runtime: install Docker (apt-get install docker.io), Podman \
         (apt-get install podman) or containerd (apt-get install containerd runc criu); what was asked:\n- {0}"
    )]
    NothingInstalled(String),
    /// The image that `run` was asked for does not work.
    #[error("cannot run {image}: {why}")]
    ImageDoesNotWork {
        /// The image.
        image: String,
        /// The reason.
        why: String,
    },
    /// The server of `run` did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The server of `run` has no instance.
    #[error("no instance became ready: {0}")]
    NoInstance(String),
    /// A signal ended `run` before there was an instance.
    #[error("interrupted; everything of the run was removed")]
    RunInterrupted,
    /// The template that was made is malformed.
    #[error("cannot use the suggested template: {0}")]
    Suggestion(String),
}
