//! The databases of instances that have ended are dropped.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use crate::instance::{Instance, InstanceId, State};
use crate::pool::Supply;
use crate::runtime::{DatabaseError, RuntimeError};
use crate::store::StoreError;

/// Time between two sweeps.
const SWEEP_INTERVAL: Duration = Duration::from_secs(10);

/// Longest time to drop databases at the end of a shutdown. The next server process drops the rest.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(10);

/// Sweeps until the pools shut down. A task of its own: a database server that does not answer delays nothing else.
pub(in crate::pool) async fn run(supply: Arc<Supply>) {
    // Whether the server did not answer last time. It is logged when it becomes so.
    let mut is_lost = false;
    while !supply.shared.stopping.is_cancelled() {
        match sweep(&supply).await {
            Ok(dropped) => {
                if std::mem::take(&mut is_lost) {
                    tracing::info!("database server answers again");
                }
                if dropped > 0 {
                    tracing::info!(dropped, "databases without an instance dropped");
                }
            }
            Err(SweepError::Database(error)) if !std::mem::replace(&mut is_lost, true) => {
                tracing::error!(%error, "failed to sweep databases; retrying later");
            }
            Err(error) => tracing::debug!(%error, "failed to sweep databases"),
        }
        tokio::select! {
            () = tokio::time::sleep(SWEEP_INTERVAL) => {}
            () = supply.shared.stopping.cancelled() => {}
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub(in crate::pool) enum SweepError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    #[error(transparent)]
    Database(#[from] DatabaseError),
}

/// Drops the databases of this node whose instance neither is on record, nor runs, nor is being made or stopped. Returns
/// how many were dropped.
pub(in crate::pool) async fn sweep(supply: &Supply) -> Result<usize, SweepError> {
    // The databases are listed first: what is made from then on is not among them. An instance in progress is locked
    // until it is on record.
    let listed = supply.databases.list().await?;
    let mut owners = supply.in_flight.locked();
    owners.extend(supply.runtime.list().await?);
    let records = supply.shared.store.list(&supply.shared.node).await?;
    let is_living = |record: &&Instance| !matches!(record.state(), State::Expired { .. });
    owners.extend(records.iter().filter(is_living).map(|record| record.id().clone()));
    // One that was recorded at the first look may be locked by now, and stopping.
    owners.extend(supply.in_flight.locked());
    Ok(supply.databases.drop_unowned(listed, &owners).await?)
}

impl Supply {
    /// Stops an instance, and then drops its database.
    ///
    /// # Errors
    /// The instance cannot be stopped. Its database stays: the app may still use it.
    pub(in crate::pool) async fn stop_with_database(&self, id: &InstanceId) -> Result<(), RuntimeError> {
        self.runtime.stop(id).await?;
        // One of a template that is not known any more may have a database too: the sweep finds it.
        if self.shared.template_of(id).is_some_and(|template| template.database.is_some()) {
            self.drop_database(id).await;
        }
        Ok(())
    }

    /// Drops the database of an instance that has stopped. A failure is logged: the sweep drops what no instance has.
    pub(in crate::pool) async fn drop_database(&self, id: &InstanceId) {
        if let Err(error) = self.databases.drop_database(id).await {
            tracing::warn!(%id, %error, "failed to drop database; retrying later");
        }
    }

    /// Drops all databases of this node but those of these instances.
    pub(super) async fn drop_databases_except(&self, kept: &HashSet<InstanceId>) {
        match tokio::time::timeout(SHUTDOWN_DEADLINE, self.databases.shut_down(kept)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(%error, "failed to drop databases; the next server process drops them");
            }
            Err(_) => tracing::warn!("failed to drop databases in time; the next server process drops them"),
        }
    }
}
