//! The messages of CRIU's RPC, with the fields that are used. One message is one packet.

use prost::Message;

/// The kind of a request or of its response: restore a checkpoint.
pub(super) const KIND_RESTORE: i32 = 2;
/// The kind of a notification by CRIU, and of the reply to it.
pub(super) const KIND_NOTIFY: i32 = 6;

/// The mode in which CRIU leaves cgroups alone: processes stay in those of CRIU.
pub(super) const IGNORE_CGROUPS: i32 = 0;

/// A request to CRIU, or the reply to one of its notifications.
#[derive(Clone, PartialEq, Message)]
pub(super) struct CriuRequest {
    #[prost(int32, tag = "1")]
    pub(super) kind: i32,
    #[prost(message, optional, tag = "2")]
    pub(super) options: Option<CriuOptions>,
    #[prost(bool, optional, tag = "3")]
    pub(super) notify_success: Option<bool>,
}

/// How CRIU restores. Descriptors are those of the process that asks.
#[derive(Clone, PartialEq, Message)]
pub(super) struct CriuOptions {
    /// The descriptor of the folder with the image files.
    #[prost(int32, required, tag = "1")]
    pub(super) images: i32,
    #[prost(bool, optional, tag = "6")]
    pub(super) evasive_devices: Option<bool>,
    #[prost(bool, optional, tag = "8")]
    pub(super) file_locks: Option<bool>,
    #[prost(int32, optional, tag = "9")]
    pub(super) log_level: Option<i32>,
    #[prost(string, optional, tag = "10")]
    pub(super) log_file: Option<String>,
    #[prost(bool, optional, tag = "12")]
    pub(super) notify: Option<bool>,
    #[prost(string, optional, tag = "13")]
    pub(super) root: Option<String>,
    #[prost(int32, optional, tag = "17")]
    pub(super) work: Option<i32>,
    #[prost(message, repeated, tag = "23")]
    pub(super) mounts: Vec<ExternalMount>,
    /// Whether the first process becomes a child of the process that started CRIU.
    #[prost(bool, optional, tag = "26")]
    pub(super) sibling: Option<bool>,
    #[prost(message, repeated, tag = "27")]
    pub(super) inherited: Vec<InheritedFd>,
    #[prost(int32, optional, tag = "34")]
    pub(super) cgroup_mode: Option<i32>,
    /// The namespaces whose content is not restored, as flags of `clone`.
    #[prost(uint32, optional, tag = "38")]
    pub(super) empty_namespaces: Option<u32>,
    #[prost(bool, optional, tag = "50")]
    pub(super) orphan_terminals: Option<bool>,
    #[prost(string, optional, tag = "51")]
    pub(super) config: Option<String>,
}

/// A mount of the checkpoint that is replaced by a folder of the host.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ExternalMount {
    #[prost(string, required, tag = "1")]
    pub(super) inside: String,
    #[prost(string, required, tag = "2")]
    pub(super) outside: String,
}

/// A descriptor that CRIU inherits and uses for what the image files call `name`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct InheritedFd {
    #[prost(string, required, tag = "1")]
    pub(super) name: String,
    #[prost(int32, required, tag = "2")]
    pub(super) descriptor: i32,
}

/// The response to a request, or a notification.
#[derive(Clone, PartialEq, Message)]
pub(super) struct CriuResponse {
    #[prost(int32, tag = "1")]
    pub(super) kind: i32,
    #[prost(bool, tag = "2")]
    pub(super) success: bool,
    #[prost(message, optional, tag = "5")]
    pub(super) notify: Option<Notification>,
    #[prost(int32, optional, tag = "7")]
    pub(super) errno: Option<i32>,
}

/// A stage of the restore that CRIU has reached. It waits for the reply.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Notification {
    /// The name of the stage.
    #[prost(string, optional, tag = "1")]
    pub(super) script: Option<String>,
    /// The number of the first process on the host.
    #[prost(int32, optional, tag = "2")]
    pub(super) pid: Option<i32>,
}
