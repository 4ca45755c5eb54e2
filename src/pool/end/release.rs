//! An instance ends: given back by its visitor, or taken down by us.

use std::sync::Arc;

use crate::instance::{Instance, InstanceId};
use crate::pool::Pool;
use crate::store::{RouteChange, StoreError};
use crate::telemetry::ReleaseReason;

impl Pool {
    /// A visitor gives an instance back. It is unreachable when this returns; its app is taken down afterwards.
    pub async fn release(self: &Arc<Self>, id: &InstanceId) -> Result<Instance, StoreError> {
        let (instance, _) = self.ask(self.store.release(id)).await?;
        self.publish(RouteChange::Gone(id.clone()));
        self.metrics.released(id.template(), ReleaseReason::Released);
        // Its own server takes it down when it hears of it.
        if instance.node() == &self.node {
            self.take_down(id.clone());
            self.wake.notify_one();
        }
        Ok(instance)
    }

    /// Stops an instance in the background. If that fails, [`crate::pool::supply::reconcile`] finds it again.
    pub(crate) fn take_down(self: &Arc<Self>, id: InstanceId) {
        // Taken here and not in the task: from now on it is known to be in hand.
        let Some(hold) = self.hands.take(&id) else { return };
        let pool = self.clone();
        let stop = async move {
            if let Err(error) = pool.runtime.stop(&id).await {
                tracing::error!(%id, %error, "an instance could not be stopped; it will be tried again");
            }
            hold.let_go();
        };
        crate::telemetry::task::spawn("pool take down", self.tasks.track_future(stop));
    }
}
