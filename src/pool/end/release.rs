//! A visitor gives an instance back, and its app is stopped.

use std::sync::Arc;

use crate::instance::{Instance, InstanceId};
use crate::pool::Supply;
use crate::store::{RouteChange, StoreError};
use crate::telemetry::{ReleaseReason, task};

impl Supply {
    /// Releases an instance that a visitor has. Returns the record as it was. The instance is unreachable when this
    /// returns; its app is stopped in the background by the node that runs it.
    ///
    /// # Errors
    /// `Unknown` when no visitor has the instance any more; `Unavailable` when the store does not answer in time.
    pub(in crate::pool) async fn release(self: &Arc<Self>, id: &InstanceId) -> Result<Instance, StoreError> {
        let (instance, _) = self.shared.store.release(id).await?;
        self.shared.publish_route(RouteChange::Gone(id.clone()));
        self.shared.metrics.record_release(id.template(), ReleaseReason::Released);
        // A peer stops its own instance when the store's stream reports the release to it.
        if instance.node() == &self.shared.node {
            self.stop_in_background(id.clone());
            self.shared.wake.notify_one();
        }
        Ok(instance)
    }

    /// Stops an instance in the background and drops its database, unless another task works on it. If it cannot be
    /// stopped, that becomes a job, and the garbage collection finds the instance again.
    pub(in crate::pool) fn stop_in_background(self: &Arc<Self>, id: InstanceId) {
        // Locked before the task starts, so that no other task touches the instance from here on.
        let Some(lock) = self.in_flight.lock(&id) else { return };
        let supply = self.clone();
        let stop = async move {
            let stopped = supply.stop_with_database(&id).await;
            lock.unlock();
            if let Err(error) = stopped {
                tracing::error!(%id, %error, "failed to stop instance; retrying later");
                supply.publish_cleanup(id).await;
            }
        };
        task::spawn("pool stop instance", self.tasks.track_future(stop));
    }
}
