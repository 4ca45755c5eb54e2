//! Time runs out.

use std::sync::Arc;
use std::time::Duration;

use crate::instance::{EndReason, Instance, State};
use crate::pool::Pool;
use crate::store::RouteChange;
use crate::telemetry::ReleaseReason;

/// Longest sleep between two looks at the clock. The proxy refuses an overdue visit by itself at the very
/// deadline; this bounds how much longer the app may run.
const LONGEST_SLEEP: Duration = Duration::from_millis(250);
/// Most records handled in one call of the store.
const BATCH: usize = 1000;

/// Ends leases for ever, each within [`LONGEST_SLEEP`] of its deadline.
pub(crate) async fn run(pool: Arc<Pool>) {
    while !pool.stopping.is_cancelled() {
        let pause = match sweep(&pool).await {
            Ok(pause) => pause,
            Err(error) => {
                tracing::warn!(%error, "leases cannot be ended while the store is away");
                LONGEST_SLEEP
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = pool.stopping.cancelled() => {}
        }
    }
}

async fn sweep(pool: &Arc<Pool>) -> Result<Duration, crate::store::StoreError> {
    loop {
        let ended = pool.ask(pool.store.sweep(BATCH)).await?;
        for instance in &ended {
            end(pool, instance);
        }
        if !ended.is_empty() {
            pool.wake.notify_one();
        }
        if ended.len() < BATCH {
            break;
        }
    }
    let next = pool.ask(pool.store.next_deadline()).await?;
    Ok(next
        .map_or(LONGEST_SLEEP, |at| at.since(pool.clock.now()))
        .clamp(Duration::from_millis(1), LONGEST_SLEEP))
}

fn end(pool: &Arc<Pool>, instance: &Instance) {
    debug_assert!(matches!(instance.life(), State::Expired { .. }));
    pool.publish(RouteChange::Set(instance.clone()));
    let reason = match instance.life() {
        // Nobody confirmed that its visitor had been told.
        State::Expired { ending: EndReason::Failed, .. } => ReleaseReason::Released,
        _ => ReleaseReason::Expired,
    };
    pool.metrics.released(instance.id().template(), reason);
    if instance.node() == &pool.node {
        pool.take_down(instance.id().clone());
    }
}
