//! The messages that runc's shim takes and containerd's own bindings lack: those of `containerd.runc.v1`. Only the
//! fields that we set.

use prost::Message;
use prost_types::Any;

/// How a task is created.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct RuncOptions {
    /// What the shim runs; runc where it is empty.
    #[prost(string, tag = "6")]
    pub(crate) program: String,
    /// The folder of CRIU's images to restore from; empty for a cold start.
    #[prost(string, tag = "10")]
    pub(crate) criu_image_path: String,
    /// Where CRIU works and logs.
    #[prost(string, tag = "11")]
    pub(crate) criu_work_path: String,
}

/// How a task is checkpointed.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct CheckpointOptions {
    /// Whether the task ends with it.
    #[prost(bool, tag = "1")]
    pub(crate) exit: bool,
    /// Whether files that the task holds locked may be.
    #[prost(bool, tag = "5")]
    pub(crate) file_locks: bool,
    /// What is done about its cgroups.
    #[prost(string, tag = "7")]
    pub(crate) cgroups_mode: String,
    /// Where the images go.
    #[prost(string, tag = "8")]
    pub(crate) image_path: String,
    /// Where CRIU works and logs.
    #[prost(string, tag = "9")]
    pub(crate) work_path: String,
}

impl RuncOptions {
    pub(crate) fn to_any(&self) -> Any {
        Any { type_url: "containerd.runc.v1.Options".to_owned(), value: self.encode_to_vec() }
    }
}

impl CheckpointOptions {
    pub(crate) fn to_any(&self) -> Any {
        Any { type_url: "containerd.runc.v1.CheckpointOptions".to_owned(), value: self.encode_to_vec() }
    }
}
