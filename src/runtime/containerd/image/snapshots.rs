//! Writable layers: an overlay on an image's snapshot, or on the one that was committed at a bake.

use std::collections::HashMap;
use std::path::PathBuf;

use containerd_client::services::v1::snapshots::{
    CommitSnapshotRequest, ListSnapshotsRequest, MountsRequest, PrepareSnapshotRequest,
    RemoveSnapshotRequest, StatSnapshotRequest,
};
use containerd_client::types::Mount;
use parking_lot::Mutex;

use crate::runtime::RuntimeError;
use crate::runtime::containerd::client;
use crate::runtime::containerd::client::{Answer, Client, request};

/// Which of containerd's snapshotters.
pub(crate) const SNAPSHOTTER: &str = "overlayfs";

/// Keeps containerd's garbage collector away: a snapshot exists before the container that refers to it does.
const KEPT: &str = "containerd.io/gc.root";

fn labels(node: &str) -> HashMap<String, String> {
    HashMap::from([
        (KEPT.to_owned(), "true".to_owned()),
        (crate::runtime::containerd::NODE_LABEL.to_owned(), node.to_owned()),
    ])
}

/// Makes a writable layer on `parent` and says how to mount it.
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
    let doing = || format!("prepare the snapshot {key}");
    let mut mounts = client.snapshots().prepare(request(message)).await.doing(doing)?.mounts;
    for mount in mounts.iter_mut().filter(|mount| mount.r#type == "overlay") {
        // Copying a file up would otherwise wait for the disk, and an instance does not outlive a crash of its host.
        mount.options.push("volatile".to_owned());
    }
    Ok(mounts)
}

/// How layers on a parent are mounted, but for the folders that each has for itself. Known from the first on, it need not
/// be waited for: containerd keeps a snapshot on disk, which takes longer than all that is done for an instance meanwhile.
#[derive(Debug, Default)]
pub(crate) struct KnownLayers(Mutex<HashMap<String, Vec<Mount>>>);

impl KnownLayers {
    /// How one on this parent will be mounted, if one was before.
    pub(crate) fn of(&self, parent: &str) -> Option<Vec<Mount>> {
        self.0.lock().get(parent).cloned()
    }

    /// One on this parent is mounted so.
    ///
    /// # Errors
    /// `expected` stands on other layers: the parent was replaced by another of its name.
    pub(crate) fn learn(
        &self,
        parent: &str,
        mounts: &[Mount],
        expected: Option<&[Mount]>,
    ) -> Result<(), RuntimeError> {
        match expected {
            Some(expected) if below(expected) != below(mounts) => {
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

    pub(crate) fn forget(&self, parent: &str) {
        self.0.lock().remove(parent);
    }
}

/// The layers that these stand on.
fn below(mounts: &[Mount]) -> Vec<&str> {
    let options = mounts.iter().flat_map(|mount| &mount.options);
    options.filter_map(|option| option.strip_prefix("lowerdir=")).collect()
}

/// How a writable layer is mounted.
pub(crate) async fn mounts(client: &Client, key: &str) -> Result<Vec<Mount>, RuntimeError> {
    let message = MountsRequest { snapshotter: SNAPSHOTTER.to_owned(), key: key.to_owned() };
    let answer = client.snapshots().mounts(request(message)).await;
    Ok(answer.doing(|| format!("look at the snapshot {key}"))?.mounts)
}

/// The folder on this host in which a layer's own files lie.
pub(crate) fn own_files(mounts: &[Mount]) -> Option<PathBuf> {
    let options = mounts.iter().flat_map(|mount| &mount.options);
    options.filter_map(|option| option.strip_prefix("upperdir=")).map(PathBuf::from).next()
}

/// Makes a writable layer one to stand on.
pub(crate) async fn commit(client: &Client, node: &str, key: &str, name: &str) -> Result<(), RuntimeError> {
    let message = CommitSnapshotRequest {
        snapshotter: SNAPSHOTTER.to_owned(),
        name: name.to_owned(),
        key: key.to_owned(),
        labels: labels(node),
    };
    client.snapshots().commit(request(message)).await.doing(|| format!("commit the snapshot {key}"))
}

pub(crate) async fn exists(client: &Client, key: &str) -> Result<bool, RuntimeError> {
    let message = StatSnapshotRequest { snapshotter: SNAPSHOTTER.to_owned(), key: key.to_owned() };
    let found = client.snapshots().stat(request(message)).await;
    Ok(found.if_known(|| format!("look for the snapshot {key}"))?.is_some())
}

/// Removes it; one that is not there is no error, one that others stand on is.
pub(crate) async fn remove(client: &Client, key: &str) -> Result<(), RuntimeError> {
    let message = RemoveSnapshotRequest { snapshotter: SNAPSHOTTER.to_owned(), key: key.to_owned() };
    let removed = client.snapshots().remove(request(message)).await;
    removed.if_known(|| format!("remove the snapshot {key}")).map(drop)
}

/// The keys of a node's snapshots, or of all nodes'. Those that others stand on come after those.
pub(crate) async fn list(client: &Client, node: Option<&str>) -> Result<Vec<String>, RuntimeError> {
    let filters = vec![client::of_node(node)];
    let message = ListSnapshotsRequest { snapshotter: SNAPSHOTTER.to_owned(), filters };
    let doing = || "list the snapshots".to_owned();
    let mut parts = client.snapshots().list(request(message)).await.doing(doing)?;
    let mut found = Vec::new();
    while let Some(part) = client::next(&mut parts, doing).await? {
        found.extend(part.info);
    }
    found.sort_by_key(|info| std::cmp::Reverse(info.created_at.map(|at| (at.seconds, at.nanos))));
    Ok(found.into_iter().map(|info| info.name).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overlay(below: &str, own: &str) -> Vec<Mount> {
        let options = [format!("upperdir=/s/{own}/fs"), format!("lowerdir={below}")];
        vec![Mount { r#type: "overlay".to_owned(), options: options.to_vec(), ..Mount::default() }]
    }

    #[test]
    fn what_a_layer_stands_on_is_known_until_it_is_another() {
        let known = KnownLayers::default();
        assert_eq!(known.of("golden"), None);
        known.learn("golden", &overlay("/s/1/fs", "2"), None).unwrap();
        let expected = known.of("golden").unwrap();
        known.learn("golden", &overlay("/s/1/fs", "3"), Some(&expected)).unwrap();
        assert!(known.of("golden").is_some() && known.of("other").is_none());
        known.learn("golden", &overlay("/s/4/fs", "5"), Some(&expected)).unwrap_err();
        assert_eq!(known.of("golden"), None);
    }
}
