//! Deadlines pass: ends the leases whose time is over, and the claims that were never confirmed.

use std::sync::Arc;
use std::time::Duration;

use crate::instance::{EndReason, Instance, State};
use crate::pool::Supply;
use crate::store::{RouteChange, StoreError};
use crate::telemetry::ReleaseReason;

/// Longest time between two sweeps. The proxy itself refuses a request from the deadline on; this bounds how much
/// longer the app may run.
const MAX_SWEEP_INTERVAL: Duration = Duration::from_millis(250);
/// Most records that the store sweeps in one call.
const SWEEP_BATCH: usize = 1000;

/// Ends leases until the pools shut down, each within [`MAX_SWEEP_INTERVAL`] of its deadline.
pub(in crate::pool) async fn run(supply: Arc<Supply>) {
    while !supply.shared.stopping.is_cancelled() {
        let pause = match sweep(&supply).await {
            Ok(pause) => pause,
            Err(error) => {
                tracing::warn!(%error, "failed to end expired leases");
                MAX_SWEEP_INTERVAL
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = supply.shared.stopping.cancelled() => {}
        }
    }
}

/// Ends all leases that are over. Returns the time until the next sweep.
async fn sweep(supply: &Arc<Supply>) -> Result<Duration, StoreError> {
    loop {
        let ended = supply.shared.store.sweep(SWEEP_BATCH).await?;
        for instance in &ended {
            end(supply, instance);
        }
        if !ended.is_empty() {
            supply.shared.wake.notify_one();
        }
        if ended.len() < SWEEP_BATCH {
            break;
        }
    }
    let next = supply.shared.store.next_deadline().await?;
    Ok(next
        .map_or(MAX_SWEEP_INTERVAL, |at| at.since(supply.shared.clock.now()))
        .clamp(Duration::from_millis(1), MAX_SWEEP_INTERVAL))
}

fn end(supply: &Arc<Supply>, instance: &Instance) {
    debug_assert!(matches!(instance.state(), State::Expired { .. }));
    supply.shared.publish_route(RouteChange::Set(instance.clone()));
    let reason = match instance.state() {
        State::Expired { reason: EndReason::Unconfirmed, .. } => ReleaseReason::Released,
        _ => ReleaseReason::Expired,
    };
    supply.shared.metrics.record_release(instance.id().template(), reason);
    if instance.node() == &supply.shared.node {
        supply.stop_in_background(instance.id().clone());
    }
}
