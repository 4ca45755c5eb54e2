//! The containerd runtime: an instance is a container in a network namespace of its own, started from an image or, once
//! its template is baked, restored from a checkpoint.
//!
//! | a file | what it knows |
//! |---|---|
//! | `client`, `options` | how to speak with containerd |
//! | `images`, `transfer`, `registry` | from an image's name to an unpacked snapshot |
//! | `spec`, `seccomp` | what a container may do |
//! | `namespaces` | networks that lead nowhere, and the way in |
//! | `egress` | links and a firewall for those that may reach the internet |
//! | `snapshots`, `layer`, `container` | making, freezing and removing one |
//! | `disk`, `tmpfs` | where one writes, and how much |
//! | `memory` | what clones have in common |
//! | `exec` | a command beside the app |
//! | `golden` | checkpoints on disk |
//! | `folder` | this node's files |
//! | `accounts` | what instances take of the host's memory |
//! | `cgroups` | control groups, where runc does not see to them |
//! | `shim` | the process of containerd's that all instances share |
//! | `instances` | what runs |
//! | `start`, `bake`, `end` | what happens to one |
//! | `leftovers` | what a crashed server left |
//! | `orphans` | what runs although containerd does not know it |
//! | `oci` | this program in place of runc, where it restores |
//! | `settings` | what it is told at its start |
//! | `steps` | where tests may break in |
//!
//! Whatever is ours in containerd carries the node's name as a label, and lies in a namespace of our own.

mod checkpoint;
mod client;
mod container;
mod fault_points;
mod host;
mod image;
mod network;
mod settings;
mod takeover;

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};

use self::client::Client;
use super::blocking::{IoContext, blocking};
use super::{
    CheckpointStatus, Command, ExecOutput, Exit, MemoryReport, Runtime, RuntimeError, StartRequest, Started,
};
use crate::instance::{Endpoint, InstanceId, NodeId};
use crate::telemetry::task;
use crate::template::App;
use checkpoint::catalog::{Catalog, Ingredients};
use checkpoint::sharing::{PrefaultList, SharedMemory};
use container::instances::Instances;
use host::node_dir::NodeDir;
use host::shared_shim::SharedShim;
use image::{Images, Unpacked};
use network::egress::EgressLinks;
use network::namespaces::Namespaces;

pub use self::settings::{Settings, a_quarter_of_the_memory};
pub use checkpoint::catalog::baked;
pub use fault_points::{FaultPoint, Watcher};
pub use network::egress::clean as clean_network;
pub use takeover::clean;

/// Runs the role of this program that the shim calls, if these arguments, the program's own name first, ask for it. The
/// program must ask this before it does anything else.
pub fn internal_command(arguments: impl IntoIterator<Item = OsString>) -> Option<ExitCode> {
    checkpoint::restore::command(arguments.into_iter())
}

/// The label of all that is ours in containerd; its value is the node's name.
const NODE_LABEL: &str = "try-it-now/node";

/// Output that is kept of each instance, in bytes.
const LOG_LIMIT: usize = 256 * 1024;

/// Runs instances as containers. See the module.
pub struct ContainerdRuntime {
    parts: Arc<Inner>,
}

/// What everything that is done to an instance needs.
struct Inner {
    client: Client,
    /// Where containerd listens.
    address: PathBuf,
    node: NodeId,
    folder: NodeDir,
    images: Images,
    namespaces: Arc<Namespaces>,
    outlets: Arc<EgressLinks>,
    checkpoints: Catalog,
    /// What instances stand on.
    layers: image::snapshots::KnownLayers,
    /// What restores in place of runc.
    restorer: Option<PathBuf>,
    /// CRIU's version; `None` when nothing is to be restored.
    criu: Option<String>,
    kernel: String,
    instances: Instances,
    watcher: Watcher,
    shim: SharedShim,
}

