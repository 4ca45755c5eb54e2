//! Why the sample app cannot start.

use std::io;
use std::path::PathBuf;

/// Why the sample app cannot start. The text says what to do, for the author of a template who reads the log.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SampleAppError {
    /// The port cannot be bound.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Host and port as given.
        address: String,
        /// The system's error.
        source: io::Error,
    },
    /// The saved guest book cannot be read.
    #[error("cannot read {}: {source}", file.display())]
    Unreadable {
        /// The guest book's file.
        file: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The saved file is no guest book.
    #[error("{} is not a guest book ({why}); move it away to start with an empty one", file.display())]
    Damaged {
        /// The guest book's file, left unchanged.
        file: PathBuf,
        /// The first problem with it.
        why: String,
    },
}
