//! What follows from the ends of deliveries: claims whose answers arrived are confirmed, a batch at a time; the others
//! are undone.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::MissedTickBehavior;

use super::delivery::Undo;
use crate::instance::Instance;
use crate::pool::Claims;
use crate::proxy::routes::RouteLookup;
use crate::store::{CONFIRM_TIMEOUT, Claim, RouteChange, StoreError};
use crate::telemetry::ReleaseReason;

/// How long a confirmation waits for others to be sent with it, and the time until an undo that failed is tried again.
const SETTLE_INTERVAL: Duration = Duration::from_secs(1);
/// Most undos at a time.
const MAX_CONCURRENT_UNDOS: usize = 16;

/// Settles deliveries until the pools shut down.
pub(in crate::pool) async fn run(claims: Arc<Claims>) {
    let mut tick = tokio::time::interval(SETTLE_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !claims.shared.stopping.is_cancelled() {
        let is_due = tokio::select! {
            _ = tick.tick() => true,
            () = claims.ledger.urgent.notified() => false,
            () = claims.shared.stopping.cancelled() => return,
        };
        settle(&claims, is_due).await;
    }
}

/// Does what the ledger notes. What can wait for the next tick is done only if that `is_due`.
pub(in crate::pool) async fn settle(claims: &Claims, is_due: bool) {
    undo_all(claims).await;
    if is_due {
        release_doubtful(claims).await;
    }
    let delivered = claims.ledger.take_delivered(is_due);
    if delivered.is_empty() {
        return;
    }
    if let Err(error) = claims.shared.store.confirm(&delivered).await {
        tracing::warn!(%error, count = delivered.len(), "failed to confirm deliveries; retrying later");
        claims.ledger.requeue_delivered(delivered);
    }
}

/// Undoes what the ledger notes. What the store does not answer is tried again later, and abandoned after
/// [`CONFIRM_TIMEOUT`]: by then the store's sweep has ended the claim.
async fn undo_all(claims: &Claims) {
    loop {
        let batch = claims.ledger.take_undos(MAX_CONCURRENT_UNDOS);
        if batch.is_empty() {
            return;
        }
        let results = join_all(batch.iter().map(|(undo, _)| undo_one(claims, undo))).await;
        let mut failed = batch;
        let mut results = results.into_iter();
        failed.retain(|(_, since)| {
            results.next().is_some_and(|it| it.is_err()) && since.elapsed() < CONFIRM_TIMEOUT
        });
        if !failed.is_empty() {
            return claims.ledger.requeue_undos(failed);
        }
    }
}

/// Releases the doubtful instances that were not used since. Only the node that runs an instance knows its use, so
/// others' instances are left alone.
async fn release_doubtful(claims: &Claims) {
    for id in claims.ledger.take_doubtful(CONFIRM_TIMEOUT) {
        let is_unused = match claims.shared.routes.find(id.as_str()) {
            RouteLookup::Live(route) => route.node() == &claims.shared.node && !route.is_used(),
            _ => false,
        };
        if is_unused {
            // A failure is ignored: the instance then lives until its deadline.
            let _ = claims.supply.release(&id).await;
        }
    }
}

async fn undo_one(claims: &Claims, undo: &Undo) -> Result<(), StoreError> {
    let result = match undo {
        Undo::Claim(claim) => undo_claim(claims, claim).await,
        Undo::Release(id) => claims.supply.release(id).await.map(drop),
    };
    match result {
        Err(error @ StoreError::Unavailable(_)) => Err(error),
        // Otherwise the instance ended already, or another client who knows of it released it, or there was no claim.
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Undoes a claim: the instance is ready again.
///
/// It is published as its ready record, never as gone: the node that runs it would stop a gone instance, and the route
/// table would refuse the claim that comes next.
async fn undo_claim(claims: &Claims, claim: &Claim) -> Result<(), StoreError> {
    let undone = claims.shared.store.undo_claim(claim).await;
    // After an error too: the store may have given the charge back before its answer was lost.
    claims.refused_visitors.forget(&claim.template, &claim.visitor);
    let ready = undone?;
    tracing::debug!(id = %ready.id(), "claim undone: visitor left before the answer was written");
    claims.shared.publish_route(RouteChange::Set(ready.clone()));
    if !is_outdated(claims, &ready) {
        if let Some(template_pool) = claims.shared.template_pools.get(ready.id().template()) {
            template_pool.wait_queue.notify_ready();
        }
    } else if claims.shared.store.retire(ready.id()).await.is_ok() {
        claims.shared.metrics.record_release(ready.id().template(), ReleaseReason::Drained);
        claims.supply.stop_in_background(ready.id().clone());
    }
    claims.shared.wake.notify_one();
    Ok(())
}

/// Returns whether the instance is of this node and its template was changed while a visitor had it. The instances that
/// were ready at the change are retired already.
fn is_outdated(claims: &Claims, ready: &Instance) -> bool {
    let is_wanted = claims
        .shared
        .template_pools
        .get(ready.id().template())
        .is_some_and(|template_pool| template_pool.wants(ready.revision()));
    ready.node() == &claims.shared.node && !is_wanted
}
