//! The request by which a caller starts an instance.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::instance::InstanceId;
use crate::template::App;

/// A request to start one instance.
#[derive(Debug, Clone)]
pub struct StartRequest {
    /// The instance's id, `INSTANCE_ID` to the app.
    pub id: InstanceId,
    /// The instance's public address, `INSTANCE_URL` to the app.
    pub url: String,
    /// The host in that address without a port, `INSTANCE_HOST` to the app.
    pub host: String,
    /// The app to run.
    pub app: Arc<App>,
    /// The revision of the template that `app` belongs to. An instance is restored only from a checkpoint of this
    /// revision.
    pub revision: u64,
    /// Files that only this instance has. They are present from its first moment on, restored or not. A runtime without
    /// containers refuses them.
    pub files: Vec<InstanceFile>,
    /// The most connections that the app has to its database at a time; `None` for an app without one.
    pub database_connections: Option<u32>,
    /// Whether the caller means to call [`Runtime::bake`](super::Runtime::bake). The runtime then traces how the app
    /// uses its memory until that call.
    pub will_be_baked: bool,
    /// Whether the instance gets only the processor time that the other instances of the node leave, until
    /// [`Runtime::end_yielding`](super::Runtime::end_yielding) is called. A runtime that cannot do that ignores it.
    pub yields: bool,
}

impl StartRequest {
    /// Returns the request for an instance without files or a database, which will not be baked and does not yield.
    pub fn new(id: InstanceId, url: String, host: String, app: Arc<App>, revision: u64) -> Self {
        Self {
            id,
            url,
            host,
            app,
            revision,
            files: Vec::new(),
            database_connections: None,
            will_be_baked: false,
            yields: false,
        }
    }
}

/// A file of one instance, which replaces the file at the same path of its image. `Debug` does not show the content.
#[derive(Clone, PartialEq, Eq)]
pub struct InstanceFile {
    /// Absolute path without `.` and `..`.
    pub path: String,
    /// The whole content.
    pub content: Bytes,
    /// Permission bits.
    pub mode: u32,
    /// Numbers of the user and the group that own the file.
    pub owner: (u32, u32),
}

impl InstanceFile {
    /// Returns a file of root's that every user may read.
    pub fn new(path: impl Into<String>, content: impl Into<String>) -> Self {
        Self { path: path.into(), content: content.into().into(), mode: 0o644, owner: (0, 0) }
    }
}

impl fmt::Debug for InstanceFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InstanceFile({})", self.path)
    }
}
