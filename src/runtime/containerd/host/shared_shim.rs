//! One shim for all instances of this host. The shim is the process between containerd and runc; one for each container
//! takes two programs to start, which is a fifth of a restore, and three more to end.
//!
//! A shim lives as long as it has a container, so ours has one that never starts: runc made its first process, which
//! waits for ever to be told to. That container belongs to no node, outlives servers, and goes with
//! [`clean`](crate::runtime::containerd::clean). Instances name it as their sandbox, and so are made by its shim.
//!
//! The price is that a shim that dies takes the ways to all its containers with it. Then containerd tells that this one
//! ended, and its instances are ended from outside.

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

use super::cgroups;
use crate::instance::NodeId;
use crate::runtime::RuntimeError;
use crate::runtime::blocking::IoContext;
use crate::runtime::containerd::Watcher;
use crate::runtime::containerd::client::{Answer, Client, request};
use crate::runtime::containerd::container;
use crate::runtime::containerd::container::{RUNC, SPEC};
use crate::runtime::containerd::takeover::containers;
use crate::runtime::containerd::takeover::orphans;
use crate::template::random_hex;

/// What the name begins with of a container that keeps the shim alive; no instance's has that form. Each has another name:
/// of one whose maker was killed, containerd and runc keep remains under its own.
const KEEPER: &str = "shared-shim-";

/// Random bytes in its name.
const RANDOM: usize = 6;

/// Whether a container of that name keeps a shim alive.
pub(crate) fn is_keeper(id: &str) -> bool {
    id.strip_prefix(KEEPER).is_some_and(|random| random.len() == 2 * RANDOM)
}

/// What its label says where those of instances name their node.
const NOBODY: &str = "all";

/// The label that says which node made it.
const MAKER_LABEL: &str = "try-it-now/maker";

/// What it would run if it were started.
const PROGRAM: &str = "never-run";

/// Pause after it could not be made.
const PAUSE: Duration = Duration::from_secs(10);

/// The shim that instances share.
#[derive(Debug)]
pub(crate) struct SharedShim {
    /// Who makes it here.
    node: NodeId,
    /// containerd's socket.
    socket: PathBuf,
    /// The keeper's root.
    root: PathBuf,
    /// What all containers have as their `/dev`: without it runc would make one in the root.
    devices: PathBuf,
    /// The name of the container that kept it alive when somebody looked, if nothing told otherwise since.
    keeper: Mutex<Option<Arc<str>>>,
    /// Whose turn it is to make it, and when that failed the last time.
    turn: tokio::sync::Mutex<Option<Instant>>,
}

impl SharedShim {
    /// One whose keeper has these as its root and its `/dev`.
    pub(crate) fn new(node: &NodeId, socket: PathBuf, root: PathBuf, devices: PathBuf) -> Self {
        let (keeper, turn) = (Mutex::default(), tokio::sync::Mutex::default());
        Self { node: node.clone(), socket, root, devices, keeper, turn }
    }

    /// The name under which a container is made in it; `None` where it cannot be had, and the container gets a shim of
    /// its own.
    pub(crate) async fn get(&self, client: &Client) -> Option<Arc<str>> {
        if let Some(keeper) = self.known() {
            return Some(keeper);
        }
        let mut failed = self.turn.lock().await;
        if let Some(keeper) = self.known() {
            return Some(keeper);
        }
        // To try takes longer than what is to be saved.
        if failed.is_some_and(|at| at.elapsed() < PAUSE) {
            return None;
        }
        match self.find_or_make(client).await {
            Ok(keeper) => {
                *self.keeper.lock() = Some(keeper.clone());
                Some(keeper)
            }
            Err(error) => {
                tracing::warn!(%error, "instances get a shim each, which makes them slower to start");
                *failed = Some(Instant::now());
                None
            }
        }
    }

    fn known(&self) -> Option<Arc<str>> {
        self.keeper.lock().clone()
    }

    /// It may be gone.
    pub(crate) fn doubt(&self) {
        *self.keeper.lock() = None;
    }

