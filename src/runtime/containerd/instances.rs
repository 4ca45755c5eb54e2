//! What runs, and what is done to it: start or restore, bake, take away.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::process::{Resource, getrlimit};
use serde_json::Value;
use tokio::net::unix::pipe::Receiver;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::super::host::Doing;
use super::super::log::Log;
use super::super::{App, Exit, Order, RuntimeError, StartMethod, Started};
use super::container::{self, Draft};
use super::disk::{self, Disk};
use super::egress::Outlet;
use super::golden::Key;
use super::images::Unpacked;
use super::layer::Layer;
use super::spec::{self, Place};
use super::{Parts, Step, folder, orphans, snapshots};
use crate::instance::{Endpoint, InstanceId};
use crate::task;

/// An instance from the call of `start` until nothing of it is left.
pub(super) struct Running {
    /// Whose turn it is to do something to it.
    pub(super) turn: tokio::sync::Mutex<()>,
    pub(super) log: Arc<Log>,
    /// Its network namespace; 0 before it has one.
    namespace: AtomicU32,
    /// Its way out of there, if its template wants one.
    outlet: Mutex<Option<Outlet>>,
    /// Whether its end is our own doing.
    leaving: AtomicBool,
    /// Done when its output is of no more interest.
    gone: CancellationToken,
    /// The checkpoint that it was restored from.
    from: Mutex<Option<Key>>,
    /// What it writes to; `None` before it has one, or when a server before this one started it.
    disk: Mutex<Option<Arc<Disk>>>,
}

impl Running {
    /// From now on its end is no news.
    pub(super) fn leave(&self) {
        self.leaving.store(true, Ordering::Release);
    }

    /// Whether its end is our own doing.
    pub(super) fn leaves(&self) -> bool {
        self.leaving.load(Ordering::Acquire)
    }

    /// Keeps the end of what it writes.
    fn keep_output(&self, pipe: Receiver) {
        let (log, gone) = (self.log.clone(), self.gone.clone());
        task::spawn("an instance's output", async move {
            tokio::select! {
                () = log.fill_from(pipe) => {}
                () = gone.cancelled() => {}
            }
        });
    }
}

/// What is known of an instance that a server before this one started.
pub(super) struct Found {
    pub(super) namespace: u32,
    pub(super) pid: u32,
    pub(super) from: Option<Key>,
}

/// All instances of this runtime.
#[derive(Default)]
pub(super) struct Instances {
    running: Mutex<HashMap<InstanceId, Arc<Running>>>,
    listener: Mutex<Option<mpsc::UnboundedSender<Exit>>>,
}

impl Instances {
    /// Takes the place of an instance; `None` when it is taken.
    pub(super) fn enter(&self, id: &InstanceId, log_limit: usize) -> Option<Arc<Running>> {
        let mut running = self.running.lock();
        if running.contains_key(id) {
            return None;
        }
        let instance = Arc::new(Running {
            turn: tokio::sync::Mutex::default(),
            log: Arc::new(Log::new(log_limit)),
            namespace: AtomicU32::new(0),
            outlet: Mutex::default(),
            leaving: AtomicBool::new(false),
            gone: CancellationToken::new(),
            from: Mutex::default(),
            disk: Mutex::default(),
        });
        running.insert(id.clone(), instance.clone());
        Some(instance)
    }

    pub(super) fn get(&self, id: &InstanceId) -> Option<Arc<Running>> {
        self.running.lock().get(id).cloned()
    }

    pub(super) fn ids(&self) -> Vec<InstanceId> {
        self.running.lock().keys().cloned().collect()
    }

    /// The checkpoints that instances stand on.
    pub(super) fn stood_on(&self) -> Vec<Key> {
        self.running.lock().values().filter_map(|instance| instance.from.lock().clone()).collect()
    }

    pub(super) fn listen(&self) -> mpsc::UnboundedReceiver<Exit> {
        let (sender, exits) = mpsc::unbounded_channel();
        *self.listener.lock() = Some(sender);
        exits
    }

