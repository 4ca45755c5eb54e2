//! Starts an instance: cold, or restored from a checkpoint.
//!
//! Two rules hold throughout. Whatever containerd was asked for is waited for, even if something else failed meanwhile:
//! containerd may carry it out later, after everything was removed. And a step that failed is undone by
//! [`Inner::undo_start`], not here.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use containerd_client::types::Mount;
use serde_json::Value;
use tokio::time::Instant;

use super::disk::{self, Disk};
use super::first_files::{make_volumes, write_first_files};
use super::instances::RunningContainer;
use super::layer_writer::LayerWriter;
use super::record::{self, ContainerDraft};
use super::spec::{self, HostPaths, Walls};
use super::task;
use crate::instance::Endpoint;
use crate::runtime::blocking::{IoContext, blocking};
use crate::runtime::containerd::checkpoint::manifest::CheckpointKey;
use crate::runtime::containerd::checkpoint::restore::mount_by_restorer;
use crate::runtime::containerd::fault_points::FaultPoint;
use crate::runtime::containerd::host::{cgroup_changes, kernel, orphans, tmpfs};
use crate::runtime::containerd::image::UnpackedImage;
use crate::runtime::containerd::image::snapshots;
use crate::runtime::containerd::inner::Inner;
use crate::runtime::{RuntimeError, StartMethod, StartRequest, Started};

/// How long the parts of a preparation took, as far as each was waited for.
struct Preparation {
    /// The disk and the first files.
    files: Duration,
    /// containerd's record, as far as it took longer than the files.
    record: Duration,
    /// The shim, and unless the instance is restored its first process.
    task: Duration,
    done: Instant,
}

impl Inner {
    /// Starts an instance, by a restore if there is a checkpoint and the restore succeeds, else cold.
    ///
    /// A failed restore falls back to a cold start. So a file hook that no restored instance can have makes every start
    /// cold, with a warning each.
    ///
    /// # Errors
    /// The cold start failed. The caller removes what was made.
    pub(crate) async fn start(
        &self,
        request: &StartRequest,
        instance: &RunningContainer,
    ) -> Result<Started, RuntimeError> {
        let image = self.fetch_image(&request.app).await?;
        let ingredients = self.ingredients(request.revision, &image);
        // Another handler can neither freeze nor restore.
        let ingredients = ingredients.filter(|_| request.app.runtime.is_none());
        let key = ingredients.map(|ingredients| ingredients.key());
        if let Some(key) = key.filter(|key| self.checkpoints.contains(key)) {
            // Before the instance is based on it: if the checkpoint is replaced meanwhile, its snapshot is removed with
            // the last instance that is based on it.
            *instance.checkpoint.lock() = Some(key.clone());
            match self.launch_restored(request, instance, &image, &key).await {
                Ok(endpoint) => {
                    self.checkpoints.record_restore(&key);
                    return Ok(Started { endpoint, method: StartMethod::Restored });
                }
                Err(error) => {
                    tracing::warn!(id = %request.id, %error, "failed to restore instance; starting cold");
                    self.undo_start(&request.id, instance).await?;
                    orphans::remove(&self.socket, request.id.as_str()).await?;
                    instance.checkpoint.lock().take();
                    let is_abandoned = self.checkpoints.record_failure(&key);
                    if is_abandoned {
                        tracing::error!(
                            template = request.id.template(),
                            "checkpoint abandoned; baking a new one"
                        );
                    }
                    // A checkpoint that was replaced meanwhile is removed with the last instance that is based on it.
                    if is_abandoned || !self.checkpoints.contains(&key) {
                        self.remove_checkpoint(&key).await;
                    }
                }
            }
        }
        let endpoint = match self.launch(request, instance, &image, None).await {
            Ok(endpoint) => endpoint,
            Err(error) => self.launch_without_ids(request, instance, &image, error).await?,
        };
        if instance.ids.lock().is_some() {
            self.id_ranges.prove();
        }
        Ok(Started { endpoint, method: StartMethod::Cold })
    }

