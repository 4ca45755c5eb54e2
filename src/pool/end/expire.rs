//! Deadlines pass: ends the leases whose time is over, and the claims that were never confirmed.

use std::sync::Arc;
use std::time::Duration;

use crate::instance::{EndReason, Instance, State};
use crate::pool::Pool;
use crate::store::{RouteChange, StoreError};
use crate::telemetry::ReleaseReason;

/// Longest time between two sweeps. The proxy itself refuses a request from the deadline on; this bounds how much
/// longer the app may run.
const MAX_SWEEP_INTERVAL: Duration = Duration::from_millis(250);
/// Most records that the store sweeps in one call.
const SWEEP_BATCH: usize = 1000;

/// Ends leases until the pools shut down, each within [`MAX_SWEEP_INTERVAL`] of its deadline.
pub(in crate::pool) async fn run(pool: Arc<Pool>) {
    while !pool.stopping.is_cancelled() {
        let pause = match sweep(&pool).await {
            Ok(pause) => pause,
            Err(error) => {
                tracing::warn!(%error, "failed to end expired leases");
                MAX_SWEEP_INTERVAL
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = pool.stopping.cancelled() => {}
        }
    }
}

/// Ends all leases that are over. Returns the time until the next sweep.
async fn sweep(pool: &Arc<Pool>) -> Result<Duration, StoreError> {
    loop {
        let ended = pool.ask(pool.store.sweep(SWEEP_BATCH)).await?;
        for instance in &ended {
            end(pool, instance);
        }
        if !ended.is_empty() {
            pool.wake.notify_one();
        }
        if ended.len() < SWEEP_BATCH {
            break;
        }
    }
    let next = pool.ask(pool.store.next_deadline()).await?;
    Ok(next
        .map_or(MAX_SWEEP_INTERVAL, |at| at.since(pool.clock.now()))
        .clamp(Duration::from_millis(1), MAX_SWEEP_INTERVAL))
}

fn end(pool: &Arc<Pool>, instance: &Instance) {
    debug_assert!(matches!(instance.state(), State::Expired { .. }));
    pool.publish_route(RouteChange::Set(instance.clone()));
    let reason = match instance.state() {
        State::Expired { reason: EndReason::Unconfirmed, .. } => ReleaseReason::Released,
        _ => ReleaseReason::Expired,
    };
    pool.metrics.record_release(instance.id().template(), reason);
    if instance.node() == &pool.node {
        pool.stop_in_background(instance.id().clone());
    }
}
