//! Freezes an instance into a checkpoint, and removes checkpoints.
//!
//! # Traps
//! In debug builds a bake reads all of CRIU's image files and writes them again, and fails if one differs. See
//! `image_dir` in `sharing`.
//!
//! An instance that was restored from a checkpoint cannot be frozen: it maps files of its checkpoint, and a checkpoint
//! must not refer to anything outside of itself.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::connections;
use super::freezable;
use super::manifest::{CheckpointKey, Sharing};
use super::randomness::{self, GeneratorScan, RandomNumbers};
use super::restore::make_readable;
use super::sharing::{self, AllocatorReport, Evidence, MadviseTrace, ShareError};
use crate::instance::InstanceId;
use crate::runtime::RuntimeError;
use crate::runtime::blocking::{IoContext, blocking};
use crate::runtime::containerd::container;
use crate::runtime::containerd::container::instances::RunningContainer;
use crate::runtime::containerd::fault_points::FaultPoint;
use crate::runtime::containerd::host::{cgroups, orphans};
use crate::runtime::containerd::image::snapshots;
use crate::runtime::containerd::inner::Inner;
use crate::template::{App, ShareMemory};

/// The start of the names of checkpoints' snapshots in containerd. Existing checkpoints have it.
const SNAPSHOT_PREFIX: &str = "golden-";

impl Inner {
    /// Freezes an instance that has been warmed up into a checkpoint, and removes the instance and older checkpoints of
    /// its template. If another bake has made the same checkpoint already, only the instance is removed.
    ///
    /// # Errors
    /// Checkpoints cannot be restored here, the instance was itself restored, or a step of the bake failed. Then no
    /// checkpoint remains.
    pub(crate) async fn bake(
        &self,
        id: &InstanceId,
        instance: &Arc<RunningContainer>,
        revision: u64,
        app: &App,
    ) -> Result<(), RuntimeError> {
        let image = self.fetch_image(app).await?;
        let ingredients = self.ingredients(revision, &image).filter(|_| app.runtime.is_none());
        let ingredients = ingredients.ok_or_else(|| {
            RuntimeError::Start("its checkpoints cannot be restored on this host".to_owned())
        })?;
        // It started before the server found that this host cannot do it.
        if instance.ids.lock().is_some() != ingredients.user_namespace {
            return Err(RuntimeError::Start(format!(
                "{id} cannot be frozen: new instances have other user namespaces"
            )));
        }
        let key = ingredients.key();
        let from = instance.checkpoint.lock().clone();
        match from {
            // Another bake has made this checkpoint, and the instance was restored from it.
            Some(from) if from == key && self.checkpoints.contains(&key) => {
                return self.remove_instance(id, instance).await;
            }
            Some(_) => {
                return Err(RuntimeError::Start(
                    "an instance that was restored from a checkpoint cannot be frozen".to_owned(),
                ));
            }
            None => {}
        }
        let frozen = async {
            let (sharing, random_numbers) = self.freeze(id, instance, &key, app).await?;
            self.checkpoints
                .finish(id.template(), ingredients, sharing, random_numbers)
                .await
                .context(|| "write the checkpoint's manifest".to_owned())?;
            self.faults.reached(FaultPoint::Manifest)
        };
        if let Err(error) = frozen.await {
            self.remove_checkpoint(&key).await;
            return Err(error);
        }
        // The checkpoint is complete. An instance that remains is removed by the next reconciliation.
        if let Err(error) = self.remove_instance(id, instance).await {
            tracing::warn!(%id, %error, "failed to remove frozen instance");
        }
        for older in self.checkpoints.replaced_by(id.template(), &key) {
            self.remove_checkpoint(&older).await;
        }
        Ok(())
    }

