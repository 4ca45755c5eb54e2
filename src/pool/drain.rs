//! The server stops.

use std::time::Duration;

use super::Pool;
use crate::telemetry::ReleaseReason;

/// Longest time that one instance may take to stop.
const STOP_DEADLINE: Duration = Duration::from_secs(10);

impl Pool {
    /// Stops making instances, and ends every one that this server runs.
    pub async fn drain(&self) {
        self.stopping.cancel();
        self.tasks.close();
        if tokio::time::timeout(STOP_DEADLINE, self.tasks.wait()).await.is_err() {
            tracing::warn!("some instances were still being made or taken down");
        }
        let running = match self.runtime.list().await {
            Ok(running) => running,
            Err(error) => {
                tracing::error!(%error, "the runtime does not say what runs; nothing was stopped");
                return;
            }
        };
        let stops = running.iter().map(|id| async move {
            match tokio::time::timeout(STOP_DEADLINE, self.runtime.stop(id)).await {
                Ok(Ok(())) => self.metrics.released(id.template(), ReleaseReason::Drained),
                Ok(Err(error)) => tracing::error!(%id, %error, "an instance could not be stopped"),
                Err(_) => tracing::error!(%id, "an instance did not stop in time"),
            }
        });
        futures_util::future::join_all(stops).await;
        tracing::info!(instances = running.len(), "all instances stopped");
    }
}
