//! Why an exchange failed.

use crate::api::ApiError;

/// Why an exchange failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The client has left, or does not read.
    ClientGone,
    /// The client gets this error, unless an answer has begun.
    Error(ApiError),
    /// The app's connection ended before any byte of an answer.
    SocketEnded,
}
