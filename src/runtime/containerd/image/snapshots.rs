//! Writable layers: an overlay on the snapshot of an image, or on the one that a bake committed.

use std::collections::HashMap;
use std::path::PathBuf;

use containerd_client::services::v1::snapshots::{
    CommitSnapshotRequest, ListSnapshotsRequest, MountsRequest, PrepareSnapshotRequest,
    RemoveSnapshotRequest, StatSnapshotRequest, ViewSnapshotRequest,
};
use containerd_client::types::Mount;
use parking_lot::Mutex;

use crate::runtime::RuntimeError;
use crate::runtime::containerd::client;
use crate::runtime::containerd::client::labels::{NODE_LABEL, node_filter};
use crate::runtime::containerd::client::{Client, ResponseExt, request};

/// Name of containerd's snapshotter.
pub(crate) const SNAPSHOTTER: &str = "overlayfs";

/// Label that keeps containerd's garbage collector from a snapshot, which exists before its container does.
const GC_ROOT_LABEL: &str = "containerd.io/gc.root";

fn labels(node: &str) -> HashMap<String, String> {
    HashMap::from([(GC_ROOT_LABEL.to_owned(), "true".to_owned()), (NODE_LABEL.to_owned(), node.to_owned())])
}

/// Makes a writable layer on `parent`, and returns how to mount it.
///
/// # Errors
/// containerd refuses.
pub(crate) async fn prepare(
    client: &Client,
    node: &str,
    key: &str,
    parent: &str,
) -> Result<Vec<Mount>, RuntimeError> {
    let message = PrepareSnapshotRequest {
        snapshotter: SNAPSHOTTER.to_owned(),
        key: key.to_owned(),
        parent: parent.to_owned(),
        labels: labels(node),
    };
    let context = || format!("prepare the snapshot {key}");
    let mut mounts = client.snapshots().prepare(request(message)).await.context(context)?.mounts;
    for mount in mounts.iter_mut().filter(|mount| mount.r#type == "overlay") {
        // Without it, copying a file up would wait for the disk. An instance does not outlive a crash of its host.
        mount.options.push("volatile".to_owned());
    }
    Ok(mounts)
}

/// Makes a snapshot that cannot be written on `parent`, and returns how to mount it.
///
/// # Errors
/// containerd refuses.
pub(crate) async fn view(
    client: &Client,
    node: &str,
    key: &str,
    parent: &str,
) -> Result<Vec<Mount>, RuntimeError> {
    let message = ViewSnapshotRequest {
        snapshotter: SNAPSHOTTER.to_owned(),
        key: key.to_owned(),
        parent: parent.to_owned(),
        labels: labels(node),
    };
    let context = || format!("view the snapshot {parent}");
    Ok(client.snapshots().view(request(message)).await.context(context)?.mounts)
}

/// How layers on a parent are mounted, except for the folders that each layer has for itself.
///
/// When a parent is known, its next layer need not be waited for: containerd writes a snapshot to disk, which takes
/// longer than everything else that is prepared for an instance.
#[derive(Debug, Default)]
pub(crate) struct KnownLayers(Mutex<HashMap<String, Vec<Mount>>>);

impl KnownLayers {
    /// Returns how the next layer on this parent will be mounted, if an earlier one is known.
    pub(crate) fn get(&self, parent: &str) -> Option<Vec<Mount>> {
        self.0.lock().get(parent).cloned()
    }

    /// Records how a layer on this parent is mounted, or compares it with what was expected.
    ///
    /// # Errors
    /// `expected` has other lower layers: the parent was replaced by another snapshot of the same name.
    pub(crate) fn check_or_record(
        &self,
        parent: &str,
        mounts: &[Mount],
        expected: Option<&[Mount]>,
    ) -> Result<(), RuntimeError> {
        match expected {
            Some(expected) if lower_dirs(expected) != lower_dirs(mounts) => {
                self.forget(parent);
                Err(RuntimeError::Start(format!("the snapshot {parent} was replaced meanwhile")))
            }
            Some(_) => Ok(()),
            None => {
                self.0.lock().insert(parent.to_owned(), mounts.to_vec());
                Ok(())
            }
        }
    }

    /// Discards what is known of layers on this parent.
    pub(crate) fn forget(&self, parent: &str) {
        self.0.lock().remove(parent);
    }
}