    /// That of another server of this host, or a new one. Of two servers that look at the same time each makes one, which
    /// does no harm.
    async fn find_or_make(&self, client: &Client) -> Result<Arc<str>, RuntimeError> {
        for container in containers(client, Some(NOBODY)).await? {
            match container::process(client, &container.id).await {
                Ok(Some(process)) if process.status() == Status::Created => return Ok(container.id.into()),
                // Somebody killed what only waits: its shim may be gone any moment.
                Ok(Some(process)) if process.status() == Status::Stopped => {
                    remove(client, &container.id).await?;
                }
                // This server crashed while it made it.
                _ if container.labels.get(MAKER_LABEL).is_some_and(|maker| maker == self.node.as_str()) => {
                    remove(client, &container.id).await?;
                    orphans::end(&self.socket, &container.id).await?;
                }
                // Another server makes it, or will find that it crashed.
                _ => {}
            }
        }
        let random = random_hex::<RANDOM>().doing(|| "name the shared shim".to_owned())?;
        let keeper = format!("{KEEPER}{random}");
        let made = self.make(client, &keeper).await;
        if made.is_err() {
            remove(client, &keeper).await?;
        }
        made.map(|()| keeper.into())
    }

    async fn make(&self, client: &Client, keeper: &str) -> Result<(), RuntimeError> {
        self.furnish().doing(|| "make the shim's folder".to_owned())?;
        let sandbox = Sandbox {
            sandbox_id: keeper.to_owned(),
            runtime: Some(sandbox::Runtime { name: RUNC.to_owned(), options: None }),
            ..Default::default()
        };
        // First, since containers of a sandbox that is not on record get shims that nobody ends.
        let message = StoreCreateRequest { sandbox: Some(sandbox) };
        client
            .sandboxes()
            .create(request(message))
            .await
            .doing(|| "put the shared shim on record".to_owned())?;
        let record = Container {
            id: keeper.to_owned(),
            labels: HashMap::from([
                (crate::runtime::containerd::NODE_LABEL.to_owned(), NOBODY.to_owned()),
                (MAKER_LABEL.to_owned(), self.node.as_str().to_owned()),
            ]),
            runtime: Some(Shim { name: RUNC.to_owned(), options: None }),
            spec: Some(Any {
                type_url: SPEC.to_owned(),
                value: serde_json::to_vec(&self.specification(keeper)).expect("a value is JSON"),
            }),
            ..Default::default()
        };
        let message = CreateContainerRequest { container: Some(record) };
        client.containers().create(request(message)).await.doing(|| "make the shared shim".to_owned())?;
        let message = CreateTaskRequest { container_id: keeper.to_owned(), ..Default::default() };
        let started = client.tasks().create(request(message)).await;
        started.doing(|| "start the shared shim".to_owned()).map(drop)
    }

    fn specification(&self, keeper: &str) -> Value {
        let own = ["pid", "ipc", "uts", "mount", "network"].map(|kind| json!({ "type": kind }));
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
            "linux": { "namespaces": own, "cgroupsPath": cgroups::path(keeper) },
        })
    }

    /// runc insists on a program, though it is never run.
    fn furnish(&self) -> io::Result<()> {
        fs::create_dir_all(&self.root)?;
        let program = self.root.join(PROGRAM);
        fs::write(&program, "")?;
        fs::set_permissions(program, std::os::unix::fs::PermissionsExt::from_mode(0o755))
    }
}

/// Removes a keeper. Those of all instances that it was the shim of must be gone, or they are as good as dead.
pub(crate) async fn remove(client: &Client, keeper: &str) -> Result<(), RuntimeError> {
    container::remove(client, keeper, &Watcher::default()).await?;
    let message = StoreDeleteRequest { sandbox_id: keeper.to_owned() };
    let deleted = client.sandboxes().delete(request(message)).await;
    deleted.if_known(|| "forget the shared shim".to_owned()).map(drop)
}
