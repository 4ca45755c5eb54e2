//! Another server process takes the place of this one.

use std::sync::Arc;
use std::time::Duration;

use crate::pool::Pool;

/// Longest wait for the answers that are on their way to visitors.
const DELIVERY_DEADLINE: Duration = Duration::from_secs(5);
const DELIVERY_LOOK_INTERVAL: Duration = Duration::from_millis(5);
/// Parts of the pool that hold the ledger; each further one is an answer that is on its way.
const LEDGER_HOLDERS: usize = 2;

impl Pool {
    /// Returns why another process cannot take the place of this one; `None` if it can.
    pub fn handover_obstacle(&self) -> Option<&'static str> {
        (!self.supply.outlives_server())
            .then_some("its instances end with it (CONTAINER_MODE): restart it instead")
    }

    /// Ends all that this process does for its node: attempts in progress are undone, claims are completed, and every
    /// instance runs on for another process. No request may begin any more; the apps can still be reached.
    pub async fn hand_over(&self) {
        let delivered = async {
            while Arc::strong_count(&self.claims.ledger) > LEDGER_HOLDERS {
                tokio::time::sleep(DELIVERY_LOOK_INTERVAL).await;
            }
        };
        if tokio::time::timeout(DELIVERY_DEADLINE, delivered).await.is_err() {
            tracing::warn!("some answers to visitors are still on their way");
        }
        self.shared.membership.cease().await;
        self.end_tasks().await;
        self.supply.runtime.hand_over().await;
    }
}
