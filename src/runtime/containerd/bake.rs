//! An instance becomes a checkpoint, and a checkpoint goes.

use std::sync::Arc;

use super::super::host::Doing;
use super::super::{App, RuntimeError};
use super::golden::Key;
use super::instances::Running;
use super::{Parts, Step, container, snapshots};
use crate::instance::InstanceId;

impl Parts {
    /// Freezes a warmed instance into the checkpoint for what it was made of, and removes it.
    pub(super) async fn bake(
        &self,
        id: &InstanceId,
        instance: &Arc<Running>,
        revision: u64,
        app: &App,
    ) -> Result<(), RuntimeError> {
        let image = self.image(app).await?;
        let ingredients = self.ingredients(revision, &image);
        let ingredients =
            ingredients.ok_or_else(|| RuntimeError::Start("nothing is restored here".to_owned()))?;
        let key = ingredients.key();
        let frozen = async {
            self.freeze(id, instance, &key).await?;
            self.checkpoints
                .finish(id.template(), ingredients)
                .await
                .doing(|| "record the checkpoint".to_owned())?;
            self.watcher.done(Step::Manifest)
        };
        if let Err(error) = frozen.await {
            self.forget(&key).await;
            return Err(error);
        }
        // The checkpoint is whole, and whoever stops what does not belong to anybody stops this too.
        if let Err(error) = self.take_away(id, instance).await {
            tracing::warn!(%id, %error, "what was frozen is still there");
        }
        for older in self.checkpoints.older(id.template(), &key) {
            self.forget(&older).await;
        }
        Ok(())
    }

    async fn freeze(&self, id: &InstanceId, instance: &Running, key: &Key) -> Result<(), RuntimeError> {
        let images = self.checkpoints.begin(key).doing(|| "make a checkpoint".to_owned())?;
        self.watcher.done(Step::BakeFolder)?;
        instance.leave();
        let work = self.folder.of(id);
        if let Err(error) = container::freeze(&self.client, id.as_str(), &images, &work).await {
            let log = tokio::fs::read_to_string(work.join("dump.log")).await.unwrap_or_default();
            let why: Vec<&str> = log.lines().filter(|line| line.contains("Error")).collect();
            return Err(RuntimeError::Start(format!("{error}; CRIU says: {}", why.join("; "))));
        }
        self.watcher.done(Step::Freeze)?;
        container::remove_task(&self.client, id.as_str()).await?;
        self.watcher.done(Step::NoTask)?;
        let name = self.snapshot_name(key);
        snapshots::remove(&self.client, &name).await?;
        let disk = instance.disk.lock().clone();
        let disk = disk.ok_or_else(|| RuntimeError::Start("another server started it".to_owned()))?;
        let mounts = snapshots::mounts(&self.client, id.as_str()).await?;
        let layer = snapshots::own_files(&mounts);
        let layer = layer.ok_or_else(|| RuntimeError::Start("its snapshot is no overlay".to_owned()))?;
        disk.copy_to(&layer).await?;
        snapshots::commit(&self.client, self.node.as_str(), id.as_str(), &name).await?;
        self.watcher.done(Step::Commit)
    }

    /// Removes a checkpoint. Its snapshot may still be stood on; then it goes with the last that does.
    pub(super) async fn forget(&self, key: &Key) {
        if let Err(error) = self.checkpoints.remove(key) {
            tracing::warn!(checkpoint = key.as_str(), %error, "a checkpoint's files could not be removed");
        }
        if let Err(error) = snapshots::remove(&self.client, &self.snapshot_name(key)).await {
            tracing::debug!(checkpoint = key.as_str(), %error, "a checkpoint's snapshot is still in use");
        }
    }

    /// The committed snapshot that belongs to a checkpoint.
    pub(super) fn snapshot_name(&self, key: &Key) -> String {
        format!("golden-{}-{}", self.node, key.as_str())
    }
}