    /// Makes an instance with the user namespace of the host, and starts it.
    pub(super) async fn launch_on_host(
        &self,
        request: &StartRequest,
        instance: &RunningContainer,
        image: &UnpackedImage,
        checkpoint: Option<&CheckpointKey>,
    ) -> Result<Endpoint, RuntimeError> {
        self.assign_network(request, instance).await?;
        self.launch_prepared(request, instance, image, checkpoint).await
    }

    /// Makes an instance with its namespaces, snapshot, files and container, and starts it.
    pub(super) async fn launch(
        &self,
        request: &StartRequest,
        instance: &RunningContainer,
        image: &UnpackedImage,
        checkpoint: Option<&CheckpointKey>,
    ) -> Result<Endpoint, RuntimeError> {
        // A runtime handler makes walls of its own.
        if request.app.runtime.is_some() || !self.id_ranges.is_in_use() {
            return self.launch_on_host(request, instance, image, checkpoint).await;
        }
        let id = request.id.as_str();
        let ids = self.id_ranges.assign(id).context(|| format!("assign user ids to {id}"))?;
        *instance.ids.lock() = Some(ids);
        self.faults.reached(FaultPoint::UserIds)?;
        let namespace = self.namespaces.reserve();
        instance.namespace.store(namespace, Ordering::Release);
        if request.app.egress.is_sealed() && request.database_connections.is_none() {
            return self.launch_prepared(request, instance, image, checkpoint).await;
        }
        let set_up = self.prepare_set_up(request, instance).await?;
        tokio::select! {
            launched = self.launch_prepared(request, instance, image, checkpoint) => launched,
            never = set_up.serve(|pid| self.set_up_network(request, instance, pid)) => match never {},
        }
    }

    /// Makes an instance whose namespaces are assigned.
    ///
    /// The snapshot is made concurrently with everything else if its layers are known, so an instance may have a task
    /// before it has a snapshot.
    async fn launch_prepared(
        &self,
        request: &StartRequest,
        instance: &RunningContainer,
        image: &UnpackedImage,
        checkpoint: Option<&CheckpointKey>,
    ) -> Result<Endpoint, RuntimeError> {
        let id = request.id.as_str();
        let context = |operation: &'static str| move || format!("{operation} for {id}");
        let start = Instant::now();
        let _fast_changes = (!self.has_fast_cgroup_changes).then(cgroup_changes::keep_fast);
        // Else a group that was removed while it was empty would be made again without limits.
        if !self.node_group.exists() {
            self.set_node_limits(0).await;
        }
        let namespace = instance.namespace.load(Ordering::Acquire);
        self.faults.reached(FaultPoint::Network)?;
        let namespace_took = start.elapsed();

        let parent = checkpoint.map_or_else(|| image.snapshot.clone(), |key| self.checkpoint_snapshot(key));
        let snapshot = async {
            let mounts = snapshots::prepare(&self.client, self.node.as_str(), id, &parent).await?;
            self.faults.reached(FaultPoint::Snapshot)?;
            Ok(mounts)
        };
        let prepare = |mounts| self.prepare(request, instance, image, checkpoint, mounts);
        let (prepared, snapshot_took) = match checkpoint.and_then(|_| self.known_layers.get(&parent)) {
            // Both to their end: containerd may carry out later what it was asked for, and then no caller would remove
            // it.
            Some(known) => {
                let with_time = async { (snapshot.await, Instant::now()) };
                let ((mounts, snapshot_done), prepared) = tokio::join!(with_time, prepare(known.clone()));
                self.known_layers.check_or_record(&parent, &mounts?, Some(&known))?;
                let prepared = prepared?;
                let waited = snapshot_done.saturating_duration_since(prepared.done);
                (prepared, waited)
            }
            None => {
                let mounts = snapshot.await?;
                let took = start.elapsed() - namespace_took;
                self.known_layers.check_or_record(&parent, &mounts, None)?;
                (prepare(mounts).await?, took)
            }
        };
        let before_start = Instant::now();
        let at = self.node_dir.disk_mount_point(&request.id);
        let started = task::start_task(&self.client, id, &self.faults).await;
        // The overlay and `/dev/shm` keep the disk. It stays attached until then, because a restore mounts `/dev/shm` only
        // when it starts.
        let detached = blocking(move || tmpfs::detach(&at)).await;
        // Whatever the reason is, the next instance must not fail because the shim is gone.
        let pid = started.inspect_err(|_| self.shared_shim.invalidate())?;
        // By now runc has made the group of a restored instance.
        instance.apply_yielding();
        // One that the server set up is held already.
        if self.namespaces.file(namespace).is_none()
            && let Err(error) = self.namespaces.hold_own(namespace, pid, id)
        {
            // It has ended already, which is reported as its exit.
            tracing::debug!(id, %error, "failed to open the network of an instance");
        }
        detached.context(context("detach the disk"))?;
        self.record_database_port(&request.id, instance)?;
        let micros = |took: Duration| took.as_micros() as u64;
        // The case `restore` of perf/ measures by these names. A step beside another one counts as long as it alone is
        // waited for.
        tracing::debug!(
            id,
            restored = checkpoint.is_some(),
            namespace_micros = micros(namespace_took),
            snapshot_micros = micros(snapshot_took),
            files_micros = micros(prepared.files),
            container_micros = micros(prepared.record),
            task_micros = micros(prepared.task),
            start_micros = micros(before_start.elapsed()),
            "launched"
        );
        Ok(Endpoint::Sealed { namespace, port: image.config.port(&request.app)? })
    }

