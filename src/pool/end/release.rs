//! A visitor gives an instance back, and its app is stopped.

use std::sync::Arc;

use crate::instance::{Instance, InstanceId};
use crate::pool::{Asker, Pool};
use crate::store::{RouteChange, StoreError};
use crate::telemetry::{ReleaseReason, task};

impl Pool {
    /// Releases an instance that a visitor has, for a client who names it. Returns the record as it was. The instance is
    /// unreachable when this returns; its app is stopped in the background by the node that runs it.
    ///
    /// # Errors
    /// `Unknown` when no visitor has the instance any more, or `asker` has used up the budget for unknown ids;
    /// `Unavailable` when the store does not answer in time.
    pub async fn release_for(
        self: &Arc<Self>,
        id: &InstanceId,
        asker: Asker,
    ) -> Result<Instance, StoreError> {
        if !self.may_be_assigned(id, asker).await? {
            return Err(StoreError::Unknown);
        }
        self.release(id).await
    }

    /// Releases an instance that a visitor has, as [`Pool::release_for`] does.
    ///
    /// # Errors
    /// `Unknown` when no visitor has the instance any more; `Unavailable` when the store does not answer in time.
    pub(in crate::pool) async fn release(self: &Arc<Self>, id: &InstanceId) -> Result<Instance, StoreError> {
        let (instance, _) = self.ask(self.store.release(id)).await?;
        self.publish_route(RouteChange::Gone(id.clone()));
        self.metrics.record_release(id.template(), ReleaseReason::Released);
        // A peer stops its own instance when the store's stream reports the release to it.
        if instance.node() == &self.node {
            self.stop_in_background(id.clone());
            self.wake.notify_one();
        }
        Ok(instance)
    }

    /// Stops an instance in the background, unless another task works on it. If that fails, the garbage collection
    /// finds the instance again.
    pub(in crate::pool) fn stop_in_background(self: &Arc<Self>, id: InstanceId) {
        // Locked before the task starts, so that no other task touches the instance from here on.
        let Some(lock) = self.in_flight.lock(&id) else { return };
        let pool = self.clone();
        let stop = async move {
            if let Err(error) = pool.runtime.stop(&id).await {
                tracing::error!(%id, %error, "failed to stop instance; retrying later");
            }
            lock.unlock();
        };
        task::spawn("pool stop instance", self.tasks.track_future(stop));
    }
}
