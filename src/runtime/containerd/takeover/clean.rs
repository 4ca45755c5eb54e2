//! The removal of what nodes stored in a containerd (`try-it-now clean`).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::instance::NodeId;
use crate::runtime::blocking::IoContext;
use crate::runtime::containerd::checkpoint::sharing;
use crate::runtime::containerd::client::Client;
use crate::runtime::containerd::container::record::list_containers;
use crate::runtime::containerd::container::task;
use crate::runtime::containerd::fault_points::FaultInjector;
use crate::runtime::containerd::host::{id_ranges, node_dir, orphans, shared_shim};
use crate::runtime::containerd::image::snapshots;
use crate::runtime::{CleanScope, RuntimeError};

/// What [`clean()`] did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cleaned {
    /// The number of containers that were removed, those of shared shims included.
    pub containers: usize,
    /// The number of snapshots that were removed.
    pub snapshots: usize,
    /// The number of containers and snapshots of nodes that are not in the scope, which stay.
    pub remaining: usize,
}

/// Removes what the nodes in `scope` stored in a containerd. `folders` are the folders for containers of the known ones
/// among them. The shim that all nodes share is removed when no node has anything in this containerd any more.
///
/// # Errors
/// containerd does not answer, or something cannot be removed.
pub async fn clean(socket: &Path, scope: &CleanScope, folders: &[PathBuf]) -> Result<Cleaned, RuntimeError> {
    let client = Client::connect(socket).await?;
    let mut ids = BTreeSet::new();
    for node in scope.filters() {
        let of_node = list_containers(&client, node.map(NodeId::as_str)).await?;
        ids.extend(of_node.into_iter().map(|container| container.id));
    }
    ids.retain(|id| !shared_shim::is_shim_container(id));
    let mut containers = ids.len();
    for id in &ids {
        task::remove_container(&client, id, &FaultInjector::default()).await?;
        orphans::remove(socket, id).await?;
    }
    let mut layers = Vec::new();
    for node in scope.filters() {
        layers.extend(snapshots::list(&client, node.map(NodeId::as_str)).await?);
    }
    let left = snapshots::list(&client, None).await?;
    let mut remaining = left.iter().filter(|layer| !layers.contains(layer)).count();
    let left = list_containers(&client, None).await?.into_iter().map(|container| container.id);
    let (shims, left): (Vec<_>, Vec<_>) = left.partition(|id| shared_shim::is_shim_container(id));
    remaining += left.len();
    // A server that has nothing here at this moment notices that its shim has ended, and makes another one.
    for shim in shims.iter().filter(|_| remaining == 0) {
        shared_shim::remove(&client, shim).await?;
        orphans::remove(socket, shim).await?;
        containers += 1;
    }
    // A shim may have started a restore meanwhile, which may have created what was removed above. A server may also have
    // been killed after it removed a record and before it removed runc's files; it removes an instance's folder last.
    ids.extend(folders.iter().flat_map(|folder| node_dir::instances_in(folder).unwrap_or_default()));
    if *scope == CleanScope::All {
        ids.extend(orphans::list_states(socket).await);
    }
    for id in &ids {
        orphans::remove(socket, id).await?;
    }
    for layer in &layers {
        snapshots::remove(&client, layer).await?;
    }
    id_ranges::release_all_of(scope);
    let shared = sharing::remove_all(socket, scope, folders).await;
    shared.context(|| "unmount the shared memory of checkpoints".to_owned())?;
    Ok(Cleaned { containers, snapshots: layers.len(), remaining })
}
