//! State that every operation on an instance needs.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::checkpoint::catalog::Catalog;
use super::checkpoint::manifest::Ingredients;
use super::client::Client;
use super::container::instances::Instances;
use super::fault_points::FaultInjector;
use super::host::id_ranges::IdRanges;
use super::host::node_dir::NodeDir;
use super::host::node_group::{NodeGroup, NodeLimitSettings};
use super::host::shared_accounts::AccountLimits;
use super::host::shared_shim::SharedShim;
use super::image::snapshots::KnownLayers;
use super::image::{Images, UnpackedImage};
use super::network::database_port::DatabaseServer;
use super::network::egress::EgressLinks;
use crate::instance::NodeId;
use crate::runtime::RuntimeError;
use crate::runtime::namespaces::Namespaces;
use crate::template::App;

/// State that every operation on an instance needs.
///
/// [`ContainerdRuntime`](super::ContainerdRuntime) holds it. The operations are methods of it in the files that name
/// them: `container/start.rs`, `container/network.rs`, `container/stop.rs`, `container/exec.rs`, `checkpoint/bake.rs`, `takeover/adopt.rs`,
/// `host/memory_usage.rs`.
pub(super) struct Inner {
    pub(super) client: Client,
    /// containerd's socket.
    pub(super) socket: PathBuf,
    pub(super) node: NodeId,
    pub(super) node_dir: NodeDir,
    pub(super) images: Images,
    pub(super) namespaces: Arc<Namespaces>,
    pub(super) egress_links: Arc<EgressLinks>,
    /// The database server of instances, if one is configured.
    pub(super) database_server: Option<DatabaseServer>,
    /// The ranges of ids for user namespaces.
    pub(super) id_ranges: IdRanges,
    /// What one user of an instance with such a range may use of what the kernel counts for all of them.
    pub(super) account_limits: AccountLimits,
    pub(super) checkpoints: Catalog,
    /// How the layers of images and checkpoints are mounted.
    pub(super) known_layers: KnownLayers,
    /// The link to this program that the shim runs in place of runc, where it restores; `None` has runc restore.
    pub(super) restorer: Option<PathBuf>,
    /// CRIU's version; `None` where no instance is restored.
    pub(super) criu_version: Option<String>,
    /// Longest time that CRIU may take to freeze an instance.
    pub(super) freeze_timeout: Duration,
    pub(super) kernel_release: String,
    /// Whether no process waits when it changes its cgroup.
    pub(super) has_fast_cgroup_changes: bool,
    /// The AppArmor profile of instances.
    pub(super) apparmor: Option<&'static str>,
    pub(super) instances: Instances,
    pub(super) faults: FaultInjector,
    pub(super) shared_shim: SharedShim,
    /// The group of all instances of this node.
    pub(super) node_group: Arc<NodeGroup>,
    pub(super) node_limit_settings: NodeLimitSettings,
}

impl Inner {
    /// Returns the app's image, and pulls or imports it first if containerd does not have it.
    pub(super) async fn fetch_image(&self, app: &App) -> Result<Arc<UnpackedImage>, RuntimeError> {
        let image = app.image.as_ref();
        let image = image.ok_or_else(|| RuntimeError::Start("its template names no image".to_owned()))?;
        self.images.get(&self.client, image).await
    }

    /// Returns what a checkpoint of this revision on this image is made of; `None` where no instance is restored.
    pub(super) fn ingredients(&self, revision: u64, image: &UnpackedImage) -> Option<Ingredients> {
        Some(Ingredients {
            revision,
            image: image.digest.clone(),
            kernel: self.kernel_release.clone(),
            apparmor: self.apparmor.map(str::to_owned),
            criu: self.criu_version.clone()?,
            user_namespace: self.id_ranges.is_in_use(),
        })
    }
}
