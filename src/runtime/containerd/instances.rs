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
use super::golden::Key;
use super::images::Unpacked;
use super::spec::{self, Place};
use super::{Parts, cgroups, folder, snapshots};
use crate::instance::{Endpoint, InstanceId};
use crate::task;

/// An instance from the call of `start` until nothing of it is left.
pub(super) struct Running {
    /// Whose turn it is to do something to it.
    pub(super) turn: tokio::sync::Mutex<()>,
    pub(super) log: Arc<Log>,
    /// Its network namespace; 0 before it has one.
    namespace: AtomicU32,
    /// Whether its end is our own doing.
    leaving: AtomicBool,
    /// Done when its output is of no more interest.
    gone: CancellationToken,
    /// The checkpoint that it was restored from.
    from: Mutex<Option<Key>>,
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
            leaving: AtomicBool::new(false),
            gone: CancellationToken::new(),
            from: Mutex::default(),
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
            match self.launch(order, instance, &image, Some(&key)).await {
                Ok(endpoint) => {
                    self.checkpoints.worked(&key);
                    *instance.from.lock() = Some(key);
                    return Ok(Started { endpoint, how: StartMethod::Restored });
                }
                Err(error) => {
                    tracing::warn!(id = %order.id, %error, "a restore failed; starting cold instead");
                    self.take_back(&order.id, instance).await?;
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
        cgroups::prepare_for_a_change();
        let namespace = self.namespaces.make().await.doing(doing("make a network namespace"))?;
        instance.namespace.store(namespace, Ordering::Release);
        let network = self.namespaces.path(namespace);
        let network = network.ok_or(RuntimeError::Exhausted("network namespaces"))?;
        let namespace_took = begun.elapsed();
        let parent = checkpoint.map_or_else(|| image.snapshot.clone(), |key| self.snapshot_name(key));
        let mounts = snapshots::prepare(&self.client, self.node.as_str(), id, &parent).await?;
        let snapshot_took = begun.elapsed() - namespace_took;
        if let Some(layer) = snapshots::own_files(&mounts) {
            // A checkpoint's snapshot is furnished already.
            let furnished = if checkpoint.is_none() { folder::furnish(&layer) } else { Ok(()) };
            furnished
                .and_then(|()| folder::introduce(&layer, order))
                .doing(doing("write the first files"))?;
        }
        let output = self.folder.make(&order.id).doing(doing("make a pipe for the output"))?;
        instance.keep_output(output);
        let spec = self.spec(order, image, &network, checkpoint.is_some())?;
        let work = self.folder.of(&order.id);
        let prepared = begun.elapsed();
        let shim = self.shim.get(&self.client).await;
        let started = container::start(
            &self.client,
            Draft {
                id,
                node: self.node.as_str(),
                image: &image.name,
                namespace,
                shim,
                spec: &spec,
                mounts,
                input: &self.folder.input(&order.id),
                output: &self.folder.output(&order.id),
                work: &work,
                images: checkpoint.map(|key| self.checkpoints.images(key)),
            },
        )
        .await;
        // Whatever it was, the next one need not fail for want of the shim.
        let times = started.inspect_err(|_| self.shim.doubt())?;
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
            most_open_files: getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX),
            cgroup: &format!("/try-it-now/{}", order.id),
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
                .doing(|| "record the checkpoint".to_owned())
        };
        if let Err(error) = frozen.await {
            self.forget(&key).await;
            return Err(error);
        }
        self.take_away(id, instance).await?;
        for older in self.checkpoints.older(id.template(), &key) {
            self.forget(&older).await;
        }
        Ok(())
    }

    async fn freeze(&self, id: &InstanceId, instance: &Running, key: &Key) -> Result<(), RuntimeError> {
        let images = self.checkpoints.begin(key).doing(|| "make a checkpoint".to_owned())?;
        instance.leave();
        let work = self.folder.of(id);
        if let Err(error) = container::freeze(&self.client, id.as_str(), &images, &work).await {
            let log = tokio::fs::read_to_string(work.join("dump.log")).await.unwrap_or_default();
            let why: Vec<&str> = log.lines().filter(|line| line.contains("Error")).collect();
            return Err(RuntimeError::Start(format!("{error}; CRIU says: {}", why.join("; "))));
        }
        container::remove_task(&self.client, id.as_str()).await?;
        let name = self.snapshot_name(key);
        snapshots::remove(&self.client, &name).await?;
        snapshots::commit(&self.client, self.node.as_str(), id.as_str(), &name).await
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
        if instance.leaves() || matches!(container::lives(&self.client, id.as_str()).await, Ok(Some(_))) {
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
        container::remove(&self.client, id.as_str()).await?;
        self.folder.remove(id.as_str()).doing(|| format!("remove the folder of {id}"))
    }

    /// Takes over an instance that a server before this one started.
    pub(super) fn adopt(&self, id: &InstanceId, namespace: u32, pid: u32) -> std::io::Result<()> {
        self.namespaces.adopt(namespace, pid)?;
        if let Some(instance) = self.instances.enter(id, super::LOG_LIMIT) {
            instance.namespace.store(namespace, Ordering::Release);
            instance.keep_output(self.folder.open_output(id)?);
        }
        Ok(())
    }
}