    async fn freeze(
        &self,
        id: &InstanceId,
        instance: &RunningContainer,
        key: &CheckpointKey,
        app: &App,
    ) -> Result<(Sharing, RandomNumbers), RuntimeError> {
        let processes = container::list_processes(&self.client, id.as_str()).await?;
        if let Some(why) = freezable::describe_stopped(&processes) {
            return Err(RuntimeError::Start(format!("{id} cannot be frozen: {why}")));
        }
        let allocators = examine(instance, app, &processes).await;
        let generators = blocking(move || randomness::scan_generators(&processes)).await;
        // The examination takes a while. A stop that came meanwhile waits for the lock that the bake holds.
        if instance.is_ending() {
            return Err(RuntimeError::Start(format!("{id} was stopped before it was frozen")));
        }
        let images = self.checkpoints.begin(key).context(|| "create a checkpoint".to_owned())?;
        self.faults.reached(FaultPoint::BakeFolder)?;
        instance.begin_end();
        let work = self.node_dir.instance_dir(id);
        let ids = *instance.ids.lock();
        // The instance ends with the freeze, or its caller stops it.
        cgroups::lift_cpu_limit(id.as_str());
        let freezing = container::freeze(&self.client, id.as_str(), &images, &work, ids.is_some());
        match tokio::time::timeout(self.freeze_timeout, freezing).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                let log = tokio::fs::read_to_string(work.join("dump.log")).await.unwrap_or_default();
                return Err(RuntimeError::Start(format!("{error}; {}", freezable::explain(&log))));
            }
            Err(_) => {
                orphans::end_freeze(id.as_str()).await?;
                let limit = self.freeze_timeout;
                return Err(RuntimeError::Start(format!("{id} was not frozen within {limit:?}")));
            }
        }
        let discarded = with_trace(instance, MadviseTrace::stop_and_read).await;
        // Developers who bake another app learn of images that this program cannot read.
        if cfg!(debug_assertions) {
            let verified = blocking(move || sharing::verify_round_trip(&images)).await;
            let count = verified.map_err(|why| RuntimeError::Start(format!("CRIU's images: {why}")))?;
            tracing::debug!(id = id.as_str(), count, "images verified");
        }
        self.faults.reached(FaultPoint::Freeze)?;
        container::remove_task(&self.client, id.as_str()).await?;
        self.faults.reached(FaultPoint::NoTask)?;
        close_connections(id, self.checkpoints.images_dir(key)).await?;
        self.faults.reached(FaultPoint::Connections)?;
        let random_numbers = reset_random_numbers(id, self.checkpoints.images_dir(key), generators).await?;
        self.faults.reached(FaultPoint::RandomNumbers)?;
        let evidence = allocators.and_then(|allocators| Ok(Evidence { allocators, discarded: discarded? }));
        let sharing = self.share_memory(id, key, app, evidence).await?;
        if ids.is_some() {
            make_readable(&self.checkpoints.images_dir(key)).context(|| "make images readable".to_owned())?;
        }
        self.faults.reached(FaultPoint::Share)?;
        let name = self.checkpoint_snapshot(key);
        self.known_layers.forget(&name);
        snapshots::remove(&self.client, &name).await?;
        let disk = instance.disk.lock().clone();
        let disk = disk.ok_or_else(|| {
            RuntimeError::Start("it has no disk of this server, because another server started it".to_owned())
        })?;
        let mounts = snapshots::mounts(&self.client, id.as_str()).await?;
        let layer = snapshots::upper_dir(&mounts);
        let layer = layer.ok_or_else(|| RuntimeError::Start("its snapshot is not an overlay".to_owned()))?;
        disk.copy_to(&layer, ids).await?;
        disk.copy_shm_to(&self.checkpoints.shm_dir(key), ids).await?;
        snapshots::commit(&self.client, self.node.as_str(), id.as_str(), &name).await?;
        self.faults.reached(FaultPoint::Commit)?;
        Ok((sharing, random_numbers))
    }

    /// Makes the instances of a checkpoint share memory if the evidence allows it.
    async fn share_memory(
        &self,
        id: &InstanceId,
        key: &CheckpointKey,
        app: &App,
        evidence: Result<Evidence, String>,
    ) -> Result<Sharing, RuntimeError> {
        let template = id.template();
        let with_shm = app.share_memory == ShareMemory::WithShm;
        let why = match evidence {
            Err(why) => why,
            Ok(evidence) => match self.checkpoints.share(key, with_shm, evidence, &self.faults).await {
                Ok(files) => {
                    tracing::info!(
                        template,
                        mebibytes = files.mapped_bytes >> 20,
                        "memory of checkpoint shared"
                    );
                    return Ok(Sharing::Shared(files));
                }
                Err(ShareError::Unchanged(why)) => why,
                Err(error @ ShareError::Damaged(_)) => {
                    return Err(RuntimeError::Start(error.to_string()));
                }
            },
        };
        if !app.share_memory.is_off() {
            tracing::warn!(
                template,
                why,
                "memory of checkpoint not shared: each instance takes more memory and starts more slowly"
            );
        }
        Ok(Sharing::Private(why))
    }

    /// Removes a checkpoint. If instances still use its snapshot, that is removed after the last of them has ended.
    pub(crate) async fn remove_checkpoint(&self, key: &CheckpointKey) {
        self.known_layers.forget(&self.checkpoint_snapshot(key));
        if let Err(error) = self.checkpoints.remove(key) {
            tracing::warn!(checkpoint = key.as_str(), %error, "failed to remove checkpoint's files");
        }
        if let Err(error) = snapshots::remove(&self.client, &self.checkpoint_snapshot(key)).await {
            tracing::debug!(checkpoint = key.as_str(), %error, "checkpoint's snapshot still in use");
        }
    }

    /// Returns the name of a checkpoint's committed snapshot.
    pub(crate) fn checkpoint_snapshot(&self, key: &CheckpointKey) -> String {
        format!("{SNAPSHOT_PREFIX}{}-{}", self.node, key.as_str())
    }
}

