//! Why `bake` or `clean` failed.

use std::io;
use std::path::PathBuf;

use crate::instance::NodeId;
use crate::pool::BakeError;
use crate::runtime::RuntimeError;

/// Why `bake` or `clean` failed.
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
}
