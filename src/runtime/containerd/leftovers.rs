//! What a server that crashed left: what still runs is picked up, the rest is removed.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use containerd_client::services::v1::{Container, ListContainersRequest};

use super::super::RuntimeError;
use super::super::host::Doing;
use super::client::{self, Answer, Client, request};
use super::container::{self, NAMESPACE_LABEL};
use super::golden::Key;
use super::{Parts, shim, snapshots};
use crate::instance::InstanceId;

/// Picks up the containers of this node that run, for the pool to judge, and removes everything else of this node: dead
/// containers, snapshots that belong to none, folders, checkpoints without their snapshot.
pub(super) async fn take_over(parts: &Parts) -> Result<(), RuntimeError> {
    let node = parts.node.as_str();
    let mut kept = HashSet::new();
    for container in containers(&parts.client, Some(node)).await? {
        if adopt(parts, &container).await? {
            tracing::info!(id = container.id, "picked up an instance that still runs");
            kept.insert(container.id);
        } else {
            container::remove(&parts.client, &container.id).await?;
        }
    }
    let golden: HashMap<String, Key> =
        parts.checkpoints.keys().into_iter().map(|key| (parts.snapshot_name(&key), key)).collect();
    let found = snapshots::list(&parts.client, Some(node)).await?;
    for (snapshot, key) in &golden {
        if !found.contains(snapshot) {
            parts.forget(key).await;
        }
    }
    for snapshot in found.into_iter().filter(|name| !kept.contains(name) && !golden.contains_key(name)) {
        if let Err(error) = snapshots::remove(&parts.client, &snapshot).await {
            tracing::warn!(snapshot, %error, "a snapshot that nobody owns is still there");
        }
    }
    let doing = || "clean the folder for containers".to_owned();
    for id in parts.folder.list().doing(doing)?.iter().filter(|id| !kept.contains(*id)) {
        parts.folder.remove(id).doing(doing)?;
    }
    Ok(())
}

/// Whether it could be picked up.
async fn adopt(parts: &Parts, container: &Container) -> Result<bool, RuntimeError> {
    let id = InstanceId::parse(&container.id).ok();
    let namespace = container.labels.get(NAMESPACE_LABEL).and_then(|number| number.parse().ok());
    let (Some(id), Some(namespace)) = (id, namespace) else { return Ok(false) };
    // One whose shim is gone cannot be looked at, and is as good as dead.
    let process = container::lives(&parts.client, &container.id).await.unwrap_or(None);
    Ok(process.is_some_and(|pid| parts.adopt(&id, namespace, pid).is_ok()))
}

async fn containers(client: &Client, node: Option<&str>) -> Result<Vec<Container>, RuntimeError> {
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
    found.sort_by_key(|container| container.id == shim::KEEPER);
    for container in &found {
        container::remove(&client, &container.id).await?;
    }
    if found.last().is_some_and(|last| last.id == shim::KEEPER) {
        shim::forget(&client).await?;
    }
    let layers = snapshots::list(&client, None).await?;
    for snapshot in &layers {
        snapshots::remove(&client, snapshot).await?;
    }
    Ok((found.len(), layers.len()))
}
