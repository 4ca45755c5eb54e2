//! Why a runtime failed.

/// Why an operation of a runtime failed. After a failed start no resource of the instance remains.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The host ran out of a resource: free ports, processes, memory, open files, disk space. The text names it, as in
    /// "the host has no ... left".
    #[error("the host has no {resource} left{remedy}", resource = .0, remedy = remedy(.0))]
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

/// Returns what the operator can do where a resource is exhausted, as the end of a sentence.
fn remedy(resource: &str) -> &'static str {
    match resource {
        "open file" => {
            ": raise the hard limit of open files (`ulimit -Hn`, LimitNOFILE= of a systemd unit; fs.file-max where \
             all programs together use it up), or lower MAX_CONNECTIONS"
        }
        "process" => {
            ": raise the limit of processes (`ulimit -u`, TasksMax= of a systemd unit, the pids limit of a \
             container), or lower the size of the pools"
        }
        "memory" => ": add memory or swap, or lower the size of the pools",
        "disk space" => ": make room on the file system of STATE_DIR",
        _ => "",
    }
}
