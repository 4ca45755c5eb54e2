//! One shim for all instances of this host. The shim is the process between containerd and runc. A shim for each
//! container would take two programs to start, which is a fifth of a restore, and three more to end.
//!
//! A shim lives as long as it has a container. So there is one container that never starts: runc made its first
//! process, which waits for ever to be started. This *shim container* (`shared-shim-…`) belongs to no node, outlives
//! servers, is shown as CREATED by `ctr`, and is removed by [`clean`](crate::runtime::containerd::clean) once no node has
//! anything in this containerd. Instances
//! name it as their sandbox, and so their containers are made by its shim.
//!
//! containerd gives a container whose sandbox is not on record a shim of its own that no program ends. So the sandbox
//! record (`ctr sandboxes ls`) is made before the container and removed after it.
//!
//! The price: if the shim dies, containerd can no longer control any of its containers. It then reports the exit of the
//! shim container, and this server kills the instances from outside (`container/exit_events.rs`).

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use containerd_client::services::v1::container::Runtime as Shim;
use containerd_client::services::v1::sandbox::{StoreCreateRequest, StoreDeleteRequest};
use containerd_client::services::v1::{Container, CreateContainerRequest, CreateTaskRequest};
use containerd_client::types::v1::Status;
use containerd_client::types::{Sandbox, sandbox};
use parking_lot::Mutex;
use prost_types::Any;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{cgroups, orphans};
use crate::instance::NodeId;
use crate::runtime::RuntimeError;
use crate::runtime::blocking::IoContext;
use crate::runtime::containerd::client::labels::{ALL_NODES, MAKER_LABEL, NODE_LABEL};
use crate::runtime::containerd::client::{Client, ResponseExt, request};
use crate::runtime::containerd::container::record::{RUNTIME_NAME, SPEC_TYPE_URL, list_containers};
use crate::runtime::containerd::container::task;
use crate::runtime::containerd::fault_points::FaultInjector;
use crate::template::random_hex;

/// Prefix of the names of shim containers. No instance's id has that form. Each one has a new name, because containerd
/// and runc keep remains under the name of a container whose server was killed while it made it.
const NAME_PREFIX: &str = "shared-shim-";

/// Random bytes in the name.
const RANDOM_BYTES: usize = 6;

/// Returns whether a container of that name keeps a shared shim alive.
pub(crate) fn is_shim_container(id: &str) -> bool {
    id.strip_prefix(NAME_PREFIX).is_some_and(|random| random.len() == 2 * RANDOM_BYTES)
}

/// Program of the shim container, which would run if the container were started.
const PROGRAM: &str = "never-run";

/// Pause after a failed attempt to make the shim.
const RETRY_INTERVAL: Duration = Duration::from_secs(10);

/// The shim that the instances of this host share.
#[derive(Debug)]
pub(crate) struct SharedShim {
    /// Id of the node that makes the shim here.
    node: NodeId,
    /// containerd's socket.
    socket: PathBuf,
    /// Root file system of the shim container.
    root: PathBuf,
    /// The folder that becomes `/dev` in all containers. Without it runc would make one in the root.
    devices: PathBuf,
    /// Name of the shim container, as long as nothing suggests that it is gone.
    container_id: Mutex<Option<Arc<str>>>,
    /// Held while the shim is looked for or made, with the time of the last failure.
    creation_lock: tokio::sync::Mutex<Option<Instant>>,
}

impl SharedShim {
    /// Returns a shared shim that is looked for or made when it is first needed.
    pub(crate) fn new(node: &NodeId, socket: PathBuf, root: PathBuf, devices: PathBuf) -> Self {
        let (container_id, creation_lock) = (Mutex::default(), tokio::sync::Mutex::default());
        Self { node: node.clone(), socket, root, devices, container_id, creation_lock }
    }

    /// Returns the name of the sandbox in which a container is made; `None` if there is no shared shim, and the
    /// container gets a shim of its own.
    pub(crate) async fn get(&self, client: &Client) -> Option<Arc<str>> {
        if let Some(container_id) = self.known() {
            return Some(container_id);
        }
        let mut failed = self.creation_lock.lock().await;
        if let Some(container_id) = self.known() {
            return Some(container_id);
        }
        // An attempt takes longer than a shared shim saves.
        if failed.is_some_and(|at| at.elapsed() < RETRY_INTERVAL) {
            return None;
        }
        match self.find_or_create(client).await {
            Ok(container_id) => {
                *self.container_id.lock() = Some(container_id.clone());
                Some(container_id)
            }
            Err(error) => {
                tracing::warn!(%error, "failed to make shared shim; each instance starts slower, with its own shim");
                *failed = Some(Instant::now());
                None
            }
        }
    }

    fn known(&self) -> Option<Arc<str>> {
        self.container_id.lock().clone()
    }

