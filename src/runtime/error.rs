//! Why a runtime failed.

/// Why an operation of a runtime failed. After a failed start no resource of the instance remains.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The host ran out of a resource: free ports, processes, memory, open files, disk space. The text names it, as in
    /// "the host has no ... left".
    #[error("the host has no {0} left")]
    Exhausted(&'static str),
    /// The app cannot be started. The text states the reason for the operator.
    #[error("cannot start the app: {0}")]
    Start(String),
    /// An operation on the host failed.
    #[error("cannot {operation}: {source}")]
    Io {
        /// The operation: a verb and its object, as in "stop shop-1".
        operation: String,
        /// The error that the system or containerd returned.
        source: std::io::Error,
    },
}