    /// Makes everything but the network and the snapshot, up to a task that can be started.
    async fn prepare(
        &self,
        request: &StartRequest,
        instance: &RunningContainer,
        image: &UnpackedImage,
        checkpoint: Option<&CheckpointKey>,
        mut mounts: Vec<Mount>,
    ) -> Result<Preparation, RuntimeError> {
        let id = request.id.as_str();
        let start = Instant::now();
        let spec = self.container_spec(request, instance, image, checkpoint)?;
        let ids = *instance.ids.lock();
        let handler = request.app.runtime.as_ref();
        let shim = match handler {
            None => self.shared_shim.get(&self.client).await,
            Some(_) => None,
        };
        let is_traced = request.will_be_baked
            && checkpoint.is_none()
            && self.criu_version.is_some()
            && handler.is_none()
            && !request.app.share_memory.is_off();
        let draft = ContainerDraft {
            id,
            node: self.node.as_str(),
            image: &image.name,
            namespace: instance.namespace.load(Ordering::Acquire),
            shim: shim.as_deref(),
            spec: &spec,
            handler,
            input: &self.node_dir.input_pipe(&request.id),
            output: &self.node_dir.output_pipe(&request.id),
            output_owner: ids.map_or((0, 0), |ids| {
                let (user, group) = spec::output_owner(&request.app, &image.config);
                (ids.on_host(user), ids.on_host(group))
            }),
            work_dir: &self.node_dir.instance_dir(&request.id),
            checkpoint: checkpoint.map(|key| (key, self.checkpoints.images_dir(key))),
            madvise_trace: is_traced.then_some(&instance.madvise_trace),
            restorer: checkpoint.and(self.restorer.as_deref()),
            faults: &self.faults,
        };
        let files = async {
            (self.prepare_files(request, instance, image, checkpoint, &mounts).await, start.elapsed())
        };
        // Both to their end, as in `launch`.
        let (recorded, (files_written, files)) =
            tokio::join!(record::create_record(&self.client, &draft), files);
        files_written?;
        recorded?;
        let record = start.elapsed() - files;
        let is_mounted_by_restorer = draft.restorer.is_some();
        let disk = self.node_dir.disk_mount_point(&request.id);
        disk::redirect_overlay(&mut mounts, &disk, ids.filter(|_| !is_mounted_by_restorer));
        if is_mounted_by_restorer {
            let context = || format!("write how to mount the root of {id}");
            mount_by_restorer(&mut mounts, &self.node_dir.instance_dir(&request.id)).context(context)?;
        }
        if request.will_be_baked && checkpoint.is_none() {
            disk::give_file_handles(&mut mounts);
        }
        let task = task::create_task(&self.client, &draft, mounts).await;
        task.inspect_err(|_| self.shared_shim.invalidate())?;
        instance.apply_yielding();
        let done = Instant::now();
        Ok(Preparation { files, record, task: done - start - files - record, done })
    }