/// Returns the options that name the lower layers.
fn lower_dirs(mounts: &[Mount]) -> Vec<&str> {
    let options = mounts.iter().flat_map(|mount| &mount.options);
    options.filter_map(|option| option.strip_prefix("lowerdir=")).collect()
}

/// Returns how a writable layer is mounted.
///
/// # Errors
/// containerd refuses, or does not know the snapshot.
pub(crate) async fn mounts(client: &Client, key: &str) -> Result<Vec<Mount>, RuntimeError> {
    let message = MountsRequest { snapshotter: SNAPSHOTTER.to_owned(), key: key.to_owned() };
    let answer = client.snapshots().mounts(request(message)).await;
    Ok(answer.context(|| format!("look up the snapshot {key}"))?.mounts)
}

/// Returns the folder on this host that holds a layer's own files.
pub(crate) fn upper_dir(mounts: &[Mount]) -> Option<PathBuf> {
    let options = mounts.iter().flat_map(|mount| &mount.options);
    options.filter_map(|option| option.strip_prefix("upperdir=")).map(PathBuf::from).next()
}

/// Commits a writable layer as the snapshot `name`, so that other layers can be made on it.
///
/// # Errors
/// containerd refuses.
pub(crate) async fn commit(client: &Client, node: &str, key: &str, name: &str) -> Result<(), RuntimeError> {
    let message = CommitSnapshotRequest {
        snapshotter: SNAPSHOTTER.to_owned(),
        name: name.to_owned(),
        key: key.to_owned(),
        labels: labels(node),
    };
    client.snapshots().commit(request(message)).await.context(|| format!("commit the snapshot {key}"))
}

/// Returns whether containerd has a snapshot.
///
/// # Errors
/// containerd does not answer.
pub(crate) async fn exists(client: &Client, key: &str) -> Result<bool, RuntimeError> {
    let message = StatSnapshotRequest { snapshotter: SNAPSHOTTER.to_owned(), key: key.to_owned() };
    let found = client.snapshots().stat(request(message)).await;
    Ok(found.if_found(|| format!("look up the snapshot {key}"))?.is_some())
}

/// Removes a snapshot. One that does not exist is no error.
///
/// # Errors
/// Other snapshots are based on it, or containerd does not answer.
pub(crate) async fn remove(client: &Client, key: &str) -> Result<(), RuntimeError> {
    let message = RemoveSnapshotRequest { snapshotter: SNAPSHOTTER.to_owned(), key: key.to_owned() };
    let removed = client.snapshots().remove(request(message)).await;
    removed.if_found(|| format!("remove the snapshot {key}")).map(drop)
}

/// Returns the keys of a node's snapshots, or with `None` of all nodes'. A snapshot comes before those that it is based
/// on.
///
/// # Errors
/// containerd does not answer.
pub(crate) async fn list(client: &Client, node: Option<&str>) -> Result<Vec<String>, RuntimeError> {
    let filters = vec![node_filter(node)];
    let message = ListSnapshotsRequest { snapshotter: SNAPSHOTTER.to_owned(), filters };
    let context = || "list the snapshots".to_owned();
    let mut parts = client.snapshots().list(request(message)).await.context(context)?;
    let mut found = Vec::new();
    while let Some(part) = client::next_message(&mut parts, context).await? {
        found.extend(part.info);
    }
    found.sort_by_key(|info| std::cmp::Reverse(info.created_at.map(|at| (at.seconds, at.nanos))));
    Ok(found.into_iter().map(|info| info.name).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overlay(lower_dirs: &str, own: &str) -> Vec<Mount> {
        let options = [format!("upperdir=/s/{own}/fs"), format!("lowerdir={lower_dirs}")];
        vec![Mount { r#type: "overlay".to_owned(), options: options.to_vec(), ..Mount::default() }]
    }

    #[test]
    fn how_a_layer_is_mounted_is_known_until_its_parent_is_replaced() {
        let known = KnownLayers::default();
        assert_eq!(known.get("base"), None);
        known.check_or_record("base", &overlay("/s/1/fs", "2"), None).unwrap();
        let expected = known.get("base").unwrap();
        known.check_or_record("base", &overlay("/s/1/fs", "3"), Some(&expected)).unwrap();
        assert!(known.get("base").is_some() && known.get("other").is_none());
        known.check_or_record("base", &overlay("/s/4/fs", "5"), Some(&expected)).unwrap_err();
        assert_eq!(known.get("base"), None);
    }
}
