//! What deliveries left to do: those that arrived are confirmed, a batch at a time; those that did not are undone.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::MissedTickBehavior;

use super::delivery::Undo;
use crate::instance::Instance;
use crate::pool::Pool;
use crate::proxy::routes::Found;
use crate::store::{Claim, RouteChange, StoreError, UNCONFIRMED_FOR};
use crate::telemetry::ReleaseReason;

/// How long a delivery waits for others to be confirmed with it, and a claim that could not be undone for another try.
const PAUSE: Duration = Duration::from_secs(1);
/// Most claims undone at a time.
const AT_ONCE: usize = 16;

/// Runs until the server stops.
pub(crate) async fn run(pool: Arc<Pool>) {
    let mut tick = tokio::time::interval(PAUSE);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !pool.stopping.is_cancelled() {
        let in_time = tokio::select! {
            _ = tick.tick() => true,
            () = pool.ledger.news.notified() => false,
            () = pool.stopping.cancelled() => return,
        };
        settle(&pool, in_time).await;
    }
}

/// Does what there is to do; `in_time` also what may wait for more.
pub(crate) async fn settle(pool: &Arc<Pool>, in_time: bool) {
    undo(pool).await;
    if in_time {
        doubt(pool).await;
    }
    let delivered = pool.ledger.take_delivered(in_time);
    if delivered.is_empty() {
        return;
    }
    if let Err(error) = pool.ask(pool.store.confirm(&delivered)).await {
        tracing::warn!(%error, count = delivered.len(), "deliveries cannot be confirmed while the store is away");
        pool.ledger.put_delivered_back(delivered);
    }
}

/// What the store does not answer to is tried again later, and given up once its sweep has done it in any case.
async fn undo(pool: &Arc<Pool>) {
    loop {
        let some = pool.ledger.take_undone(AT_ONCE);
        if some.is_empty() {
            return;
        }
        let answers = join_all(some.iter().map(|(undo, _)| undo_one(pool, undo))).await;
        let mut left = some;
        let mut answers = answers.into_iter();
        left.retain(|(_, since)| {
            answers.next().is_some_and(|it| it.is_err()) && since.elapsed() < UNCONFIRMED_FOR
        });
        if !left.is_empty() {
            return pool.ledger.put_undone_back(left);
        }
    }
}

/// Ends those in doubt that nobody came to use. Of those that another server runs, only that one knows.
async fn doubt(pool: &Arc<Pool>) {
    for id in pool.ledger.take_doubted(UNCONFIRMED_FOR) {
        let is_unused = match pool.routes.find(id.as_str()) {
            Found::Live(route) => route.node() == &pool.node && !route.is_used(),
            _ => false,
        };
        if is_unused {
            // What fails here costs the rest of a lease.
            let _ = pool.release(&id).await;
        }
    }
}

async fn undo_one(pool: &Arc<Pool>, undo: &Undo) -> Result<(), StoreError> {
    let undone = match undo {
        Undo::TakeBack(claim) => take_back(pool, claim).await,
        Undo::Release(id) => pool.release(id).await.map(drop),
    };
    match undone {
        Err(error @ StoreError::Unavailable(_)) => Err(error),
        // It ended by itself, or somebody who knows of it was faster; or there was no claim.
        Ok(()) | Err(_) => Ok(()),
    }
}

async fn take_back(pool: &Arc<Pool>, claim: &Claim) -> Result<(), StoreError> {
    let ready = pool.ask(pool.store.take_back(claim)).await?;
    tracing::debug!(id = %ready.id(), "taken back from a visitor who left before the answer began");
    pool.publish(RouteChange::Set(ready.clone()));
    if !is_outdated(pool, &ready) {
        if let Some(keeper) = pool.keepers.get(ready.id().template()) {
            keeper.line.call();
        }
    } else if pool.ask(pool.store.retire(ready.id())).await.is_ok() {
        pool.metrics.released(ready.id().template(), ReleaseReason::Drained);
        pool.take_down(ready.id().clone());
    }
    pool.wake.notify_one();
    Ok(())
}

/// Whether it is ours, and the templates were changed while a visitor had it: those that were ready then are gone.
fn is_outdated(pool: &Pool, ready: &Instance) -> bool {
    let wanted = pool.keepers.get(ready.id().template()).is_some_and(|keeper| keeper.wants(ready.revision()));
    ready.node() == &pool.node && !wanted
}
