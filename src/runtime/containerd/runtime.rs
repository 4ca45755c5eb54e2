//! The implementation of the runtime trait by containers.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::checkpoint;
use super::checkpoint::catalog::Catalog;
use super::checkpoint::prefault::PrefaultList;
use super::checkpoint::sharing::SharedMemory;
use super::client::Client;
use super::container::exit_events;
use super::container::instances::{Instances, OUTPUT_LOG_BYTES};
use super::host::id_ranges::IdRanges;
use super::host::node_dir::NodeDir;
use super::host::node_group::NodeGroup;
use super::host::shared_accounts::AccountLimits;
use super::host::shared_shim::SharedShim;
use super::host::yielding::Yielding;
use super::host::{cgroup_changes, cgroups, kernel, memory_guard, orphans};
use super::image::Images;
use super::image::snapshots::KnownLayers;
use super::inner::Inner;
use super::network::database_port;
use super::network::egress::EgressLinks;
use super::settings::ContainerdSettings;
use super::takeover;
use crate::instance::{Endpoint, InstanceId};
use crate::runtime::apparmor::AppArmor;
use crate::runtime::blocking::{IoContext, blocking};
use crate::runtime::containerd_process::ContainerdProcess;
use crate::runtime::listeners;
use crate::runtime::namespaces::Namespaces;
use crate::runtime::{
    CheckpointStatus, ExecCommand, ExecOutput, Exit, ImageFacts, MemoryReport, Runtime, RuntimeError,
    StartRequest, Started, UserNamespaces,
};
use crate::telemetry::task;
use crate::template::{App, HealthCheck};

/// Runs instances as containers of containerd.
pub struct ContainerdRuntime {
    inner: Arc<Inner>,
    /// Cancelled when the runtime does nothing by itself any more: it was dropped or handed over.
    closed: CancellationToken,
}

impl Drop for ContainerdRuntime {
    fn drop(&mut self) {
        // After a handover the group is another process's.
        if !self.closed.is_cancelled() {
            self.closed.cancel();
            // It stays as long as it has instances.
            self.inner.node_group.remove();
        }
    }
}

impl ContainerdRuntime {
    /// Connects to containerd, takes over the containers of this node that still run, and removes everything else that
    /// a crashed server of this node left.
    ///
    /// # Errors
    /// containerd does not answer, the node's folder cannot be used, or something that was left cannot be removed.
    pub async fn open(settings: ContainerdSettings) -> Result<Self, RuntimeError> {
        let client = Client::connect(&settings.socket).await?;
        let context = |operation: &'static str| move || operation.to_owned();
        let node_dir = NodeDir::open(settings.node_dir).context(context("use the folder for containers"))?;
        let memory = SharedMemory::new(
            node_dir.shared_memory_dir(),
            settings.socket.clone(),
            settings.shared_memory_limit,
            settings.node_limits.max_memory(),
        );
        let checkpoints = Catalog::open(node_dir.checkpoints_dir(), memory).await;
        let checkpoints = checkpoints.context(context("use the folder for checkpoints"))?;
        let criu_version =
            if settings.may_restore { checkpoint::criu::version(&settings.socket).await } else { None };
        if settings.may_restore && criu_version.is_none() {
            tracing::error!(
                "CRIU is missing or does not work; every instance starts cold (see: try-it-now doctor)"
            );
        }
        let egress_links = EgressLinks::new(
            settings.node.as_str(),
            settings.egress,
            settings.search_path,
            settings.forbidden_hosts,
        );
        let egress_links = egress_links.context(context("find this server's network namespace"))?;
        let shared_shim = SharedShim::new(
            &settings.node,
            settings.socket.clone(),
            node_dir.shim_root(),
            node_dir.devices(),
        );
        let restorer = settings
            .program
            .map(|program| node_dir.renew_link(checkpoint::restore::LINK_NAME, &program))
            .transpose();
        let restorer = restorer.context(context("link this program"))?;
        let mode = if restorer.is_some() { settings.user_namespaces } else { UserNamespaces::Off };
        let id_ranges =
            IdRanges::new(settings.node.as_str(), mode).context(context("draw a random number"))?;
        id_ranges.enable().context(context("give instances user namespaces (USER_NAMESPACES)"))?;
        let containerd =
            UnixStream::connect(&settings.socket).await.context(context("connect to containerd"))?;
        let account_limits = AccountLimits::below(ContainerdProcess::of_peer(&containerd).pid);
        let inner = Arc::new(Inner {
            client,
            id_ranges,
            account_limits,
            node_group: Arc::new(NodeGroup::new(settings.node.as_str())),
            node_limit_settings: settings.node_limits,
            socket: settings.socket,
            egress_links,
            database_server: settings.database_server.map(Arc::new),
            images: Images::new(&settings.node, settings.logins),
            node: settings.node,
            node_dir,
            namespaces: Namespaces::new()
                .map(Arc::new)
                .context(context("find this server's network namespace"))?,
            checkpoints,
            known_layers: KnownLayers::default(),
            restorer,
            criu_version,
            freeze_timeout: settings.freeze_timeout,
            kernel_release: kernel::release(),
            has_fast_cgroup_changes: settings.fast_cgroup_changes && make_cgroup_changes_fast().await,
            apparmor: AppArmor::of_host(Path::new("/")).profile(),
            instances: Instances::default(),
            faults: settings.faults,
            shared_shim,
        });
        checkpoint::sharing::remove_madvise_traces(inner.node.as_str())
            .await
            .context(context("remove the kernel traces of a crashed server"))?;
        inner.set_node_limits(0).await;
        takeover::take_over(&inner).await?;
        let closed = CancellationToken::new();
        let guard = closed.clone().run_until_cancelled_owned(memory_guard::run(Arc::downgrade(&inner)));
        task::spawn("memory of all instances", async move { guard.await.unwrap_or_default() });
        let exits = closed.clone().run_until_cancelled_owned(exit_events::follow(Arc::downgrade(&inner)));
        task::spawn("containerd exits", async move { exits.await.unwrap_or_default() });
        Ok(Self { inner, closed })
    }
}