/// Examines the processes of an instance. Returns the allocators in them, or why instances of its checkpoint must not
/// share memory.
async fn examine(
    instance: &RunningContainer,
    app: &App,
    processes: &[u32],
) -> Result<AllocatorReport, String> {
    if app.share_memory.is_off() {
        return Err("its template turns sharing off".to_owned());
    }
    let (scanned, traced) = (processes.to_vec(), processes.to_vec());
    let allocators = blocking(move || sharing::scan_allocators(&scanned)).await?;
    match with_trace(instance, move |trace| trace.first_untraced(&traced)).await? {
        None => Ok(allocators),
        Some(pid) => Err(format!("process {pid} was started by a command and not by the app")),
    }
}

/// Closes the connections in a checkpoint's images that restored instances cannot have.
async fn close_connections(id: &InstanceId, images: PathBuf) -> Result<(), RuntimeError> {
    let closed = blocking(move || connections::close_outside(&images)).await;
    let closed = closed.context(|| "close the checkpoint's connections".to_owned())?;
    if closed > 0 {
        tracing::debug!(template = id.template(), closed, "connections to the outside closed in checkpoint");
    }
    Ok(())
}

/// Resets the random number generators in a checkpoint's images, and warns of those that may repeat.
async fn reset_random_numbers(
    id: &InstanceId,
    images: PathBuf,
    generators: GeneratorScan,
) -> Result<RandomNumbers, RuntimeError> {
    let reset = blocking(move || randomness::reset(&images, &generators)).await;
    let random_numbers = reset.context(|| "reset the checkpoint's random number generators".to_owned())?;
    let template = id.template();
    tracing::debug!(template, result = random_numbers.describe(), "random number generators reset");
    for why in random_numbers.may_repeat() {
        tracing::warn!(template, why, "instances of checkpoint may draw equal random numbers");
    }
    Ok(random_numbers)
}

/// Calls `read` with an instance's trace on a thread that may block.
async fn with_trace<T: Send + 'static>(
    instance: &RunningContainer,
    read: impl FnOnce(&MadviseTrace) -> io::Result<T> + Send + 'static,
) -> Result<T, String> {
    let trace = instance.madvise_trace.lock().take();
    let reading = move || {
        let result = match &trace {
            Some(Ok(trace)) => read(trace).map_err(|error| error.to_string()),
            Some(Err(error)) => Err(error.to_string()),
            None => Err("the instance was started without a trace".to_owned()),
        };
        (result, trace)
    };
    let (result, trace) = blocking(reading).await;
    // The trace is removed together with the instance.
    *instance.madvise_trace.lock() = trace;
    result.map_err(|why| format!("cannot trace how it discards memory: {why}"))
}