impl ContainerdRuntime {
    /// Connects, takes the folder over, picks up the containers of this node that still run, and removes whatever
    /// else a crashed server of this node left.
    ///
    /// # Errors
    /// containerd does not answer; the folder cannot be used; leftovers that resist.
    pub async fn open(settings: Settings) -> Result<Self, RuntimeError> {
        let client = Client::connect(&settings.address).await?;
        let doing = |what: &'static str| move || what.to_owned();
        let folder = NodeDir::open(settings.folder).doing(doing("use the folder for containers"))?;
        let memory = SharedMemory::new(folder.memory(), settings.address.clone(), settings.shared_memory);
        let checkpoints = Catalog::open(folder.checkpoints(), memory).await;
        let checkpoints = checkpoints.doing(doing("use the folder for checkpoints"))?;
        let criu = if settings.criu { checkpoint::criu::version(&settings.address).await } else { None };
        if settings.criu && criu.is_none() {
            tracing::error!(
                "CRIU is missing or does not work: every instance starts cold (see: try-it-now doctor)"
            );
        }
        let outlets = EgressLinks::new(settings.node.as_str(), settings.outside, settings.path)
            .doing(doing("find this server's network namespace"))?;
        let shim = SharedShim::new(&settings.node, settings.address.clone(), folder.shim(), folder.devices());
        let restorer =
            settings.program.map(|program| folder.link(checkpoint::restore::NAME, &program)).transpose();
        let restorer = restorer.doing(doing("link this program"))?;
        let parts = Arc::new(Inner {
            client,
            address: settings.address,
            outlets,
            node: settings.node,
            folder,
            images: Images::new(settings.logins),
            namespaces: Namespaces::new()
                .map(Arc::new)
                .doing(doing("find this server's network namespace"))?,
            checkpoints,
            layers: image::snapshots::KnownLayers::default(),
            restorer,
            criu,
            kernel: kernel(),
            instances: Instances::default(),
            watcher: settings.watcher,
            shim,
        });
        checkpoint::sharing::end_watches(parts.node.as_str()).await.doing(doing("end what was watched"))?;
        takeover::take_over(&parts).await?;
        task::spawn("containerd exits", client::exit_events::follow(Arc::downgrade(&parts)));
        Ok(Self { parts })
    }
}

/// The running kernel's release.
fn kernel() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

impl Inner {
    /// The app's image, brought here if it is not.
    async fn image(&self, app: &App) -> Result<Arc<Unpacked>, RuntimeError> {
        let image = app.image.as_ref();
        let image = image.ok_or_else(|| RuntimeError::Start("its template names no image".to_owned()))?;
        self.images.get(&self.client, image).await
    }

    /// What a checkpoint of this would be made of; `None` where nothing is restored.
    fn ingredients(&self, revision: u64, image: &Unpacked) -> Option<Ingredients> {
        Some(Ingredients {
            revision,
            image: image.digest.clone(),
            kernel: self.kernel.clone(),
            criu: self.criu.clone()?,
        })
    }
}

fn observe(mut pids: Vec<i32>, checkpoint: &Path) -> io::Result<()> {
    pids.sort_unstable();
    pids.dedup();
    // Nothing is known then, and nobody tries again.
    PrefaultList::observe(&pids).unwrap_or_default().keep(checkpoint)
}

/// Does it in a task, so that a caller who loses patience leaves nothing half done.
async fn to_the_end<T: Send + 'static>(
    name: &'static str,
    work: impl Future<Output = Result<T, RuntimeError>> + Send + 'static,
) -> Result<T, RuntimeError> {
    let (reply, outcome) = oneshot::channel();
    task::spawn(name, async move {
        let _ = reply.send(work.await);
    });
    outcome.await.unwrap_or_else(|_| Err(RuntimeError::Start(format!("{name} ended without a result"))))
}

