//! Takes over a node after a restart of its server: adopts the instances that still run, and removes everything else.

use std::path::PathBuf;
use std::sync::atomic::Ordering;

use bollard::query_parameters::ListNetworksOptions;
use futures_util::{StreamExt, TryStreamExt, stream};

use super::connection::Connection;
use super::failure::EngineContext;
use super::inner::{Inner, ListedContainer, list_containers};
use super::labels;
use super::settings::{EngineKind, Reach};
use super::stop::remove_container;
use crate::runtime::{CleanScope, RuntimeError};

/// Containers that are adopted or removed at a time.
const AT_ONCE: usize = 4;

/// Adopts the containers of this node that run, which the pool then compares with the store, and removes all others of
/// this node.
///
/// # Errors
/// The engine does not answer, or a container cannot be removed.
pub(super) async fn take_over(inner: &Inner) -> Result<(), RuntimeError> {
    let found = inner.list_containers(None).await?;
    let work = stream::iter(found.iter().map(|one| async move {
        match one.is_running && adopt(inner, one).await? {
            true => Ok(()),
            false => remove_container(&inner.docker, &one.container).await,
        }
    }));
    work.buffer_unordered(AT_ONCE).try_collect::<()>().await?;
    inner.remove_lost_files().await
}

/// Adopts a container if it runs. Returns whether it did.
async fn adopt(inner: &Inner, one: &ListedContainer) -> Result<bool, RuntimeError> {
    let Some(id) = &one.id else { return Ok(false) };
    let state = inner.inspect(id, &one.container).await?;
    let Some(pid) = state.and_then(|state| state.running_pid()) else { return Ok(false) };
    // The endpoint on record says how the app is reached, so another way cannot be chosen now.
    if one.namespace.is_some() != (inner.reach == Reach::Namespace) {
        return Ok(false);
    }
    let Some(instance) = inner.instances.insert(id) else { return Ok(false) };
    instance.set_container(one.container.clone());
    instance.pid.store(pid, Ordering::Release);
    if let Some(number) = one.namespace {
        inner.namespaces.skip_to(number);
        instance.namespace.store(number, Ordering::Release);
        inner.hold_namespace(number, pid, &one.container);
    }
    tracing::info!(%id, "instance adopted");
    Ok(true)
}

/// Removes the containers and networks of the nodes in `scope` from an engine. Returns how many containers there were.
///
/// # Errors
/// No engine answers, or something cannot be removed.
pub async fn clean(kind: EngineKind, sockets: &[PathBuf], scope: &CleanScope) -> Result<usize, RuntimeError> {
    let Connection { docker, socket, .. } = Connection::open(kind, sockets).await?;
    let mut removed = 0;
    for node in scope.filters() {
        let filters = labels::node_filter(node);
        for one in list_containers(&socket, filters.clone()).await? {
            remove_container(&docker, &one.container).await?;
            removed += 1;
        }
        let networks = docker.list_networks(Some(ListNetworksOptions { filters: Some(filters) })).await;
        let networks = networks.engine_context(|| "list the engine's networks".to_owned())?;
        for network in networks.into_iter().filter_map(|network| network.id) {
            let gone = docker.remove_network(&network).await;
            gone.if_found(|| format!("remove the network {network}"))?;
        }
    }
    Ok(removed)
}
