//! The state that the operations of this runtime share.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bollard::Docker;
use bollard::models::NetworkCreateRequest;
use bollard::query_parameters::InspectNetworkOptions;

use tokio::sync::Semaphore;

use super::connection::Connection;
use super::failure::{EngineContext, NOT_FOUND, status};
use super::identity_folder::IdentityFolder;
use super::images::{EngineImage, Images};
use super::inspect::{Container, ContainerSummary};
use super::instances::Instances;
use super::labels::{self, NODE_LABEL};
use super::request_body::{ContainerNetwork, EngineLimits};
use super::settings::{EngineKind, EngineSettings, Reach};
use crate::instance::{InstanceId, NodeId};
use crate::runtime::RuntimeError;
use crate::runtime::blocking::IoContext;
use crate::runtime::namespaces::Namespaces;
use crate::template::{App, Egress};

/// The option by which Docker keeps the containers of a network apart.
const DOCKER_ISOLATION: (&str, &str) = ("com.docker.network.bridge.enable_icc", "false");

/// Most containers that are made at a time.
const STARTS_AT_ONCE: usize = 8;

/// The state of an engine runtime.
#[derive(Debug)]
pub(super) struct Inner {
    pub(super) kind: EngineKind,
    pub(super) docker: Docker,
    pub(super) socket: PathBuf,
    pub(super) node: NodeId,
    pub(super) reach: Reach,
    pub(super) limits: EngineLimits,
    /// Whether the engine may keep limits of disks: until it has refused one.
    pub(super) has_disk_limits: AtomicBool,
    pub(super) images: Images,
    pub(super) instances: Instances,
    pub(super) identity: IdentityFolder,
    /// Whether containers may mount files of that folder: until the engine has refused one.
    pub(super) has_mounts: AtomicBool,
    pub(super) namespaces: Arc<Namespaces>,
    /// Held by each start in progress: an engine makes many containers at once no quicker than a few.
    pub(super) starts: Semaphore,
    /// Held while the network of open templates is looked up or made.
    network_lock: tokio::sync::Mutex<()>,
}

/// A container as the engine lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ListedContainer {
    /// The engine's id.
    pub(super) container: String,
    /// The instance, if the label has an id.
    pub(super) id: Option<InstanceId>,
    /// Number of its network namespace.
    pub(super) namespace: Option<u32>,
    /// Whether it runs.
    pub(super) is_running: bool,
}

impl Inner {
    pub(super) fn new(connection: Connection, settings: EngineSettings) -> Result<Self, RuntimeError> {
        let limits =
            connection.process.and_then(|pid| fs::read_to_string(format!("/proc/{pid}/limits")).ok());
        let limits = EngineLimits::parse(&limits.unwrap_or_default());
        let folder = settings.files_dir.display().to_string();
        let identity =
            IdentityFolder::open(settings.files_dir).context(|| format!("make the folder {folder}"))?;
        let namespaces = Namespaces::new().context(|| "find this server's network namespace".to_owned())?;
        Ok(Self {
            kind: settings.kind,
            has_mounts: AtomicBool::new(identity.is_mountable(&connection)),
            identity,
            reach: settings.reach.unwrap_or_else(|| connection.reach()),
            docker: connection.docker,
            socket: connection.socket,
            node: settings.node,
            limits,
            has_disk_limits: AtomicBool::new(true),
            images: Images::new(settings.logins),
            instances: Instances::default(),
            namespaces: Arc::new(namespaces),
            starts: Semaphore::new(STARTS_AT_ONCE),
            network_lock: tokio::sync::Mutex::default(),
        })
    }

    /// Returns an app's image, which is fetched if it was not before.
    pub(super) async fn fetch_image(&self, app: &App) -> Result<Arc<EngineImage>, RuntimeError> {
        let image = app.image.as_ref();
        let image = image.ok_or_else(|| RuntimeError::Start("the template names no image".to_owned()))?;
        self.images.get(&self.docker, image).await
    }

