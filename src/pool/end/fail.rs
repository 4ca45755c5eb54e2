//! An instance's process dies.

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::instance::InstanceId;
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
            // It was released, retired or expired at the same moment.
            Err(StoreError::Unknown | StoreError::Refused(_)) => {}
            Err(error) => {
                tracing::warn!(%id, %error, "failed to record instance failure");
                self.shared.garbage_collect_soon();
            }
        }
        self.stop_in_background(id.clone());
        self.shared.wake.notify_one();
    }
}
