//! An instance is started, or restored.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use containerd_client::types::Mount;
use rustix::process::{Resource, getrlimit};
use serde_json::Value;
use tokio::time::Instant;

use super::ContainerDraft;
use super::disk::{self, Disk};
use super::instances::Running;
use super::layer_writer::LayerWriter;
use super::spec::{self, Place};
use crate::instance::Endpoint;
use crate::runtime::blocking::{IoContext, blocking};
use crate::runtime::containerd::checkpoint::catalog::Key;
use crate::runtime::containerd::container;
use crate::runtime::containerd::host::{cgroups, node_dir, tmpfs};
use crate::runtime::containerd::image::Unpacked;
use crate::runtime::containerd::image::snapshots;
use crate::runtime::containerd::takeover::orphans;
use crate::runtime::containerd::{FaultPoint, Inner};
use crate::runtime::{RuntimeError, StartMethod, StartRequest, Started};

/// What was made of an instance before it starts, and how long that took.
struct Made {
    /// Its disk and its first files.
    files: Duration,
    /// containerd's record, beyond that.
    record: Duration,
    /// Its shim, and where nothing is restored its first process.
    task: Duration,
    done: Instant,
}

impl Inner {
    /// Starts it, restored where there is a checkpoint and it works.
    pub(crate) async fn start(
        &self,
        order: &StartRequest,
        instance: &Running,
    ) -> Result<Started, RuntimeError> {
        let image = self.image(&order.app).await?;
        let key = self.ingredients(order.revision, &image).map(|ingredients| ingredients.key());
        if let Some(key) = key.filter(|key| self.checkpoints.has(key)) {
            // Before it stands on it: who replaces the checkpoint meanwhile leaves the rest to the last that does.
            *instance.from.lock() = Some(key.clone());
            match self.launch(order, instance, &image, Some(&key)).await {
                Ok(endpoint) => {
                    self.checkpoints.worked(&key);
                    return Ok(Started { endpoint, how: StartMethod::Restored });
                }
                Err(error) => {
                    tracing::warn!(id = %order.id, %error, "a restore failed; starting cold instead");
                    self.take_back(&order.id, instance).await?;
                    orphans::end(&self.address, order.id.as_str()).await?;
                    instance.from.lock().take();
                    let given_up = self.checkpoints.failed(&key);
                    if given_up {
                        tracing::error!(
                            template = order.id.template(),
                            "the checkpoint is given up and made anew"
                        );
                    }
                    // One that was replaced meanwhile goes with the last that stands on it.
                    if given_up || !self.checkpoints.has(&key) {
                        self.forget(&key).await;
                    }
                }
            }
        }
        let endpoint = self.launch(order, instance, &image, None).await?;
        Ok(Started { endpoint, how: StartMethod::Cold })
    }

    async fn launch(
        &self,
        order: &StartRequest,
        instance: &Running,
        image: &Unpacked,
        checkpoint: Option<&Key>,
    ) -> Result<Endpoint, RuntimeError> {
        let id = order.id.as_str();
        let doing = |what: &'static str| move || format!("{what} for {id}");
        let begun = Instant::now();
        let _prepared = cgroups::prepare_for_changes();
        let namespace = self.network(order, instance).await?;
        instance.namespace.store(namespace, Ordering::Release);
        self.watcher.done(FaultPoint::Network)?;
        let network = self.namespaces.path(namespace);
        let network = network.ok_or(RuntimeError::Exhausted("network namespaces"))?;
        let namespace_took = begun.elapsed();

        let parent = checkpoint.map_or_else(|| image.snapshot.clone(), |key| self.snapshot_name(key));
        let snapshot = async {
            let mounts = snapshots::prepare(&self.client, self.node.as_str(), id, &parent).await?;
            self.watcher.done(FaultPoint::Snapshot)?;
            Ok(mounts)
        };
        let make = |mounts| self.make(order, instance, image, checkpoint, &network, mounts);
        let (made, snapshot_took) = match checkpoint.and_then(|_| self.layers.of(&parent)) {
            // Each to its end: what containerd was asked for it may do later, too, and then nobody would remove it.
            Some(known) => {
                let both = async { (snapshot.await, Instant::now()) };
                let ((mounts, there), made) = tokio::join!(both, make(known.clone()));
                self.layers.learn(&parent, &mounts?, Some(&known))?;
                let made = made?;
                let alone = there.saturating_duration_since(made.done);
                (made, alone)
            }
            None => {
                let mounts = snapshot.await?;
                let took = begun.elapsed() - namespace_took;
                self.layers.learn(&parent, &mounts, None)?;
                (make(mounts).await?, took)
            }
        };
        let prepared = Instant::now();
        let at = self.folder.disk(&order.id);
        // The overlay keeps it.
        let detach = blocking(move || tmpfs::detach(&at));
        let (started, detached) = tokio::join!(container::start(&self.client, id, &self.watcher), detach);
        // Whatever it was, the next one need not fail for want of the shim.
        started.inspect_err(|_| self.shim.doubt())?;
        detached.doing(doing("detach a disk"))?;
        let micros = |took: Duration| took.as_micros() as u64;
        // Measured by the case `restore` of perf/, which reads these names. What goes on beside something else counts as
        // long as it alone is waited for.
        tracing::debug!(
            id,
            restored = checkpoint.is_some(),
            namespace_micros = micros(namespace_took),
            snapshot_micros = micros(snapshot_took),
            files_micros = micros(made.files),
            container_micros = micros(made.record),
            task_micros = micros(made.task),
            start_micros = micros(prepared.elapsed()),
            "launched"
        );
        Ok(Endpoint::Sealed { namespace, port: order.app.port })
    }