fn save_prefault_list(mut pids: Vec<i32>, checkpoint: &Path) -> io::Result<()> {
    pids.sort_unstable();
    pids.dedup();
    // A failed observation is recorded as an empty list, so that it is not tried again.
    PrefaultList::observe(&pids).unwrap_or_default().save(checkpoint)
}

/// Runs an operation in a task, so that it is completed or undone even if the caller drops its future.
async fn run_detached<T: Send + 'static>(
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

    fn outlives_server(&self) -> bool {
        true
    }

    fn may_restore(&self) -> bool {
        self.inner.criu_version.is_some()
    }

    async fn start(&self, request: &StartRequest) -> Result<Started, RuntimeError> {
        let group = self.inner.node_group.instance_processors(request.id.as_str());
        let group = group.filter(|_| request.yields);
        let yielding = group.map(|group| Yielding::new(self.inner.node_dir.instance_dir(&request.id), group));
        let instance = self
            .inner
            .instances
            .insert(&request.id, OUTPUT_LOG_BYTES, yielding)
            .ok_or_else(|| RuntimeError::Start(format!("{} runs already", request.id)))?;
        let (inner, request) = (self.inner.clone(), request.clone());
        run_detached("start a container", async move {
            let lock = instance.operation_lock.lock().await;
            // A stop that held the lock first has removed everything already.
            if instance.is_ending() {
                return Err(RuntimeError::Start(format!("{} was stopped before it started", request.id)));
            }
            let outcome = inner.start(&request, &instance).await;
            if outcome.is_err() {
                inner.remove_instance(&request.id, &instance).await?;
                orphans::remove(&inner.socket, request.id.as_str()).await?;
            }
            drop(lock);
            outcome
        })
        .await
    }

    async fn stop(&self, id: &InstanceId) -> Result<(), RuntimeError> {
        let Some(instance) = self.inner.instances.get(id) else { return Ok(()) };
        let (inner, id) = (self.inner.clone(), id.clone());
        run_detached("stop a container", async move {
            instance.begin_end();
            let _lock = instance.operation_lock.lock().await;
            inner.remove_instance(&id, &instance).await
        })
        .await
    }

    async fn end_yielding(&self, id: &InstanceId) -> bool {
        let Some(instance) = self.inner.instances.get(id) else { return false };
        if let Some(yielding) = instance.yielding.clone() {
            blocking(move || yielding.end()).await;
        }
        true
    }

    async fn connect(&self, endpoint: Endpoint) -> io::Result<TcpStream> {
        self.inner.namespaces.connect_to(endpoint).await
    }

    fn database_address(&self) -> Option<(Ipv4Addr, u16)> {
        Some(database_port::ADDRESS)
    }

    fn health_check(&self, app: &App) -> Option<HealthCheck> {
        self.inner.images.cached(app.image.as_ref()?)?.config.health_check()
    }

    fn image_facts(&self, app: &App) -> Option<ImageFacts> {
        Some(self.inner.images.cached(app.image.as_ref()?)?.config.facts())
    }

    async fn listeners(&self, id: &InstanceId) -> Option<Vec<SocketAddr>> {
        let id = id.clone();
        let found = blocking(move || listeners::of_namespace(&cgroups::processes(id.as_str()))).await?;
        Some(
            found
                .into_iter()
                .filter(|address| *address != SocketAddr::from(database_port::ADDRESS))
                .collect(),
        )
    }

    async fn fetch(&self, app: &App) -> Result<(), RuntimeError> {
        let (inner, app) = (self.inner.clone(), app.clone());
        run_detached("fetch an image", async move { inner.fetch_image(&app).await.map(drop) }).await
    }

    async fn checkpoint_status(&self, revision: u64, app: &App) -> CheckpointStatus {
        let image = app.image.as_ref();
        if self.inner.criu_version.is_none() || image.is_none() || app.runtime.is_some() {
            return CheckpointStatus::Never;
        }
        let key = image
            .and_then(|image| self.inner.images.cached(image))
            .and_then(|image| self.inner.ingredients(revision, &image))
            .map(|ingredients| ingredients.key());
        if key.is_some_and(|key| self.inner.checkpoints.contains(&key)) {
            CheckpointStatus::Present
        } else {
            CheckpointStatus::Missing
        }
    }

    async fn describe_checkpoint(&self, revision: u64, app: &App) -> Option<String> {
        if let Some(handler) = &app.runtime {
            return Some(format!("started, not restored, because its runtime is {}", handler.name()));
        }
        let image = self.inner.images.cached(app.image.as_ref()?)?;
        self.inner.checkpoints.describe_sharing(&self.inner.ingredients(revision, &image)?.key())
    }

    async fn describe_random_numbers(&self, revision: u64, app: &App) -> Option<String> {
        let image = self.inner.images.cached(app.image.as_ref()?)?;
        self.inner.checkpoints.describe_random_numbers(&self.inner.ingredients(revision, &image)?.key())
    }

    async fn bake(&self, id: &InstanceId, revision: u64, app: &App) -> Result<(), RuntimeError> {
        let instance = self.inner.instances.get(id);
        let instance = instance.ok_or_else(|| RuntimeError::Start(format!("{id} does not run")))?;
        let (inner, id, app) = (self.inner.clone(), id.clone(), app.clone());
        run_detached("bake a checkpoint", async move {
            let _lock = instance.operation_lock.lock().await;
            inner.bake(&id, &instance, revision, &app).await
        })
        .await
    }

    async fn discard_checkpoint(&self, revision: u64, app: &App) -> Result<(), RuntimeError> {
        let image = app.image.as_ref().and_then(|image| self.inner.images.cached(image));
        let ingredients = image.and_then(|image| self.inner.ingredients(revision, &image));
        if let Some(ingredients) = ingredients {
            self.inner.remove_checkpoint(&ingredients.key()).await;
        }
        Ok(())
    }

    async fn discard_all_checkpoints(&self) -> Result<(), RuntimeError> {
        for key in self.inner.checkpoints.keys() {
            self.inner.remove_checkpoint(&key).await;
        }
        Ok(())
    }

    async fn record_repeated_values(
        &self,
        revision: u64,
        app: &App,
        values: &[String],
    ) -> Result<(), RuntimeError> {
        let image = app.image.as_ref().and_then(|image| self.inner.images.cached(image));
        let key =
            image.and_then(|image| self.inner.ingredients(revision, &image)).map(|made_of| made_of.key());
        let Some(key) = key else { return Ok(()) };
        let recorded = self.inner.checkpoints.record_repeated_values(&key, values);
        recorded.context(|| "record the comparison of two instances".to_owned())
    }

    async fn may_observe(&self, id: &InstanceId) -> bool {
        let checkpoint = self.inner.instances.checkpoint_of(id);
        checkpoint.is_some_and(|key| {
            self.inner.restorer.is_some() && self.inner.checkpoints.needs_prefault_list(&key)
        })
    }

    async fn observe(&self, id: &InstanceId) -> Result<(), RuntimeError> {
        let checkpoint = self.inner.instances.checkpoint_of(id);
        let Some(key) = checkpoint else { return Ok(()) };
        let (checkpoint_dir, pids) =
            (self.inner.checkpoints.checkpoint_dir(&key), cgroups::processes(id.as_str()));
        let observed = blocking(move || save_prefault_list(pids, &checkpoint_dir)).await;
        observed.context(|| format!("examine which memory {id} changed"))
    }

    async fn exec(&self, request: &StartRequest, command: ExecCommand) -> Result<ExecOutput, RuntimeError> {
        let instance = self.inner.instances.get(&request.id).filter(|instance| !instance.is_ending());
        // A command does not hold the operation lock: a stop need not wait for it, and ends it.
        instance.ok_or_else(|| RuntimeError::Start(format!("{} does not run", request.id)))?;
        let (inner, request) = (self.inner.clone(), request.clone());
        run_detached("run a command", async move { inner.exec(&request, command).await }).await
    }

    async fn list(&self) -> Result<Vec<InstanceId>, RuntimeError> {
        Ok(self.inner.instances.ids())
    }

    async fn memory(&self) -> Option<MemoryReport> {
        self.inner.memory().await
    }

    async fn logs(&self, id: &InstanceId) -> Option<Bytes> {
        Some(self.inner.instances.get(id)?.log.bytes())
    }

    async fn hand_over(&self) {
        self.closed.cancel();
        self.inner.instances.forget_all();
    }

    fn exits(&self) -> mpsc::UnboundedReceiver<Exit> {
        self.inner.instances.subscribe_exits()
    }
}

/// Makes the changes of cgroups of this host fast and returns whether they are. Without it starts take longer.
async fn make_cgroup_changes_fast() -> bool {
    match blocking(cgroup_changes::make_fast).await {
        Ok(is_fast) => is_fast,
        Err(error) => {
            tracing::debug!(%error, "changes of cgroups stay slow");
            false
        }
    }
}
