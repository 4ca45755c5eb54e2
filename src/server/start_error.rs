//! Why a server does not start.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::tls::TlsError;
use crate::cluster::queue::QueueError;
use crate::runtime::RuntimeError;

/// Why the server did not start. Everything that was started before the error is ended again.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The port cannot be bound.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The configured address.
        address: SocketAddr,
        /// The error of the system.
        source: io::Error,
    },
    /// The state folder cannot be read or written.
    #[error("cannot use the state folder {folder}: {source}")]
    State {
        /// The configured folder.
        folder: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// The certificate or the private key cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The runtime cannot be reached, or cannot remove what a crashed server left.
    #[error("cannot start the runtime: {0}")]
    Runtime(#[from] RuntimeError),
    /// The queue cannot be used as it is configured.
    #[error("cannot use NATS_URL: {0}")]
    Queue(#[from] QueueError),
    /// The handover from or to another process failed.
    #[error("cannot take or give the place of a server: {0}")]
    Handover(io::Error),
    /// The system refuses signal handlers.
    #[error("cannot listen for signals: {0}")]
    Signals(io::Error),
}
