//! The databases of instances that have ended are dropped, also those of nodes that never return.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::gc::is_living;
use crate::instance::{InstanceId, NodeId};
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
        match sweep_all(&supply).await {
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
            () = supply.sweep_databases_now.notified() => {}
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

/// Sweeps the databases of this node, and of the nodes that never returned. Returns how many were dropped.
async fn sweep_all(supply: &Supply) -> Result<usize, SweepError> {
    Ok(sweep(supply).await? + sweep_evicted(supply).await?)
}

/// Drops the databases of nodes that were evicted and have not come back. Several nodes may do so at once: what one has
/// dropped is no error for the others. Returns how many were dropped.
///
/// **Invariant.** A node that comes back keeps what it makes from then on. It sends a heartbeat, which puts it on record,
/// or at least records an instance before it makes the instance's database. Both are read after the databases were listed,
/// so what it has made by then is known, and what it makes later is not listed. What it had when it was evicted
/// belonged to instances that the eviction ended; the database of a bake, or of a seed, is made again.
pub(in crate::pool) async fn sweep_evicted(supply: &Supply) -> Result<usize, SweepError> {
    if !supply.databases.is_configured() {
        return Ok(0);
    }
    let (mut dropped, mut failure) = (0, None);
    for node in supply.shared.store.evicted_nodes().await? {
        match sweep_evicted_node(supply, &node).await {
            Ok(of_node) => dropped += of_node,
            // The others are swept all the same.
            Err(error) => failure = Some(error),
        }
    }
    failure.map_or(Ok(dropped), Err)
}

async fn sweep_evicted_node(supply: &Supply, node: &NodeId) -> Result<usize, SweepError> {
    let (store, databases) = (&supply.shared.store, supply.databases.of_node(node));
    let listed = databases.list().await?;
    if listed.is_empty() {
        store.forget_evicted(node).await?;
        return Ok(0);
    }
    if store.nodes().await?.iter().any(|status| status.info.id == *node) {
        return Ok(0);
    }
    let records = store.list(node).await?;
    let owners = records.iter().filter(|record| is_living(record)).map(|record| record.id().clone());
    Ok(databases.drop_unowned(listed, &owners.collect()).await?)
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
    owners.extend(records.iter().filter(|record| is_living(record)).map(|record| record.id().clone()));
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
