//! Messages of runc's shim (`containerd.runc.v1`) that containerd's own bindings lack, with only the fields that this
//! runtime sets.

use prost::Message;
use prost_types::Any;

/// Options for creating a task.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct RuncOptions {
    /// Owner of the pipes that the shim makes for the output.
    #[prost(uint32, tag = "4")]
    pub(crate) output_user: u32,
    /// Group of those pipes.
    #[prost(uint32, tag = "5")]
    pub(crate) output_group: u32,
    /// Program that the shim runs; empty for runc.
    #[prost(string, tag = "6")]
    pub(crate) program: String,
    /// Folder of CRIU's images to restore from; empty for a cold start.
    #[prost(string, tag = "10")]
    pub(crate) criu_image_path: String,
    /// Folder in which CRIU works and writes its log.
    #[prost(string, tag = "11")]
    pub(crate) criu_work_path: String,
}

/// Options for checkpointing a task.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct CheckpointOptions {
    /// Whether the task ends with the checkpoint.
    #[prost(bool, tag = "1")]
    pub(crate) exit: bool,
    /// Whether the task may hold locks on files.
    #[prost(bool, tag = "5")]
    pub(crate) file_locks: bool,
    /// The namespaces whose content is not stored.
    #[prost(string, repeated, tag = "6")]
    pub(crate) empty_namespaces: Vec<String>,
    /// How CRIU handles the task's cgroups.
    #[prost(string, tag = "7")]
    pub(crate) cgroups_mode: String,
    /// Folder for the images.
    #[prost(string, tag = "8")]
    pub(crate) image_path: String,
    /// Folder in which CRIU works and writes its log.
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
