//! What a server that crashed left: what still runs is picked up, the rest is removed.

pub(super) mod orphans;
use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use containerd_client::services::v1::{Container, ListContainersRequest};

use super::checkpoint::catalog::{Catalog, Key};
use super::checkpoint::sharing;
use super::client::{self, Answer, Client, request};
use super::container::{self, CHECKPOINT_LABEL, NAMESPACE_LABEL};
use super::host::shared_shim;
use super::image::snapshots;
use super::{FaultPoint, Inner, Watcher};
use crate::instance::InstanceId;
use crate::runtime::RuntimeError;
use crate::runtime::blocking::IoContext;

/// CRIU needs a moment to see that what it freezes is gone.
const LOOKS: usize = 500;
const PAUSE: Duration = Duration::from_millis(10);

/// Picks up the containers of this node that run, for the pool to judge, and removes everything else of this node: dead
/// containers, snapshots that belong to none, folders, checkpoints without their snapshot or of an older version.
pub(super) async fn take_over(parts: &Inner) -> Result<(), RuntimeError> {
    let node = parts.node.as_str();
    let doing = || "clean the folder for containers".to_owned();
    let folders = parts.folder.list().doing(doing)?;
    // A shim whose server died while it was starting a container waits for somebody to read the output, and whoever asks
    // for the task waits with it.
    let readers: Vec<_> = folders.iter().filter_map(|id| parts.folder.open_output_of(id).ok()).collect();
    let mut kept = HashSet::new();
    for container in containers(&parts.client, Some(node)).await? {
        if adopt(parts, &container).await? {
            tracing::info!(id = container.id, "picked up an instance that still runs");
            kept.insert(container.id);
        } else {
            container::remove(&parts.client, &container.id, &parts.watcher).await?;
        }
    }
    drop(readers);
    for id in folders.iter().filter(|id| !kept.contains(*id)) {
        if orphans::end(&parts.address, id).await? {
            tracing::info!(id, "ended what containerd had lost");
        }
    }
    parts.outlets.take_over().await?;
    finish_cleaning(&parts.checkpoints).await.doing(doing)?;
    for key in parts.checkpoints.outdated() {
        parts.forget(&key).await;
    }
    let found = snapshots::list(&parts.client, Some(node)).await?;
    for key in parts.checkpoints.keys() {
        if !found.contains(&parts.snapshot_name(&key)) {
            parts.forget(&key).await;
        }
    }
    let stood_on = parts.checkpoints.keys().into_iter().chain(parts.instances.stood_on());
    let golden: HashSet<String> = stood_on.map(|key| parts.snapshot_name(&key)).collect();
    for snapshot in found.into_iter().filter(|key| !kept.contains(key) && !golden.contains(key)) {
        if let Err(error) = snapshots::remove(&parts.client, &snapshot).await {
            tracing::warn!(snapshot, %error, "a snapshot that nobody owns is still there");
        }
    }
    for id in folders.iter().filter(|id| !kept.contains(*id)) {
        parts.folder.remove(id).doing(doing)?;
    }
    Ok(())
}

/// CRIU may be writing to a checkpoint that its server did not live to see whole, until it finds that what it freezes is
/// gone.
async fn finish_cleaning(checkpoints: &Catalog) -> io::Result<()> {
    for _ in 0..LOOKS {
        match checkpoints.clean() {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => tokio::time::sleep(PAUSE).await,
            outcome => return outcome,
        }
    }
    checkpoints.clean()
}

/// Whether it could be picked up.
async fn adopt(parts: &Inner, container: &Container) -> Result<bool, RuntimeError> {
    let id = InstanceId::parse(&container.id).ok();
    let namespace = container.labels.get(NAMESPACE_LABEL).and_then(|number| number.parse().ok());
    let (Some(id), Some(namespace)) = (id, namespace) else { return Ok(false) };
    // One whose shim is gone cannot be looked at, and is as good as dead.
    let Some(pid) = container::lives(&parts.client, &container.id).await.unwrap_or(None) else {
        return Ok(false);
    };
    let from = container.labels.get(CHECKPOINT_LABEL).map(|name| Key::of(name));
    let picked_up = parts.adopt(&id, namespace, pid, from);
    if let Err(error) = &picked_up {
        tracing::warn!(%id, %error, "an instance that still runs is given up");
    }
    Ok(picked_up.is_ok())
}

impl Inner {
    /// Takes over an instance that a server before this one started: its network's number, its first process, and what it
    /// was restored from.
    fn adopt(
        &self,
        id: &InstanceId,
        namespace: u32,
        pid: u32,
        from: Option<Key>,
    ) -> Result<(), RuntimeError> {
        self.watcher.done(FaultPoint::Adoption)?;
        let doing = || format!("pick up {id}");
        let record = self.folder.outlet(id).doing(doing)?;
        let output = self.folder.open_output(id).doing(doing)?;
        self.namespaces.adopt(namespace, pid).doing(doing)?;
        // Last of what may fail: what was adopted there counts as in use.
        let outlet = record.map(|record| self.outlets.adopt(record, pid)).transpose().doing(doing)?;
        if let Some(instance) = self.instances.enter(id, super::LOG_LIMIT) {
            instance.namespace.store(namespace, Ordering::Release);
            *instance.from.lock() = from;
            *instance.outlet.lock() = outlet;
            instance.keep_output(output);
        }
        Ok(())
    }
}

pub(super) async fn containers(client: &Client, node: Option<&str>) -> Result<Vec<Container>, RuntimeError> {
    let message = ListContainersRequest { filters: vec![client::of_node(node)] };
    let answer = client.containers().list(request(message)).await;
    Ok(answer.doing(|| "list the containers".to_owned())?.containers)
}

/// Removes everything of ours from a containerd, of all nodes, whether their servers run or not. Returns how many
/// containers and how many snapshots that were.
///
/// # Errors
/// containerd does not answer, or something resists.
pub async fn clean(address: &Path) -> Result<(usize, usize), RuntimeError> {
    let client = Client::connect(address).await?;
    let mut found = containers(&client, None).await?;
    // The shim that all share ends with its last container, if that is the one that keeps it.
    found.sort_by_key(|container| shared_shim::is_keeper(&container.id));
    for container in &found {
        match shared_shim::is_keeper(&container.id) {
            true => shared_shim::remove(&client, &container.id).await?,
            false => container::remove(&client, &container.id, &Watcher::default()).await?,
        }
        orphans::end(address, &container.id).await?;
    }
    let layers = snapshots::list(&client, None).await?;
    for snapshot in &layers {
        snapshots::remove(&client, snapshot).await?;
    }
    sharing::clean(address).await.doing(|| "let go of the memory of checkpoints".to_owned())?;
    Ok((found.len(), layers.len()))
}
