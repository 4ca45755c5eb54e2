//! The server stops.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use crate::instance::{Instance, InstanceId, State};
use crate::pool::Pool;
use crate::pool::claim::delivery_worker;
use crate::store::StoreError;
use crate::telemetry::ReleaseReason;

/// Longest time that one instance may take to stop.
const STOP_DEADLINE: Duration = Duration::from_secs(10);

impl Pool {
    /// Stops making instances, and ends every one that this server runs; but for those of visitors where both they and
    /// the record of them outlive the server: the next one serves them.
    pub async fn drain(self: &Arc<Self>) {
        self.stopping.cancel();
        // Every answer has arrived by now, or never will.
        delivery_worker::settle(self, true).await;
        self.tasks.close();
        if tokio::time::timeout(STOP_DEADLINE, self.tasks.wait()).await.is_err() {
            tracing::warn!("some instances were still being made or taken down");
        }
        let kept = self.visitors_own().await;
        if self.store.outlives_the_server() {
            // First of all, so that nobody is given what ends now.
            if kept.is_empty() { self.leave().await } else { self.retire_unused().await }
        }
        let running: Vec<InstanceId> = match self.runtime.list().await {
            Ok(running) => running.into_iter().filter(|id| !kept.contains(id)).collect(),
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
        tracing::info!(instances = running.len(), kept = kept.len(), "all instances stopped that nobody has");
    }

    /// Takes back what nobody has.
    async fn retire_unused(&self) {
        let unused = |record: &Instance| matches!(record.life(), State::Warming | State::Ready { .. });
        let records = match self.ask(self.store.list(&self.node)).await {
            Ok(records) => records,
            Err(error) => return tracing::error!(%error, "the store does not say what this server has"),
        };
        for record in records.into_iter().filter(unused) {
            match self.ask(self.store.retire(record.id())).await {
                // A visitor who was faster lost it all the same; the next server of this name finds that out.
                Ok(_) | Err(StoreError::Refused(_) | StoreError::Unknown) => {}
                Err(error) => return tracing::error!(%error, "what this server had ready is still on record"),
            }
        }
    }

    /// What goes on without this server: nothing, unless it and the record of it outlive it.
    async fn visitors_own(&self) -> HashSet<InstanceId> {
        if !(self.runtime.outlives_the_server() && self.store.outlives_the_server()) {
            return HashSet::new();
        }
        match self.ask(self.store.list(&self.node)).await {
            Ok(records) => records
                .into_iter()
                .filter(|record| matches!(record.life(), State::Assigned { .. }))
                .map(|record| record.id().clone())
                .collect(),
            Err(error) => {
                tracing::error!(%error, "the store does not say who has what; everything ends");
                HashSet::new()
            }
        }
    }
}