    /// By the name of its container.
    pub(super) fn find(&self, id: &str) -> Option<(InstanceId, Arc<Running>)> {
        let running = self.running.lock();
        let found = running.iter().find(|(known, _)| known.as_str() == id);
        found.map(|(known, instance)| (known.clone(), instance.clone()))
    }

    fn tell(&self, id: &InstanceId, how: String) {
        if let Some(listener) = &*self.listener.lock() {
            // A listener that is gone does not want to know.
            let _ = listener.send(Exit { id: id.clone(), how });
        }
    }

    fn remove(&self, id: &InstanceId, instance: &Arc<Running>) {
        let mut running = self.running.lock();
        if running.get(id).is_some_and(|current| Arc::ptr_eq(current, instance)) {
            running.remove(id);
        }
    }
}

impl Parts {
    /// Starts it, restored where there is a checkpoint and it works.
    pub(super) async fn start(&self, order: &Order, instance: &Running) -> Result<Started, RuntimeError> {
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
                    if self.checkpoints.failed(&key) {
                        tracing::error!(
                            template = order.id.template(),
                            "the checkpoint is given up and made anew"
                        );
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
        order: &Order,
        instance: &Running,
        image: &Unpacked,
        checkpoint: Option<&Key>,
    ) -> Result<Endpoint, RuntimeError> {
        let id = order.id.as_str();
        let doing = |what: &'static str| move || format!("{what} for {id}");
        let begun = Instant::now();
        let namespace = self.network(order, instance).await?;
        instance.namespace.store(namespace, Ordering::Release);
        self.watcher.done(Step::Network)?;
        let network = self.namespaces.path(namespace);
        let network = network.ok_or(RuntimeError::Exhausted("network namespaces"))?;
        let namespace_took = begun.elapsed();
        let parent = checkpoint.map_or_else(|| image.snapshot.clone(), |key| self.snapshot_name(key));
        let mut mounts = snapshots::prepare(&self.client, self.node.as_str(), id, &parent).await?;
        self.watcher.done(Step::Snapshot)?;
        let snapshot_took = begun.elapsed() - namespace_took;
        let output = self.folder.make(&order.id).doing(doing("make a pipe for the output"))?;
        instance.keep_output(output);
        self.watcher.done(Step::Folder)?;
        let record =
            instance.outlet.lock().as_ref().map(|outlet| self.outlets.record(outlet, &order.app.egress));
        if let Some(record) = record {
            self.folder.note_outlet(&order.id, &record).doing(doing("note the way out"))?;
        }
        let disk = Disk::make(order.app.limits.container_disk()).map(Arc::new).doing(doing("make a disk"))?;
        *instance.disk.lock() = Some(disk.clone());
        let layer = Layer::open(&disk.files(), &mounts).doing(doing("look at the layers"))?;
        let resolvers = (!order.app.egress.is_sealed()).then(|| self.outlets.resolv_conf());
        first_files(&layer, order, checkpoint.is_none(), resolvers).doing(doing("write the first files"))?;
        self.watcher.done(Step::FirstFiles)?;
        let at = self.folder.disk(&order.id);
        disk.attach(&self.address, &at).await.doing(doing("attach a disk"))?;
        disk::redirect(&mut mounts, &at);
        self.watcher.done(Step::Disk)?;
        let spec = self.spec(order, image, &network, checkpoint.is_some())?;
        let work = self.folder.of(&order.id);
        let prepared = begun.elapsed();
        let times = container::start(
            &self.client,
            Draft {
                id,
                node: self.node.as_str(),
                image: &image.name,
                namespace,
                spec: &spec,
                mounts,
                input: &self.folder.input(&order.id),
                output: &self.folder.output(&order.id),
                work: &work,
                checkpoint: checkpoint.map(|key| (key, self.checkpoints.images(key))),
                watcher: &self.watcher,
            },
        )
        .await?;
        // The overlay keeps it.
        disk::detach(&at).doing(doing("detach a disk"))?;
        let micros = |took: Duration| took.as_micros() as u64;
        // Measured by the case `restore` of perf/, which reads these names.
        tracing::debug!(
            id,
            restored = checkpoint.is_some(),
            namespace_micros = micros(namespace_took),
            snapshot_micros = micros(snapshot_took),
            files_micros = micros(prepared - snapshot_took - namespace_took),
            container_micros = micros(times.container),
            task_micros = micros(times.task),
            start_micros = micros(times.start),
            "launched"
        );
        Ok(Endpoint::Sealed { namespace, port: order.app.port })
    }

    /// The number of a network namespace for it: one that leads nowhere, or as far as its template wants.
    async fn network(&self, order: &Order, instance: &Running) -> Result<u32, RuntimeError> {
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
        order: &Order,
        image: &Unpacked,
        network: &Path,
        restores: bool,
    ) -> Result<Value, RuntimeError> {
        let place = Place {
            network,
            devices: &self.folder.devices(),
            criu: &self.folder.criu_config(restores),
            most_open_files: most_open_files(),
            cgroup: &orphans::cgroup(order.id.as_str()),
        };
        spec::write(order, &image.config, &place)
    }

    /// Freezes a warmed instance into the checkpoint for what it was made of, and removes it.
    pub(super) async fn bake(
        &self,
        id: &InstanceId,
        instance: &Arc<Running>,
        revision: u64,
        app: &App,
    ) -> Result<(), RuntimeError> {
        let image = self.image(app).await?;
        let ingredients = self.ingredients(revision, &image);
        let ingredients =
            ingredients.ok_or_else(|| RuntimeError::Start("nothing is restored here".to_owned()))?;
        let key = ingredients.key();
        let frozen = async {
            self.freeze(id, instance, &key).await?;
            self.checkpoints
                .finish(id.template(), ingredients)
                .await
                .doing(|| "record the checkpoint".to_owned())?;
            self.watcher.done(Step::Manifest)
        };
        if let Err(error) = frozen.await {
            self.forget(&key).await;
            return Err(error);
        }
        // The checkpoint is whole, and whoever stops what does not belong to anybody stops this too.
        if let Err(error) = self.take_away(id, instance).await {
            tracing::warn!(%id, %error, "what was frozen is still there");
        }
        for older in self.checkpoints.older(id.template(), &key) {
            self.forget(&older).await;
        }
        Ok(())
    }

    async fn freeze(&self, id: &InstanceId, instance: &Running, key: &Key) -> Result<(), RuntimeError> {
        let images = self.checkpoints.begin(key).doing(|| "make a checkpoint".to_owned())?;
        self.watcher.done(Step::BakeFolder)?;
        instance.leave();
        let work = self.folder.of(id);
        if let Err(error) = container::freeze(&self.client, id.as_str(), &images, &work).await {
            let log = tokio::fs::read_to_string(work.join("dump.log")).await.unwrap_or_default();
            let why: Vec<&str> = log.lines().filter(|line| line.contains("Error")).collect();
            return Err(RuntimeError::Start(format!("{error}; CRIU says: {}", why.join("; "))));
        }
        self.watcher.done(Step::Freeze)?;
        container::remove_task(&self.client, id.as_str()).await?;
        self.watcher.done(Step::NoTask)?;
        let name = self.snapshot_name(key);
        snapshots::remove(&self.client, &name).await?;
        let disk = instance.disk.lock().clone();
        let disk = disk.ok_or_else(|| RuntimeError::Start("another server started it".to_owned()))?;
        let mounts = snapshots::mounts(&self.client, id.as_str()).await?;
        let layer = snapshots::own_files(&mounts);
        let layer = layer.ok_or_else(|| RuntimeError::Start("its snapshot is no overlay".to_owned()))?;
        disk.copy_to(&layer).await?;
        snapshots::commit(&self.client, self.node.as_str(), id.as_str(), &name).await?;
        self.watcher.done(Step::Commit)
    }

    /// Removes a checkpoint. Its snapshot may still be stood on; then it goes with the last that does.
    pub(super) async fn forget(&self, key: &Key) {
        if let Err(error) = self.checkpoints.remove(key) {
            tracing::warn!(checkpoint = key.as_str(), %error, "a checkpoint's files could not be removed");
        }
        if let Err(error) = snapshots::remove(&self.client, &self.snapshot_name(key)).await {
            tracing::debug!(checkpoint = key.as_str(), %error, "a checkpoint's snapshot is still in use");
        }
    }

    /// The committed snapshot that belongs to a checkpoint.
    pub(super) fn snapshot_name(&self, key: &Key) -> String {
        format!("golden-{}-{}", self.node, key.as_str())
    }

    /// The container of an instance ended. Unless that was to be, tells whoever listens, and removes what is left.
    pub(super) async fn ended(
        &self,
        id: &InstanceId,
        instance: &Arc<Running>,
        how: String,
    ) -> Result<(), RuntimeError> {
        // A start that is under way has another container for it if this was a restore that failed.
        let _turn = instance.turn.lock().await;
        if instance.leaves() || container::lives(&self.client, id.as_str()).await?.is_some() {
            return Ok(());
        }
        instance.leave();
        self.instances.tell(id, how);
        self.take_away(id, instance).await
    }

    /// Removes all of an instance, and its place among those that run.
    pub(super) async fn take_away(
        &self,
        id: &InstanceId,
        instance: &Arc<Running>,
    ) -> Result<(), RuntimeError> {
        instance.leave();
        self.take_back(id, instance).await?;
        self.instances.remove(id, instance);
        instance.gone.cancel();
        let from = instance.from.lock().take();
        if let Some(key) = from.filter(|key| !self.checkpoints.has(key)) {
            self.forget(&key).await;
        }
        Ok(())
    }

    /// Removes what was made of an instance so far.
    async fn take_back(&self, id: &InstanceId, instance: &Running) -> Result<(), RuntimeError> {
        self.namespaces.let_go(instance.namespace.swap(0, Ordering::AcqRel));
        container::remove(&self.client, id.as_str(), &self.watcher).await?;
        // Not before all that could use it has ended.
        let outlet = instance.outlet.lock().take();
        if let Some(outlet) = outlet {
            self.outlets.give_back(outlet).await?;
        }
        instance.disk.lock().take();
        self.folder.remove(id.as_str()).doing(|| format!("remove the folder of {id}"))?;
        self.watcher.done(Step::NoFolder)
    }

    /// Takes over an instance that a server before this one started.
    pub(super) fn adopt(&self, id: &InstanceId, found: &Found) -> Result<(), RuntimeError> {
        self.watcher.done(Step::Adoption)?;
        let doing = || format!("pick up {id}");
        let record = self.folder.outlet(id).doing(doing)?;
        let output = self.folder.open_output(id).doing(doing)?;
        self.namespaces.adopt(found.namespace, found.pid).doing(doing)?;
        // Last of what may fail: what was adopted there counts as in use.
        let outlet = record.map(|record| self.outlets.adopt(record, found.pid)).transpose().doing(doing)?;
        if let Some(instance) = self.instances.enter(id, super::LOG_LIMIT) {
            instance.namespace.store(found.namespace, Ordering::Release);
            *instance.from.lock() = found.from.clone();
            *instance.outlet.lock() = outlet;
            instance.keep_output(output);
        }
        Ok(())
    }
}

/// Gives a layer the files that make it this instance's own. A checkpoint's snapshot is furnished already.
fn first_files(layer: &Layer, order: &Order, is_new: bool, resolvers: Option<String>) -> std::io::Result<()> {
    let furniture = folder::furniture();
    let furniture = furniture.iter().filter(|_| is_new);
    let resolvers = resolvers.map(folder::name_resolvers);
    let own = folder::introduction(order)?;
    furniture.chain(&own).chain(&resolvers).chain(&order.files).try_for_each(|file| layer.write(file))
}

/// Open files that this host lets a process have.
pub(super) fn most_open_files() -> u64 {
    getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX)
}
