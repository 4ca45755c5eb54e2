//! The removal of everything that this program stored in a containerd (`try-it-now clean`).

use std::path::Path;

use crate::runtime::RuntimeError;
use crate::runtime::blocking::IoContext;
use crate::runtime::containerd::checkpoint::sharing;
use crate::runtime::containerd::client::Client;
use crate::runtime::containerd::container::record::list_containers;
use crate::runtime::containerd::container::task;
use crate::runtime::containerd::fault_points::FaultInjector;
use crate::runtime::containerd::host::{id_ranges, orphans, shared_shim};
use crate::runtime::containerd::image::snapshots;

/// Removes everything of this program from a containerd, of all nodes, whether their servers run or not: it concerns
/// every user of that containerd. Returns the number of containers and the number of snapshots.
///
/// # Errors
/// containerd does not answer, or something cannot be removed.
pub async fn clean(socket: &Path) -> Result<(usize, usize), RuntimeError> {
    let client = Client::connect(socket).await?;
    let mut found = list_containers(&client, None).await?;
    // The shared shim ends with its last container. The one that keeps it alive comes last.
    found.sort_by_key(|container| shared_shim::is_shim_container(&container.id));
    for container in &found {
        match shared_shim::is_shim_container(&container.id) {
            true => shared_shim::remove(&client, &container.id).await?,
            false => task::remove_container(&client, &container.id, &FaultInjector::default()).await?,
        }
        orphans::remove(socket, &container.id).await?;
    }
    // Only now no shim is left that could still start a restore, which may have created what was removed above. A server
    // may also have been killed after it removed a record and before it removed runc's files.
    let recorded = found.iter().map(|container| container.id.clone());
    for id in recorded.chain(orphans::list_states(socket).await) {
        orphans::remove(socket, &id).await?;
    }
    let layers = snapshots::list(&client, None).await?;
    for snapshot in &layers {
        snapshots::remove(&client, snapshot).await?;
    }
    id_ranges::release_all();
    sharing::remove_all(socket).await.context(|| "unmount the shared memory of checkpoints".to_owned())?;
    Ok((found.len(), layers.len()))
}