    /// Discards what is known of the shim, because it may be gone.
    pub(crate) fn invalidate(&self) {
        *self.container_id.lock() = None;
    }

    /// Returns the shim container of another server of this host, or makes one. If two servers look at the same time,
    /// each makes one, which does no harm.
    async fn find_or_create(&self, client: &Client) -> Result<Arc<str>, RuntimeError> {
        for container in list_containers(client, Some(ALL_NODES)).await? {
            match task::first_process(client, &container.id).await {
                Ok(Some(process)) if process.status() == Status::Created => return Ok(container.id.into()),
                // The waiting process was killed, and the shim may end at any moment.
                Ok(Some(process)) if process.status() == Status::Stopped => {
                    remove(client, &container.id).await?;
                }
                // This server crashed while it made the container.
                _ if container.labels.get(MAKER_LABEL).is_some_and(|maker| maker == self.node.as_str()) => {
                    remove(client, &container.id).await?;
                    orphans::remove(&self.socket, &container.id).await?;
                }
                // Another server is making it, or will find that it crashed.
                _ => {}
            }
        }
        let random = random_hex::<RANDOM_BYTES>().context(|| "name the shared shim".to_owned())?;
        let container_id = format!("{NAME_PREFIX}{random}");
        let created = self.create(client, &container_id).await;
        if created.is_err() {
            remove(client, &container_id).await?;
        }
        created.map(|()| container_id.into())
    }

    async fn create(&self, client: &Client, container_id: &str) -> Result<(), RuntimeError> {
        self.create_root().context(|| "create the shim's root".to_owned())?;
        let sandbox = Sandbox {
            sandbox_id: container_id.to_owned(),
            runtime: Some(sandbox::Runtime { name: RUNTIME_NAME.to_owned(), options: None }),
            ..Default::default()
        };
        // First, because containers of a sandbox that is not on record get shims that no program ends.
        let message = StoreCreateRequest { sandbox: Some(sandbox) };
        client.sandboxes().create(request(message)).await.context(|| "record the shared shim".to_owned())?;
        let record = Container {
            id: container_id.to_owned(),
            labels: HashMap::from([
                (NODE_LABEL.to_owned(), ALL_NODES.to_owned()),
                (MAKER_LABEL.to_owned(), self.node.as_str().to_owned()),
            ]),
            runtime: Some(Shim { name: RUNTIME_NAME.to_owned(), options: None }),
            spec: Some(Any {
                type_url: SPEC_TYPE_URL.to_owned(),
                value: serde_json::to_vec(&self.specification(container_id)).expect("a value is JSON"),
            }),
            ..Default::default()
        };
        let message = CreateContainerRequest { container: Some(record) };
        client.containers().create(request(message)).await.context(|| "create the shared shim".to_owned())?;
        let message = CreateTaskRequest { container_id: container_id.to_owned(), ..Default::default() };
        let started = client.tasks().create(request(message)).await;
        started.context(|| "start the shared shim".to_owned()).map(drop)
    }

    fn specification(&self, container_id: &str) -> Value {
        let namespaces = ["pid", "ipc", "uts", "mount", "network"].map(|kind| json!({ "type": kind }));
        json!({
            "ociVersion": "1.1.0",
            "process": {
                "user": { "uid": 0, "gid": 0 },
                "args": [format!("/{PROGRAM}")],
                "cwd": "/",
                "noNewPrivileges": true,
            },
            "root": { "path": self.root, "readonly": true },
            "mounts": [
                { "destination": "/proc", "type": "proc", "source": "proc" },
                { "destination": "/dev", "type": "bind", "source": self.devices, "options": ["bind", "ro"] },
            ],
            "linux": { "namespaces": namespaces, "cgroupsPath": cgroups::path(container_id) },
        })
    }

    /// Makes the root file system. runc insists on a program, though it never runs.
    fn create_root(&self) -> io::Result<()> {
        fs::create_dir_all(&self.root)?;
        let program = self.root.join(PROGRAM);
        fs::write(&program, "")?;
        fs::set_permissions(program, std::os::unix::fs::PermissionsExt::from_mode(0o755))
    }
}

/// Removes a shim container. The containers of all instances in its shim must be gone; otherwise these instances can no
/// longer be controlled.
///
/// # Errors
/// containerd refuses or does not answer.
pub(crate) async fn remove(client: &Client, container_id: &str) -> Result<(), RuntimeError> {
    task::remove_container(client, container_id, &FaultInjector::default()).await?;
    let message = StoreDeleteRequest { sandbox_id: container_id.to_owned() };
    let deleted = client.sandboxes().delete(request(message)).await;
    deleted.if_found(|| "remove the record of the shared shim".to_owned()).map(drop)
}
