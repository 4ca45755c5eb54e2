//! The server process stops.

use std::collections::HashSet;
use std::time::Duration;

use super::gc;
use crate::instance::{Instance, InstanceId, State};
use crate::pool::claim::delivery_worker;
use crate::pool::{Pool, Supply};
use crate::store::{StoreError, within};
use crate::telemetry::ReleaseReason;

/// Longest time to stop one instance, and to wait for the tasks in progress.
const STOP_DEADLINE: Duration = Duration::from_secs(10);

/// Longest time to retire the ready instances at the beginning of a shutdown.
const RETIRE_DEADLINE: Duration = Duration::from_secs(2);

/// Longest time to list the records of this node.
const LIST_DEADLINE: Duration = Duration::from_secs(2);

impl Pool {
    /// Retires the ready instances of this node, which is about to stop: a peer must not assign them any more, for
    /// their visitors could not reach them. Assigned instances continue. Without a cluster this does nothing.
    pub async fn begin_shutdown(&self) {
        if !self.shared.is_clustered {
            return;
        }
        self.shared.membership.begin_shutdown();
        match tokio::time::timeout(RETIRE_DEADLINE, gc::retire_unwanted(&self.supply)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "failed to retire ready instances"),
            Err(_) => tracing::warn!("failed to retire ready instances in time"),
        }
    }

    /// Stops making instances, and stops each instance that this node runs. Assigned instances continue where both they
    /// and their records outlive the server process: the next process serves them.
    pub async fn shut_down(&self) {
        self.end_tasks().await;
        self.supply.shut_down().await;
    }

    /// Ends the tasks of the pools: attempts in progress are undone, and what is known of deliveries is settled.
    pub(super) async fn end_tasks(&self) {
        self.shared.stopping.cancel();
        // By now each answer has been delivered, or never will be.
        delivery_worker::settle(&self.claims, true).await;
        let tasks = &self.supply.tasks;
        tasks.close();
        if tokio::time::timeout(STOP_DEADLINE, tasks.wait()).await.is_err() {
            tracing::warn!("some instances are still being made or stopped");
        }
    }
}

impl Supply {
    /// Returns whether instances and their records outlive the server process.
    pub(super) fn outlives_server(&self) -> bool {
        self.runtime.outlives_server() && self.shared.store.is_durable()
    }

    async fn shut_down(&self) {
        let kept = self.instances_to_keep().await;
        if self.shared.store.is_durable() {
            // Before any instance is stopped, so that none of them is assigned.
            if kept.is_empty() {
                self.shared.membership.leave(self).await
            } else {
                self.retire_unused().await
            }
        }
        let running: Vec<InstanceId> = match self.runtime.list().await {
            Ok(running) => running.into_iter().filter(|id| !kept.contains(id)).collect(),
            Err(error) => {
                tracing::error!(%error, "failed to list running instances; none stopped");
                return;
            }
        };
        let stops = running.iter().map(|id| async move {
            match tokio::time::timeout(STOP_DEADLINE, self.runtime.stop(id)).await {
                Ok(Ok(())) => self.shared.metrics.record_release(id.template(), ReleaseReason::Drained),
                Ok(Err(error)) => tracing::error!(%id, %error, "failed to stop instance"),
                Err(_) => tracing::error!(%id, "failed to stop instance in time"),
            }
        });
        futures_util::future::join_all(stops).await;
        self.drop_databases_except(&kept).await;
        tracing::info!(stopped = running.len(), kept = kept.len(), "instances stopped");
    }

    /// Lists the records of this node, which must not delay the shutdown for long.
    async fn records(&self) -> Result<Vec<Instance>, StoreError> {
        within(LIST_DEADLINE, self.shared.store.list(&self.shared.node)).await
    }

    /// Retires the warming and ready instances of this node.
    async fn retire_unused(&self) {
        let is_unused = |record: &Instance| matches!(record.state(), State::Warming | State::Ready { .. });
        let records = match self.records().await {
            Ok(records) => records,
            Err(error) => return tracing::error!(%error, "failed to list recorded instances"),
        };
        for record in records.into_iter().filter(is_unused) {
            match self.shared.store.retire(record.id()).await {
                // If a visitor was faster, the instance is lost all the same: the next server process of this node
                // finds that it does not run, and fails it.
                Ok(_) | Err(StoreError::Refused(_) | StoreError::Unknown) => {}
                Err(error) => return tracing::error!(%error, "failed to retire unused instances"),
            }
        }
    }

    /// Returns the assigned instances of this node if they and their records outlive the server process, else none.
    async fn instances_to_keep(&self) -> HashSet<InstanceId> {
        if !self.outlives_server() {
            return HashSet::new();
        }
        match self.records().await {
            Ok(records) => records
                .into_iter()
                .filter(|record| matches!(record.state(), State::Assigned { .. }))
                .map(|record| record.id().clone())
                .collect(),
            Err(error) => {
                tracing::error!(%error, "failed to list recorded instances; none kept");
                HashSet::new()
            }
        }
    }
}
