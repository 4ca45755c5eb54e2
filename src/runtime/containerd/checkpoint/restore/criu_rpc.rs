//! The messages of CRIU's RPC, those fields that are used. One message is one packet.

use prost::Message;

/// What is asked for, and what was answered.
pub(super) mod kind {
    pub(in crate::runtime::containerd::checkpoint::restore) const RESTORE: i32 = 2;
    pub(in crate::runtime::containerd::checkpoint::restore) const NOTIFY: i32 = 6;
}

/// Control groups are left alone: processes stay where CRIU is.
pub(super) const IGNORE_GROUPS: i32 = 0;

#[derive(Clone, PartialEq, Message)]
pub(super) struct Request {
    #[prost(int32, tag = "1")]
    pub(super) kind: i32,
    #[prost(message, optional, tag = "2")]
    pub(super) options: Option<Options>,
    #[prost(bool, optional, tag = "3")]
    pub(super) notify_success: Option<bool>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Options {
    /// A descriptor of whoever asks, as are the others.
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
    /// Its first process is to be a child of whoever started CRIU.
    #[prost(bool, optional, tag = "26")]
    pub(super) sibling: Option<bool>,
    #[prost(message, repeated, tag = "27")]
    pub(super) inherited: Vec<Inherited>,
    #[prost(int32, optional, tag = "34")]
    pub(super) groups: Option<i32>,
    /// Namespaces that are not restored.
    #[prost(uint32, optional, tag = "38")]
    pub(super) empty_namespaces: Option<u32>,
    #[prost(bool, optional, tag = "50")]
    pub(super) orphan_terminals: Option<bool>,
    #[prost(string, optional, tag = "51")]
    pub(super) config: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ExternalMount {
    #[prost(string, required, tag = "1")]
    pub(super) inside: String,
    #[prost(string, required, tag = "2")]
    pub(super) outside: String,
}

/// A descriptor of CRIU's that stands for what an image calls so.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Inherited {
    #[prost(string, required, tag = "1")]
    pub(super) name: String,
    #[prost(int32, required, tag = "2")]
    pub(super) descriptor: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Response {
    #[prost(int32, tag = "1")]
    pub(super) kind: i32,
    #[prost(bool, tag = "2")]
    pub(super) success: bool,
    #[prost(message, optional, tag = "5")]
    pub(super) notify: Option<Notify>,
    #[prost(int32, optional, tag = "7")]
    pub(super) errno: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Notify {
    #[prost(string, optional, tag = "1")]
    pub(super) script: Option<String>,
    /// The first process, from outside.
    #[prost(int32, optional, tag = "2")]
    pub(super) pid: Option<i32>,
}
