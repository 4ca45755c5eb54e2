//! An instance's process dies.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::gc::is_living;
use crate::instance::{Instance, InstanceId};
use crate::pool::Supply;
use crate::runtime::Exit;
use crate::store::{RouteChange, StoreError};
use crate::telemetry::ReleaseReason;

/// Handles the runtime's exit events in their order, until the pools shut down.
pub(in crate::pool) async fn watch_exits(supply: Arc<Supply>, mut exits: mpsc::UnboundedReceiver<Exit>) {
    while let Some(Some(exit)) = supply.shared.stopping.run_until_cancelled(exits.recv()).await {
        // A task that has locked the instance handles its death.
        if !supply.in_flight.report_death(&exit.id) {
            supply.fail(&exit.id, &exit.cause).await;
        }
    }
}

impl Supply {
    /// Fails an instance that died: it is not assigned to a visitor any more, and the visitor who has it gets a page
    /// that says so.
    pub(in crate::pool) async fn fail(self: &Arc<Self>, id: &InstanceId, cause: &str) {
        match self.shared.store.fail(id).await {
            Ok(before) => {
                tracing::warn!(%id, cause, state = before.state().name(), "instance failed");
                if let Ok(Some(ended)) = before.failed(self.shared.clock.now()) {
                    self.shared.publish_route(RouteChange::Set(ended));
                }
                self.shared.metrics.record_release(id.template(), ReleaseReason::Failed);
            }
            // It was released, retired or expired at the same moment, possibly by another node.
            Err(StoreError::Unknown | StoreError::Refused(_)) => {
                if let Ok(record) = self.shared.store.get(id).await
                    && !record.as_ref().is_some_and(is_living)
                {
                    self.publish_end(id, record);
                }
            }
            Err(error) => {
                tracing::warn!(%id, %error, "failed to record instance failure");
                self.shared.garbage_collect_soon();
            }
        }
        self.stop_in_background(id.clone());
        self.shared.wake.notify_one();
    }

    /// Closes the route of an instance that is over on record, which the store's stream of events may not have reported
    /// yet: its visitor gets an answer that says that it has ended, not that its app does not respond.
    pub(super) fn publish_end(&self, id: &InstanceId, record: Option<Instance>) {
        self.shared.publish_route(record.map_or_else(|| RouteChange::Gone(id.clone()), RouteChange::Set));
        self.shared.wake.notify_one();
    }
}