    /// Lists the containers of this node, or only that of an instance.
    pub(super) async fn list_containers(
        &self,
        of: Option<&InstanceId>,
    ) -> Result<Vec<ListedContainer>, RuntimeError> {
        let filters = match of {
            Some(id) => labels::instance_filter(&self.node, id),
            None => labels::node_filter(Some(&self.node)),
        };
        list_containers(&self.socket, filters).await
    }

    /// Returns what the engine says about an instance's container; `None` if it is gone.
    pub(super) async fn inspect(
        &self,
        id: &InstanceId,
        container: &str,
    ) -> Result<Option<Container>, RuntimeError> {
        Container::inspect(&self.socket, container).await.context(|| format!("look up {id}"))
    }

    /// Returns the network for the containers of an app. That of open templates is made if it is missing.
    ///
    /// # Errors
    /// The engine cannot give an app the egress of its template.
    pub(super) async fn network(&self, app: &App) -> Result<ContainerNetwork, RuntimeError> {
        let title = self.kind.title();
        match (&app.egress, self.reach) {
            (Egress::Only(_), _) => Err(RuntimeError::Start(format!(
                "{title} cannot limit where an instance connects to: write egress = \"internet\" or leave it out, or \
                 set CONTAINER_MODE=containerd"
            ))),
            (Egress::Sealed, Reach::Namespace) => Ok(ContainerNetwork::Sealed),
            (Egress::Sealed, Reach::Published) => Err(RuntimeError::Start(format!(
                "this server may not enter the network namespaces of {title}'s containers, and {title} publishes no \
                 port of a container without a way out: run the server as root beside {title}, or write egress = \
                 \"internet\" into the template"
            ))),
            (Egress::Internet, Reach::Namespace) => Ok(ContainerNetwork::Open(self.open_network().await?)),
            (Egress::Internet, Reach::Published) => {
                Ok(ContainerNetwork::Published(self.open_network().await?))
            }
        }
    }

    /// Returns the name of this node's network with a way out, which is made if it is missing.
    async fn open_network(&self) -> Result<String, RuntimeError> {
        let name = format!("try-it-now-{}", self.node);
        let operation = || format!("make the network {name}");
        let _lock = self.network_lock.lock().await;
        match self.docker.inspect_network(&name, None::<InspectNetworkOptions>).await {
            Err(error) if status(&error) == Some(NOT_FOUND) => {}
            answer => return answer.map(|_| name.clone()).engine_context(operation),
        }
        let options = (self.kind == EngineKind::Docker).then_some(DOCKER_ISOLATION);
        let made = self.docker.create_network(NetworkCreateRequest {
            name: name.clone(),
            driver: Some("bridge".to_owned()),
            options: options.map(|(option, value)| HashMap::from([(option.to_owned(), value.to_owned())])),
            labels: Some(HashMap::from([(NODE_LABEL.to_owned(), self.node.as_str().to_owned())])),
            ..Default::default()
        });
        made.await.start_context(operation)?;
        Ok(name)
    }
}

/// Lists containers, running or not.
///
/// # Errors
/// The engine does not answer.
pub(super) async fn list_containers(
    socket: &Path,
    filters: HashMap<String, Vec<String>>,
) -> Result<Vec<ListedContainer>, RuntimeError> {
    let found = ContainerSummary::list(socket, &filters).await;
    let found = found.context(|| "list the engine's containers".to_owned())?;
    let listed = found.into_iter().map(|summary| {
        let labels = summary.labels.clone().unwrap_or_default();
        ListedContainer {
            is_running: summary.is_running(),
            container: summary.id,
            id: labels.get(labels::INSTANCE_LABEL).and_then(|id| InstanceId::parse(id).ok()),
            namespace: labels.get(labels::NAMESPACE_LABEL).and_then(|number| number.parse().ok()),
        }
    });
    Ok(listed.collect())
}