#[async_trait]
impl Runtime for ContainerdRuntime {
    fn name(&self) -> &'static str {
        "containerd"
    }

    fn outlives_the_server(&self) -> bool {
        true
    }

    fn restores(&self) -> bool {
        self.parts.criu.is_some()
    }

    async fn start(&self, order: &StartRequest) -> Result<Started, RuntimeError> {
        let instance = self
            .parts
            .instances
            .enter(&order.id, LOG_LIMIT)
            .ok_or_else(|| RuntimeError::Start(format!("{} runs already", order.id)))?;
        let (parts, order) = (self.parts.clone(), order.clone());
        to_the_end("start a container", async move {
            let turn = instance.turn.lock().await;
            // A stop that had its turn first has removed all there was to remove.
            if instance.leaves() {
                return Err(RuntimeError::Start(format!("{} was stopped before it started", order.id)));
            }
            let outcome = parts.start(&order, &instance).await;
            if outcome.is_err() {
                parts.take_away(&order.id, &instance).await?;
                takeover::orphans::end(&parts.address, order.id.as_str()).await?;
            }
            drop(turn);
            outcome
        })
        .await
    }

    async fn stop(&self, id: &InstanceId) -> Result<(), RuntimeError> {
        let Some(instance) = self.parts.instances.get(id) else { return Ok(()) };
        let (parts, id) = (self.parts.clone(), id.clone());
        to_the_end("stop a container", async move {
            instance.leave();
            let _turn = instance.turn.lock().await;
            parts.take_away(&id, &instance).await
        })
        .await
    }

    async fn connect(&self, endpoint: Endpoint) -> io::Result<TcpStream> {
        match endpoint {
            Endpoint::Sealed { namespace, port } => self.parts.namespaces.connect(namespace, port).await,
            Endpoint::Direct(address) => TcpStream::connect(address).await,
        }
    }

    async fn fetch(&self, app: &App) -> Result<(), RuntimeError> {
        let (parts, app) = (self.parts.clone(), app.clone());
        to_the_end("fetch an image", async move { parts.image(&app).await.map(drop) }).await
    }

    async fn checkpoint_status(&self, revision: u64, app: &App) -> CheckpointStatus {
        let image = app.image.as_ref();
        if self.parts.criu.is_none() || image.is_none() {
            return CheckpointStatus::Never;
        }
        let key = image
            .and_then(|image| self.parts.images.at_hand(image))
            .and_then(|image| self.parts.ingredients(revision, &image))
            .map(|ingredients| ingredients.key());
        if key.is_some_and(|key| self.parts.checkpoints.has(&key)) {
            CheckpointStatus::Present
        } else {
            CheckpointStatus::Missing
        }
    }

    async fn describe_checkpoint(&self, revision: u64, app: &App) -> Option<String> {
        let image = self.parts.images.at_hand(app.image.as_ref()?)?;
        self.parts.checkpoints.sharing(&self.parts.ingredients(revision, &image)?.key())
    }

    async fn bake(&self, id: &InstanceId, revision: u64, app: &App) -> Result<(), RuntimeError> {
        let instance = self.parts.instances.get(id);
        let instance = instance.ok_or_else(|| RuntimeError::Start(format!("{id} does not run")))?;
        let (parts, id, app) = (self.parts.clone(), id.clone(), app.clone());
        to_the_end("bake a checkpoint", async move {
            let _turn = instance.turn.lock().await;
            parts.bake(&id, &instance, revision, &app).await
        })
        .await
    }

    async fn wants_observation(&self, id: &InstanceId) -> bool {
        let of = self.parts.instances.origin(id);
        of.is_some_and(|key| self.parts.restorer.is_some() && self.parts.checkpoints.is_to_be_observed(&key))
    }

    async fn observe(&self, id: &InstanceId) -> Result<(), RuntimeError> {
        let of = self.parts.instances.origin(id);
        let Some(key) = of else { return Ok(()) };
        let (folder, pids) = (self.parts.checkpoints.folder_of(&key), host::cgroups::processes(id.as_str()));
        let observed = blocking(move || observe(pids, &folder)).await;
        observed.doing(|| format!("look at what {id} has changed"))
    }

    async fn exec(&self, order: &StartRequest, command: Command) -> Result<ExecOutput, RuntimeError> {
        let instance = self.parts.instances.get(&order.id).filter(|instance| !instance.leaves());
        // It is not its turn that a command takes: a stop need not wait for it, and ends it.
        instance.ok_or_else(|| RuntimeError::Start(format!("{} does not run", order.id)))?;
        let (parts, order) = (self.parts.clone(), order.clone());
        to_the_end("run a command", async move { parts.exec(&order, command).await }).await
    }

    async fn list(&self) -> Result<Vec<InstanceId>, RuntimeError> {
        Ok(self.parts.instances.ids())
    }

    async fn memory(&self) -> Option<MemoryReport> {
        self.parts.memory().await
    }

    async fn logs(&self, id: &InstanceId) -> Option<Bytes> {
        Some(self.parts.instances.get(id)?.log.bytes())
    }

    fn exits(&self) -> mpsc::UnboundedReceiver<Exit> {
        self.parts.instances.listen()
    }
}
