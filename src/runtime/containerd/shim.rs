//! One shim for all instances of this host. The shim is the process between containerd and runc; one for each container
//! takes two programs to start, which is a fifth of a restore, and three more to end.
//!
//! A shim lives as long as it has a container, so ours has one that never starts: runc made its first process, which
//! waits for ever to be told to. That container belongs to no node, outlives servers, and goes with
//! [`clean`](super::clean). Instances name it as their sandbox, and so are made by its shim.
//!
//! The price is that a shim that dies takes the ways to all its containers with it. Then containerd tells that this one
//! ended, and its instances are ended from outside.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use containerd_client::services::v1::container::Runtime as Shim;
use containerd_client::services::v1::sandbox::{StoreCreateRequest, StoreDeleteRequest};
use containerd_client::services::v1::{Container, CreateContainerRequest, CreateTaskRequest};
use containerd_client::tonic::Code;
use containerd_client::types::v1::Status;
use containerd_client::types::{Sandbox, sandbox};
use prost_types::Any;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::super::RuntimeError;
use super::super::host::Doing;
use super::Watcher;
use super::client::{Answer, Client, request};
use super::container::{self, RUNC, SPEC};
use crate::instance::NodeId;

/// The container that keeps the shim alive. No instance has such a name, since theirs end with random letters.
pub(super) const KEEPER: &str = "shared-shim";

/// What its label says where those of instances name their node.
const NOBODY: &str = "all";

/// What it would run if it were started.
const PROGRAM: &str = "never-run";

/// Longest time that another server may take to make it.
const PATIENCE: Duration = Duration::from_secs(2);

/// Pause after it could not be made.
const PAUSE: Duration = Duration::from_secs(10);

/// The shim that instances share.
#[derive(Debug)]
pub(super) struct SharedShim {
    /// The keeper's root.
    root: PathBuf,
    /// What all containers have as their `/dev`: without it runc would make one in the root.
    devices: PathBuf,
    /// Its cgroup, with the name of the node that may make it: another containerd of this host has one too.
    cgroup: String,
    /// Whether it was there when somebody looked, and nothing told otherwise since.
    there: AtomicBool,
    /// Whose turn it is to make it, and when that failed the last time.
    turn: tokio::sync::Mutex<Option<Instant>>,
}

impl SharedShim {
    /// One whose keeper has these as its root and its `/dev`.
    pub(super) fn new(node: &NodeId, root: PathBuf, devices: PathBuf) -> Self {
        let cgroup = format!("/try-it-now/{KEEPER}-{node}");
        Self { root, devices, cgroup, there: AtomicBool::new(false), turn: tokio::sync::Mutex::default() }
    }

    /// The name under which a container is made in it; `None` where it cannot be had, and the container gets a shim of
    /// its own.
    pub(super) async fn get(&self, client: &Client) -> Option<&'static str> {
        if self.there.load(Ordering::Acquire) {
            return Some(KEEPER);
        }
        let mut failed = self.turn.lock().await;
        if !self.there.load(Ordering::Acquire) {
            // To try takes longer than what is to be saved.
            if failed.is_some_and(|at| at.elapsed() < PAUSE) {
                return None;
            }
            if let Err(error) = self.ensure(client).await {
                tracing::warn!(%error, "instances get a shim each, which makes them slower to start");
                *failed = Some(Instant::now());
                return None;
            }
            self.there.store(true, Ordering::Release);
        }
        Some(KEEPER)
    }

    /// It may be gone.
    pub(super) fn doubt(&self) {
        self.there.store(false, Ordering::Release);
    }

    async fn ensure(&self, client: &Client) -> Result<(), RuntimeError> {
        // First, since containers of a sandbox that is not on record get shims that nobody ends.
        self.record(client).await?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            match container::process(client, KEEPER).await {
                Ok(Some(process)) if process.status() == Status::Created => return Ok(()),
                // Somebody killed what only waits: its shim may be gone any moment.
                Ok(Some(process)) if process.status() == Status::Stopped => {
                    container::remove(client, KEEPER, &Watcher::default()).await?;
                }
                _ => {}
            }
            if self.make(client).await? {
                return Ok(());
            }
            if Instant::now() >= deadline {
                // Whoever began to make it has crashed, or its shim has.
                container::remove(client, KEEPER, &Watcher::default()).await?;
                self.make(client).await?;
                return Ok(());
            }
            // Another server is making it.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn record(&self, client: &Client) -> Result<(), RuntimeError> {
        let sandbox = Sandbox {
            sandbox_id: KEEPER.to_owned(),
            runtime: Some(sandbox::Runtime { name: RUNC.to_owned(), options: None }),
            ..Default::default()
        };
        let message = StoreCreateRequest { sandbox: Some(sandbox) };
        match client.sandboxes().create(request(message)).await {
            Err(status) if status.code() == Code::AlreadyExists => Ok(()),
            made => made.doing(|| "put the shared shim on record".to_owned()).map(drop),
        }
    }

    /// Whether it was made now, and not by another server before.
    async fn make(&self, client: &Client) -> Result<bool, RuntimeError> {
        self.furnish().doing(|| "make the shim's folder".to_owned())?;
        let record = Container {
            id: KEEPER.to_owned(),
            labels: HashMap::from([(super::NODE_LABEL.to_owned(), NOBODY.to_owned())]),
            runtime: Some(Shim { name: RUNC.to_owned(), options: None }),
            spec: Some(Any {
                type_url: SPEC.to_owned(),
                value: serde_json::to_vec(&self.specification()).expect("a value is JSON"),
            }),
            ..Default::default()
        };
        let message = CreateContainerRequest { container: Some(record) };
        match client.containers().create(request(message)).await {
            Err(status) if status.code() == Code::AlreadyExists => return Ok(false),
            made => made.doing(|| "make the shared shim".to_owned())?,
        };
        let message = CreateTaskRequest { container_id: KEEPER.to_owned(), ..Default::default() };
        let started =
            client.tasks().create(request(message)).await.doing(|| "start the shared shim".to_owned());
        if started.is_err() {
            container::remove_record(client, KEEPER).await?;
        }
        started.map(|_| true)
    }

    fn specification(&self) -> Value {
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
            "linux": { "namespaces": own, "cgroupsPath": self.cgroup },
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

/// Forgets it, when its container and those of all instances are gone.
pub(super) async fn forget(client: &Client) -> Result<(), RuntimeError> {
    let message = StoreDeleteRequest { sandbox_id: KEEPER.to_owned() };
    let deleted = client.sandboxes().delete(request(message)).await;
    deleted.if_known(|| "forget the shared shim".to_owned()).map(drop)
}
