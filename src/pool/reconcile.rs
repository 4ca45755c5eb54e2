//! Observe, plan, act: the loop that keeps what is in step with what should be.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Pool;
use super::keeper::Keeper;
use super::plan::{View, plan};
use super::provision;
use crate::instance::{Instance, InstanceId, Life};
use crate::runtime::Exit;
use crate::store::{RouteChange, StoreError};
use crate::telemetry::ReleaseReason;

/// How often everything that runs is compared with everything on record.
const REPAIR_INTERVAL: Duration = Duration::from_secs(10);

/// Runs until the server stops.
pub(super) async fn run(pool: Arc<Pool>) {
    let mut repair_at = Instant::now();
    let mut refill_at: HashMap<String, Instant> = HashMap::new();
    while !pool.stopping.is_cancelled() {
        let now = Instant::now();
        if pool.repair.swap(false, Ordering::AcqRel) || now >= repair_at {
            repair_at = now + REPAIR_INTERVAL;
            if let Err(error) = repair(&pool).await {
                tracing::warn!(%error, "what runs could not be compared with what is on record");
            }
        }
        let mut next = repair_at;
        for keeper in pool.keepers.all().into_iter().filter(|keeper| keeper.is_kept()) {
            let template = keeper.template();
            let due = refill_at
                .entry(template.name.as_str().to_owned())
                .or_insert(now + template.pool.replenish_interval);
            let interval = now >= *due;
            if interval {
                *due = now + template.pool.replenish_interval;
            }
            next = next.min(*due);
            if let Err(error) = fill(&pool, &keeper, interval).await {
                tracing::warn!(template = %template.name, %error, "the pool cannot be filled while the store is away");
            }
            if let Some(pause) = keeper.pause() {
                next = next.min(now + pause);
            }
        }
        tokio::select! {
            () = pool.wake.notified() => {}
            () = tokio::time::sleep_until(next) => {}
            () = pool.stopping.cancelled() => {}
        }
    }
}

async fn fill(pool: &Arc<Pool>, keeper: &Arc<Keeper>, interval: bool) -> Result<(), StoreError> {
    let template = keeper.template();
    // Read before the store is asked: an attempt that ends in between is counted once too often, never too seldom.
    let making = keeper.making.load(Ordering::Acquire);
    let mut counts = pool.ask(pool.store.counts(&template.name)).await?;
    // An attempt that has just begun is not on record yet.
    counts.warming = counts.warming.max(making);
    let view = View {
        counts,
        making,
        waiting: keeper.line.len(),
        refilling: keeper.refilling.load(Ordering::Acquire),
        interval,
        pausing: keeper.pause().is_some(),
    };
    let plan = plan(view, &template.pool);
    keeper.refilling.store(plan.refilling, Ordering::Release);
    for _ in 0..plan.start {
        provision::begin(pool, keeper.clone());
    }
    if plan.low != keeper.low.swap(plan.low, Ordering::AcqRel) && plan.low {
        tracing::warn!(template = %template.name, ready = counts.ready, min = template.pool.min, "the pool is low");
    }
    Ok(())
}

/// Ends what only runs here or is only on record here, and retires ready instances that nobody wants any more. What
/// a task of ours has in hand is left alone.
async fn repair(pool: &Arc<Pool>) -> Result<(), StoreError> {
    let first = look(pool).await?;
    if !first.strays.is_empty() || !first.lost.is_empty() {
        // An instance that was made or ended between the halves of one look seems to be in only one of them. In a
        // second look, which begins when the first is over, it does not.
        let second = look(pool).await?;
        for id in first.strays.intersection(&second.strays) {
            tracing::info!(%id, "stopping an instance that nobody may have");
            pool.take_down(id.clone());
        }
        for id in first.lost.intersection(&second.lost) {
            pool.fail(id, "it no longer runs").await;
        }
    }
    for instance in unwanted(pool, &first.on_record) {
        match pool.ask(pool.store.retire(instance.id())).await {
            Ok(_) => {
                pool.metrics.released(instance.id().template(), ReleaseReason::Drained);
                pool.take_down(instance.id().clone());
            }
            // A visitor was faster, or it is gone already.
            Err(StoreError::Refused(_) | StoreError::Unknown) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// What runs here beside what is on record here.
#[derive(Default)]
struct Look {
    on_record: Vec<Instance>,
    /// They run, and are not on record as living.
    strays: HashSet<InstanceId>,
    /// They are on record as living, and do not run.
    lost: HashSet<InstanceId>,
}

async fn look(pool: &Pool) -> Result<Look, StoreError> {
    let mut held = pool.hands.held();
    let running: HashSet<InstanceId> = match pool.runtime.list().await {
        Ok(running) => running.into_iter().collect(),
        Err(error) => {
            tracing::error!(%error, "the runtime does not say what runs");
            return Ok(Look::default());
        }
    };
    let mut on_record = pool.ask(pool.store.list(&pool.node)).await?;
    // Held before or after: its state was in motion while we looked.
    held.extend(pool.hands.held());
    on_record.retain(|instance| !held.contains(instance.id()));
    let living: HashSet<InstanceId> = on_record
        .iter()
        .filter(|instance| !matches!(instance.life(), Life::Expired { .. }))
        .map(|instance| instance.id().clone())
        .collect();
    let strays = running.difference(&living).filter(|id| !held.contains(*id)).cloned().collect();
    let lost = living.difference(&running).cloned().collect();
    Ok(Look { on_record, strays, lost })
}

/// Ready instances of a template that is gone or has changed, and those above the target.
fn unwanted<'a>(pool: &Pool, on_record: &'a [Instance]) -> Vec<&'a Instance> {
    let ready = on_record.iter().filter(|instance| matches!(instance.life(), Life::Ready { .. }));
    let mut kept: HashMap<&str, usize> = HashMap::new();
    ready
        .filter(|instance| {
            let name = instance.id().template();
            let Some(keeper) = pool.keepers.get(name).filter(|keeper| keeper.is_kept()) else { return true };
            let template = keeper.template();
            let count = kept.entry(name).or_default();
            let fits =
                instance.revision() == template.revision && *count < template.pool.target + keeper.line.len();
            *count += usize::from(fits);
            !fits
        })
        .collect()
}

/// Handles the runtime's exit events as they come.
pub(super) async fn watch_exits(pool: Arc<Pool>, mut exits: mpsc::UnboundedReceiver<Exit>) {
    while let Some(exit) = exits.recv().await {
        if !pool.hands.died(&exit.id) {
            pool.fail(&exit.id, &exit.how).await;
        }
    }
}

impl Pool {
    /// An instance died: nobody will get it, and the visitor who has it is told.
    pub(super) async fn fail(self: &Arc<Self>, id: &InstanceId, how: &str) {
        match self.ask(self.store.fail(id)).await {
            Ok(before) => {
                tracing::warn!(%id, how, state = before.life().name(), "an instance died");
                if let Ok(Some(ended)) = before.failed(self.clock.now()) {
                    self.publish(RouteChange::Set(ended));
                }
                self.metrics.released(id.template(), ReleaseReason::Failed);
            }
            // It was given back, retired or expired at the same moment.
            Err(StoreError::Unknown | StoreError::Refused(_)) => {}
            Err(error) => tracing::warn!(%id, %error, "a dead instance is still on record"),
        }
        self.take_down(id.clone());
        self.wake.notify_one();
    }
}
