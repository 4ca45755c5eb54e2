//! An instance ends, by itself or by us.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::instances::Running;
use crate::instance::InstanceId;
use crate::runtime::RuntimeError;
use crate::runtime::blocking::IoContext;
use crate::runtime::containerd::{FaultPoint, Inner, container};

impl Inner {
    /// The container of an instance ended. Unless that was to be, tells whoever listens, and removes what is left.
    pub(crate) async fn ended(
        &self,
        id: &InstanceId,
        instance: &Arc<Running>,
        how: String,
    ) -> Result<(), RuntimeError> {
        // A start that is under way has another container for it if this was a restore that failed.
        let _turn = instance.turn.lock().await;
        if instance.leaves() || matches!(container::lives(&self.client, id.as_str()).await, Ok(Some(_))) {
            return Ok(());
        }
        instance.leave();
        self.instances.tell(id, how);
        self.take_away(id, instance).await
    }

    /// Removes all of an instance, and its place among those that run.
    pub(crate) async fn take_away(
        &self,
        id: &InstanceId,
        instance: &Arc<Running>,
    ) -> Result<(), RuntimeError> {
        instance.leave();
        self.take_back(id, instance).await?;
        self.instances.remove(id, instance);
        instance.gone.cancel();
        let from = instance.from.lock().take();
        if let Some(key) = from.filter(|key| !self.checkpoints.has(key)) {
            self.forget(&key).await;
        }
        Ok(())
    }

    /// Removes what was made of an instance so far.
    pub(crate) async fn take_back(&self, id: &InstanceId, instance: &Running) -> Result<(), RuntimeError> {
        self.namespaces.let_go(instance.namespace.swap(0, Ordering::AcqRel));
        container::remove(&self.client, id.as_str(), &self.watcher).await?;
        // Not before all that could use it has ended.
        let outlet = instance.outlet.lock().take();
        if let Some(outlet) = outlet {
            self.outlets.give_back(outlet).await?;
        }
        instance.disk.lock().take();
        let watch = instance.watch.lock().take();
        if let Some(Ok(watch)) = watch {
            watch.end().await;
        }
        self.folder.remove(id.as_str()).doing(|| format!("remove the folder of {id}"))?;
        self.watcher.done(FaultPoint::NoFolder)
    }
}
