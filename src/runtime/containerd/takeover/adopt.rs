//! Takes over a node after a restart of its server: adopts the instances that still run, and removes everything else.

use std::collections::HashSet;
use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use containerd_client::services::v1::Container;

use crate::instance::InstanceId;
use crate::runtime::RuntimeError;
use crate::runtime::blocking::IoContext;
use crate::runtime::containerd::checkpoint::catalog::Catalog;
use crate::runtime::containerd::checkpoint::manifest::CheckpointKey;
use crate::runtime::containerd::client::labels::{CHECKPOINT_LABEL, NAMESPACE_LABEL};
use crate::runtime::containerd::container::instances::OUTPUT_LOG_BYTES;
use crate::runtime::containerd::container::record::list_containers;
use crate::runtime::containerd::container::task;
use crate::runtime::containerd::fault_points::FaultPoint;
use crate::runtime::containerd::host::node_dir::EGRESS_RECORD;
use crate::runtime::containerd::host::orphans;
use crate::runtime::containerd::image::snapshots;
use crate::runtime::containerd::inner::Inner;

/// Most attempts to remove broken checkpoints. CRIU needs a moment to notice that the processes it freezes are gone.
const MAX_ATTEMPTS: usize = 500;
/// Pause between two attempts.
const RETRY_INTERVAL: Duration = Duration::from_millis(10);

/// Adopts the containers of this node that run, which the pool then compares with the store, and removes everything
/// else of this node: dead containers, snapshots and folders without an instance, checkpoints without their snapshot or
/// of an older revision.
///
/// # Errors
/// containerd does not answer, or something cannot be removed.
pub(crate) async fn take_over(inner: &Inner) -> Result<(), RuntimeError> {
    let node = inner.node.as_str();
    let context = || "clean the folder for containers".to_owned();
    let folders = inner.node_dir.list_instances().context(context)?;
    // If a server died while it started a container, the container's shim opens the output pipe and waits for a reader,
    // and every request to containerd for that task waits with it, up to the deadline of 30 s. So all pipes are held
    // open before containerd is asked.
    let readers: Vec<_> =
        folders.iter().filter_map(|id| inner.node_dir.open_output_by_name(id).ok()).collect();
    let mut kept = HashSet::new();
    for container in list_containers(&inner.client, Some(node)).await? {
        if adopt(inner, &container).await? {
            tracing::info!(id = container.id, "instance adopted");
            kept.insert(container.id);
        } else {
            task::remove_container(&inner.client, &container.id, &inner.faults).await?;
        }
    }
    drop(readers);
    for id in folders.iter().filter(|id| !kept.contains(*id)) {
        if orphans::remove(&inner.socket, id).await? {
            tracing::info!(id, "orphaned container processes killed");
        }
    }
    inner.egress_links.take_over().await?;
    inner.id_ranges.release_others(|id| kept.contains(id));
    remove_broken_checkpoints(&inner.checkpoints).await.context(context)?;
    for key in inner.checkpoints.outdated() {
        inner.remove_checkpoint(&key).await;
    }
    let found = snapshots::list(&inner.client, Some(node)).await?;
    for key in inner.checkpoints.keys() {
        if !found.contains(&inner.checkpoint_snapshot(&key)) {
            inner.remove_checkpoint(&key).await;
        }
    }
    let checkpoints = inner.checkpoints.keys().into_iter().chain(inner.instances.checkpoints_in_use());
    let in_use: HashSet<String> = checkpoints.map(|key| inner.checkpoint_snapshot(&key)).collect();
    for snapshot in found.into_iter().filter(|key| !kept.contains(key) && !in_use.contains(key)) {
        if let Err(error) = snapshots::remove(&inner.client, &snapshot).await {
            tracing::warn!(snapshot, %error, "failed to remove unused snapshot");
        }
    }
    for id in folders.iter().filter(|id| !kept.contains(*id)) {
        inner.node_dir.remove(id).context(context)?;
    }
    Ok(())
}

/// Removes checkpoints that are not complete. CRIU writes on for a moment after the server that froze with it is gone,
/// until it notices that the processes it freezes are gone; so this comes after the removal of the containers, and
/// tries again while files appear.
async fn remove_broken_checkpoints(checkpoints: &Catalog) -> io::Result<()> {
    for _ in 0..MAX_ATTEMPTS {
        match checkpoints.remove_broken() {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
                tokio::time::sleep(RETRY_INTERVAL).await
            }
            outcome => return outcome,
        }
    }
    checkpoints.remove_broken()
}

/// Adopts a container if it runs. Returns whether it did.
async fn adopt(inner: &Inner, container: &Container) -> Result<bool, RuntimeError> {
    let id = InstanceId::parse(&container.id).ok();
    let namespace = container.labels.get(NAMESPACE_LABEL).and_then(|number| number.parse().ok());
    let (Some(id), Some(namespace)) = (id, namespace) else { return Ok(false) };
    // The state of a container whose shim is gone cannot be read: it counts as dead.
    let Some(pid) = task::running_pid(&inner.client, &container.id).await.unwrap_or(None) else {
        return Ok(false);
    };
    let checkpoint = container.labels.get(CHECKPOINT_LABEL).map(|name| CheckpointKey::from_name(name));
    let adopted = inner.adopt(&id, namespace, pid, checkpoint).await;
    if let Err(error) = &adopted {
        tracing::warn!(%id, %error, "failed to adopt running instance; removing it");
    }
    Ok(adopted.is_ok())
}

impl Inner {
    /// Adopts an instance that an earlier server started. `namespace` is the number of its network namespace, `pid` its
    /// first process, `checkpoint` what it was restored from.
    async fn adopt(
        &self,
        id: &InstanceId,
        namespace: u32,
        pid: u32,
        checkpoint: Option<CheckpointKey>,
    ) -> Result<(), RuntimeError> {
        self.faults.reached(FaultPoint::Adoption)?;
        let context = || format!("adopt {id}");
        let record = self.node_dir.record(id, EGRESS_RECORD).context(context)?;
        let output = self.node_dir.open_output(id).context(context)?;
        self.namespaces.adopt(namespace, pid).context(context)?;
        // The last step that may fail: an adopted link counts as in use.
        let link = record.map(|record| self.egress_links.adopt(record, pid)).transpose().context(context)?;
        if let Some(instance) = self.instances.insert(id, OUTPUT_LOG_BYTES, None) {
            instance.namespace.store(namespace, Ordering::Release);
            *instance.checkpoint.lock() = checkpoint;
            *instance.ids.lock() = self.id_ranges.of_instance(id.as_str());
            *instance.egress_link.lock() = link;
            instance.keep_output(output);
            // Its pages without a database still serve, and a visitor may have it.
            if let Err(error) = self.adopt_database_port(id, &instance).await {
                tracing::error!(%id, %error, "adopted instance cannot reach its database");
            }
        }
        Ok(())
    }
}