    /// Makes the instance's folder, its disk and its first files.
    async fn prepare_files(
        &self,
        request: &StartRequest,
        instance: &RunningContainer,
        image: &UnpackedImage,
        checkpoint: Option<&CheckpointKey>,
        mounts: &[Mount],
    ) -> Result<(), RuntimeError> {
        let context = |operation: &'static str| move || format!("{operation} for {}", request.id);
        let output = self
            .node_dir
            .create_instance_dir(&request.id)
            .context(context("create a pipe for the output"))?;
        instance.keep_output(output);
        if let Some(yielding) = &instance.yielding {
            yielding.begin().context(context("begin to yield"))?;
        }
        self.faults.reached(FaultPoint::Folder)?;
        self.record_egress_link(request, instance)?;
        let ids = *instance.ids.lock();
        let disk = Disk::create(request.app.limits.container_disk(), ids)
            .map(Arc::new)
            .context(context("create a disk"))?;
        *instance.disk.lock() = Some(disk.clone());
        let layer = LayerWriter::open(&disk.upper_dir(), mounts, ids).context(context("open the layers"))?;
        let egress = &request.app.egress;
        let resolvers = (!egress.is_sealed()).then(|| self.egress_links.resolv_conf(egress));
        if let Some(key) = checkpoint {
            disk.fill_shm(&self.checkpoints.shm_dir(key), ids).await?;
        } else {
            make_volumes(&layer, &image.config, &request.id);
        }
        write_first_files(&layer, request, checkpoint.is_none(), resolvers)
            .context(context("write the first files"))?;
        self.faults.reached(FaultPoint::FirstFiles)?;
        let at = self.node_dir.disk_mount_point(&request.id);
        disk.attach(&self.socket, &at).await.context(context("attach the disk"))?;
        self.faults.reached(FaultPoint::Disk)
    }

    fn container_spec(
        &self,
        request: &StartRequest,
        instance: &RunningContainer,
        image: &UnpackedImage,
        checkpoint: Option<&CheckpointKey>,
    ) -> Result<Value, RuntimeError> {
        let network = self.namespaces.path(instance.namespace.load(Ordering::Acquire));
        let folder = self.node_dir.instance_dir(&request.id);
        let walls = match (*instance.ids.lock(), &self.restorer, &network) {
            (Some(ids), Some(program), _) => {
                Walls::Own { ids, program, folder: &folder, is_restored: checkpoint.is_some() }
            }
            (None, _, Some(network)) => Walls::Host { network },
            _ => return Err(RuntimeError::Exhausted("network namespaces")),
        };
        let shared = checkpoint.and_then(|key| self.checkpoints.devices_dir(key));
        let host_paths = HostPaths {
            walls,
            devices: &shared.unwrap_or_else(|| self.node_dir.devices()),
            shm: &disk::shm_dir(&self.node_dir.disk_mount_point(&request.id)),
            criu_config: &self.node_dir.criu_config(checkpoint.is_some()),
            max_open_files: kernel::max_open_files(),
            cgroup: &self.node_group.instance_path(request.id.as_str()),
            apparmor: self.apparmor,
            accounts: instance.ids.lock().map(|_| self.account_limits),
        };
        spec::container_spec(request, &image.config, &host_paths)
    }
}
