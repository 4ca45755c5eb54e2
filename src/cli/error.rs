//! Why a command of the program failed.

use std::io;
use std::path::PathBuf;

use crate::instance::NodeId;
use crate::pool::BakeError;
use crate::runtime::RuntimeError;

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
pub(super) enum CommandError {
    /// A server is at work.
    #[error("a server of {} runs ({node}): stop it first", .folder.display())]
    Runs {
        /// Its state folder.
        folder: PathBuf,
        /// Its name there.
        node: NodeId,
    },
    /// The state folder cannot be used.
    #[error("cannot use {}: {source}", .folder.display())]
    Folder {
        /// Which one.
        folder: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No template has that name.
    #[error("there is no template `{asked}`; there are: {known}")]
    NoTemplate {
        /// What was asked for.
        asked: String,
        /// All names, with commas.
        known: String,
    },
    /// The runtime refused.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// A template could not be baked.
    #[error("{template}: {source}")]
    Bake {
        /// Which one.
        template: String,
        /// Why not.
        source: BakeError,
    },
    /// The system gives no signals.
    #[error("cannot listen for signals: {0}")]
    Signals(io::Error),
    /// Somebody ended it.
    #[error("interrupted; nothing half made was left")]
    Interrupted,
}
