//! An instance becomes a checkpoint, and a checkpoint goes.

use std::io;
use std::sync::Arc;

use super::catalog::{Key, Sharing};
use super::sharing;
use super::sharing::{AllocatorReport, Evidence, NotShared, Watch};
use crate::instance::InstanceId;
use crate::runtime::RuntimeError;
use crate::runtime::blocking::{IoContext, blocking};
use crate::runtime::containerd::container::instances::Running;
use crate::runtime::containerd::image::snapshots;
use crate::runtime::containerd::{FaultPoint, Inner, container};
use crate::template::{App, ShareMemory};

impl Inner {
    /// Freezes a warmed instance into the checkpoint for what it was made of, and removes it.
    pub(crate) async fn bake(
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
        let from = instance.from.lock().clone();
        match from {
            // Another has made it since this one was wanted. A copy has its memory in files of the checkpoint that it is
            // of, and what is frozen may refer to nothing outside.
            Some(from) if from == key && self.checkpoints.has(&key) => {
                return self.take_away(id, instance).await;
            }
            Some(_) => return Err(RuntimeError::Start("a copy of a checkpoint cannot be frozen".to_owned())),
            None => {}
        }
        let frozen = async {
            let sharing = self.freeze(id, instance, &key, app).await?;
            self.checkpoints
                .finish(id.template(), ingredients, sharing)
                .await
                .doing(|| "record the checkpoint".to_owned())?;
            self.watcher.done(FaultPoint::Manifest)
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

    async fn freeze(
        &self,
        id: &InstanceId,
        instance: &Running,
        key: &Key,
        app: &App,
    ) -> Result<Sharing, RuntimeError> {
        let habits = self.examine(id, instance, app).await?;
        // That may have taken a while, and whoever stops it waits for its turn.
        if instance.leaves() {
            return Err(RuntimeError::Start(format!("{id} was stopped before it was frozen")));
        }
        let images = self.checkpoints.begin(key).doing(|| "make a checkpoint".to_owned())?;
        self.watcher.done(FaultPoint::BakeFolder)?;
        instance.leave();
        let work = self.folder.of(id);
        if let Err(error) = container::freeze(&self.client, id.as_str(), &images, &work).await {
            let log = tokio::fs::read_to_string(work.join("dump.log")).await.unwrap_or_default();
            let why: Vec<&str> = log.lines().filter(|line| line.contains("Error")).collect();
            return Err(RuntimeError::Start(format!("{error}; CRIU says: {}", why.join("; "))));
        }
        let given_up = ask(instance, Watch::seen).await;
        // So that whoever tries the program on another app hears of images that it does not understand.
        if cfg!(debug_assertions) {
            let read = blocking(move || sharing::read_and_write_again(&images)).await;
            let count = read.map_err(|why| RuntimeError::Start(format!("CRIU's images: {why}")))?;
            tracing::debug!(id = id.as_str(), count, "all images are understood");
        }
        self.watcher.done(FaultPoint::Freeze)?;
        container::remove_task(&self.client, id.as_str()).await?;
        self.watcher.done(FaultPoint::NoTask)?;
        let evidence = habits.and_then(|habits| Ok(Evidence { habits, given_up: given_up? }));
        let sharing = self.share(id, key, app, evidence).await?;
        self.watcher.done(FaultPoint::Share)?;
        let name = self.snapshot_name(key);
        self.layers.forget(&name);
        snapshots::remove(&self.client, &name).await?;
        let disk = instance.disk.lock().clone();
        let disk = disk.ok_or_else(|| RuntimeError::Start("another server started it".to_owned()))?;
        let mounts = snapshots::mounts(&self.client, id.as_str()).await?;
        let layer = snapshots::own_files(&mounts);
        let layer = layer.ok_or_else(|| RuntimeError::Start("its snapshot is no overlay".to_owned()))?;
        disk.copy_to(&layer).await?;
        snapshots::commit(&self.client, self.node.as_str(), id.as_str(), &name).await?;
        self.watcher.done(FaultPoint::Commit)?;
        Ok(sharing)
    }

    /// What the processes of what runs are made of, or why its copies must not share their memory.
    async fn examine(
        &self,
        id: &InstanceId,
        instance: &Running,
        app: &App,
    ) -> Result<Result<AllocatorReport, String>, RuntimeError> {
        if app.share_memory.is_off() {
            return Ok(Err("its template says so".to_owned()));
        }
        let processes = container::processes(&self.client, id.as_str()).await?;
        let same = processes.clone();
        let habits = match blocking(move || sharing::examine(&same)).await {
            Ok(habits) => habits,
            Err(objection) => return Ok(Err(objection)),
        };
        Ok(match ask(instance, move |watch| watch.misses(&processes)).await {
            Ok(None) => Ok(habits),
            Ok(Some(pid)) => Err(format!("process {pid} was started by a command beside the app")),
            Err(why) => Err(why),
        })
    }

    async fn share(
        &self,
        id: &InstanceId,
        key: &Key,
        app: &App,
        evidence: Result<Evidence, String>,
    ) -> Result<Sharing, RuntimeError> {
        let template = id.template();
        let (most, parts) = (app.limits.container_memory(), app.share_memory == ShareMemory::WithShm);
        let why = match evidence {
            Err(why) => why,
            Ok(evidence) => match self.checkpoints.share(key, most, parts, evidence, &self.watcher).await {
                Ok(shared) => {
                    tracing::info!(template, mebibytes = shared.bytes() >> 20, "copies share their memory");
                    return Ok(Sharing::Shared(shared));
                }
                Err(NotShared::Unchanged(why)) => why,
                Err(error @ NotShared::Spoilt(_)) => return Err(RuntimeError::Start(error.to_string())),
            },
        };
        if !app.share_memory.is_off() {
            tracing::warn!(
                template,
                why,
                "each copy has memory of its own, which takes more of it and more time"
            );
        }
        Ok(Sharing::Not(why))
    }

    /// Removes a checkpoint. Its snapshot may still be stood on; then it goes with the last that does.
    pub(crate) async fn forget(&self, key: &Key) {
        self.layers.forget(&self.snapshot_name(key));
        if let Err(error) = self.checkpoints.remove(key) {
            tracing::warn!(checkpoint = key.as_str(), %error, "a checkpoint's files could not be removed");
        }
        if let Err(error) = snapshots::remove(&self.client, &self.snapshot_name(key)).await {
            tracing::debug!(checkpoint = key.as_str(), %error, "a checkpoint's snapshot is still in use");
        }
    }

    /// The committed snapshot that belongs to a checkpoint.
    pub(crate) fn snapshot_name(&self, key: &Key) -> String {
        format!("golden-{}-{}", self.node, key.as_str())
    }
}

/// Asks whoever watches an instance, or says why nobody can be asked.
async fn ask<T: Send + 'static>(
    instance: &Running,
    question: impl FnOnce(&Watch) -> io::Result<T> + Send + 'static,
) -> Result<T, String> {
    let watch = instance.watch.lock().take();
    let asking = move || {
        let answer = match &watch {
            Some(Ok(watch)) => question(watch).map_err(|error| error.to_string()),
            Some(Err(error)) => Err(error.to_string()),
            None => Err("nobody did".to_owned()),
        };
        (answer, watch)
    };
    let (answer, watch) = blocking(asking).await;
    // It ends with the instance.
    *instance.watch.lock() = watch;
    answer.map_err(|why| format!("what it did with its memory could not be watched: {why}"))
}
