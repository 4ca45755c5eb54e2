//! What a server that crashed left: what still runs is picked up, the rest is removed.

use std::collections::HashSet;
use std::path::Path;

use containerd_client::services::v1::{Container, GetRequest, ListContainersRequest};
use containerd_client::types::v1::Status;

use super::client::{Answer, Client, request};
use super::container::{self, NAMESPACE_LABEL};
use super::{NODE_LABEL, Parts, RuntimeError, snapshots};
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
    let golden: HashSet<String> =
        parts.checkpoints.keys().iter().map(|key| parts.snapshot_name(key)).collect();
    let found = snapshots::list(&parts.client, Some(node)).await?;
    for key in parts.checkpoints.keys() {
        if !found.contains(&parts.snapshot_name(&key)) {
            parts.forget(&key).await;
        }
    }
    for snapshot in found.into_iter().filter(|key| !kept.contains(key) && !golden.contains(key)) {
        if let Err(error) = snapshots::remove(&parts.client, &snapshot).await {
            tracing::warn!(snapshot, %error, "a snapshot that nobody owns is still there");
        }
    }
    let on_host = |source| RuntimeError::Io { doing: "clean the folder for containers".to_owned(), source };
    for id in parts.folder.list().map_err(on_host)?.iter().filter(|id| !kept.contains(*id)) {
        parts.folder.remove(id).map_err(on_host)?;
    }
    Ok(())
}

/// Whether it could be picked up.
async fn adopt(parts: &Parts, container: &Container) -> Result<bool, RuntimeError> {
    let id = InstanceId::parse(&container.id).ok();
    let namespace = container.labels.get(NAMESPACE_LABEL).and_then(|number| number.parse().ok());
    let (Some(id), Some(namespace)) = (id, namespace) else { return Ok(false) };
    let message = GetRequest { container_id: container.id.clone(), exec_id: String::new() };
    let task = parts.client.tasks().get(request(message)).await.if_known(|| format!("look at {id}"))?;
    let Some(process) = task.and_then(|answer| answer.process) else { return Ok(false) };
    Ok(process.status() == Status::Running && parts.adopt(&id, namespace, process.pid).is_ok())
}

async fn containers(client: &Client, node: Option<&str>) -> Result<Vec<Container>, RuntimeError> {
    let filter = match node {
        Some(node) => format!("labels.\"{NODE_LABEL}\"==\"{node}\""),
        None => format!("labels.\"{NODE_LABEL}\""),
    };
    let message = ListContainersRequest { filters: vec![filter] };
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
    let found = containers(&client, None).await?;
    for container in &found {
        container::remove(&client, &container.id).await?;
    }
    let layers = snapshots::list(&client, None).await?;
    for snapshot in &layers {
        snapshots::remove(&client, snapshot).await?;
    }
    Ok((found.len(), layers.len()))
}