    /// Makes all of it but its network and its snapshot, to be started.
    async fn make(
        &self,
        order: &StartRequest,
        instance: &Running,
        image: &Unpacked,
        checkpoint: Option<&Key>,
        network: &Path,
        mut mounts: Vec<Mount>,
    ) -> Result<Made, RuntimeError> {
        let id = order.id.as_str();
        let begun = Instant::now();
        let spec = self.spec(order, image, network, checkpoint)?;
        let shim = self.shim.get(&self.client).await;
        let is_watched = order.to_be_frozen
            && checkpoint.is_none()
            && self.criu.is_some()
            && !order.app.share_memory.is_off();
        let draft = ContainerDraft {
            id,
            node: self.node.as_str(),
            image: &image.name,
            namespace: instance.namespace.load(Ordering::Acquire),
            shim: shim.as_deref(),
            spec: &spec,
            input: &self.folder.input(&order.id),
            output: &self.folder.output(&order.id),
            work: &self.folder.of(&order.id),
            checkpoint: checkpoint.map(|key| (key, self.checkpoints.images(key))),
            watch: is_watched.then_some(&instance.watch),
            restorer: checkpoint.and(self.restorer.as_deref()),
            watcher: &self.watcher,
        };
        let files = async { (self.furnish(order, instance, checkpoint, &mounts).await, begun.elapsed()) };
        // Each to its end, as above.
        let (recorded, (furnished, files)) = tokio::join!(container::record(&self.client, &draft), files);
        furnished?;
        recorded?;
        let record = begun.elapsed() - files;
        disk::redirect(&mut mounts, &self.folder.disk(&order.id));
        let task = container::prepare(&self.client, &draft, mounts).await;
        task.inspect_err(|_| self.shim.doubt())?;
        let done = Instant::now();
        Ok(Made { files, record, task: done - begun - files - record, done })
    }

    /// Gives it its folder, its disk and its first files.
    async fn furnish(
        &self,
        order: &StartRequest,
        instance: &Running,
        checkpoint: Option<&Key>,
        mounts: &[Mount],
    ) -> Result<(), RuntimeError> {
        let doing = |what: &'static str| move || format!("{what} for {}", order.id);
        let output = self.folder.make(&order.id).doing(doing("make a pipe for the output"))?;
        instance.keep_output(output);
        self.watcher.done(FaultPoint::Folder)?;
        let record =
            instance.outlet.lock().as_ref().map(|outlet| self.outlets.record(outlet, &order.app.egress));
        if let Some(record) = record {
            self.folder.note_outlet(&order.id, &record).doing(doing("note the way out"))?;
        }
        let disk = Disk::make(order.app.limits.container_disk()).map(Arc::new).doing(doing("make a disk"))?;
        *instance.disk.lock() = Some(disk.clone());
        let layer = LayerWriter::open(&disk.files(), mounts).doing(doing("look at the layers"))?;
        let resolvers = (!order.app.egress.is_sealed()).then(|| self.outlets.resolv_conf());
        first_files(&layer, order, checkpoint.is_none(), resolvers).doing(doing("write the first files"))?;
        self.watcher.done(FaultPoint::FirstFiles)?;
        let at = self.folder.disk(&order.id);
        disk.attach(&self.address, &at).await.doing(doing("attach a disk"))?;
        self.watcher.done(FaultPoint::Disk)
    }

    /// The number of a network namespace for it: one that leads nowhere, or as far as its template wants.
    async fn network(&self, order: &StartRequest, instance: &Running) -> Result<u32, RuntimeError> {
        if order.app.egress.is_sealed() {
            return self
                .namespaces
                .make()
                .await
                .doing(|| format!("make a network namespace for {}", order.id));
        }
        let outlet = self.outlets.take(&order.app.egress).await?;
        let number = self.namespaces.hold(outlet.namespace());
        *instance.outlet.lock() = Some(outlet);
        Ok(number)
    }

    fn spec(
        &self,
        order: &StartRequest,
        image: &Unpacked,
        network: &Path,
        checkpoint: Option<&Key>,
    ) -> Result<Value, RuntimeError> {
        let shared = checkpoint.and_then(|key| self.checkpoints.devices(key));
        let place = Place {
            network,
            devices: &shared.unwrap_or_else(|| self.folder.devices()),
            criu: &self.folder.criu_config(checkpoint.is_some()),
            most_open_files: most_open_files(),
            cgroup: &cgroups::path(order.id.as_str()),
        };
        spec::write(order, &image.config, &place)
    }
}

/// Gives a layer the files that make it this instance's own. A checkpoint's snapshot is furnished already.
fn first_files(
    layer: &LayerWriter,
    order: &StartRequest,
    is_new: bool,
    resolvers: Option<String>,
) -> std::io::Result<()> {
    if is_new {
        layer.make_folder(node_dir::SHARED_MEMORY, 0o1777)?;
    }
    let furniture = node_dir::furniture();
    let furniture = furniture.iter().filter(|_| is_new);
    let resolvers = resolvers.map(node_dir::name_resolvers);
    let own = node_dir::introduction(order)?;
    furniture.chain(&own).chain(&resolvers).chain(&order.files).try_for_each(|file| layer.write(file))
}

/// Open files that this host lets a process have.
pub(crate) fn most_open_files() -> u64 {
    getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX)
}
