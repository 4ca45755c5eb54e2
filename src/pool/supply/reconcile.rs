//! Observe, plan, act: the loop that keeps what is in step with what should be.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::bake;
use super::plan::{View, plan};
use super::provision;
use crate::instance::InstanceId;
use crate::pool::Pool;
use crate::pool::end::gc::collect;
use crate::pool::template_pool::TemplatePool;
use crate::runtime::Exit;
use crate::store::{RouteChange, StoreError};
use crate::telemetry::ReleaseReason;

/// How often everything that runs is compared with everything on record.
const REPAIR_INTERVAL: Duration = Duration::from_secs(10);
/// The same when it did not work.
const REPAIR_AGAIN: Duration = Duration::from_secs(1);
/// The least time between two of them, as a multiple of what the last one took: with a hundred thousand instances
/// each costs as much as thousands of visitors.
const REPAIR_SHARE: u32 = 200;

/// Runs until the server stops.
pub(crate) async fn run(pool: Arc<Pool>) {
    let mut repaired_at = Instant::now();
    let mut repair_at = repaired_at + REPAIR_INTERVAL;
    let mut refill_at: HashMap<String, Instant> = HashMap::new();
    while !pool.stopping.is_cancelled() {
        let now = Instant::now();
        if pool.repair.swap(false, Ordering::AcqRel) {
            repair_at = repair_at.min(repaired_at + REPAIR_AGAIN);
        }
        if now >= repair_at {
            let done = collect(&pool).await;
            repaired_at = Instant::now();
            let pause = if done { REPAIR_INTERVAL } else { REPAIR_AGAIN };
            repair_at = repaired_at + pause.max((repaired_at - now) * REPAIR_SHARE);
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
            for pause in [keeper.pause(), keeper.bakery.pause()].into_iter().flatten() {
                next = next.min(now + pause);
            }
        }
        tokio::select! {
            // Once for all that wake it in this turn of the scheduler, which would else run it after each acquire.
            () = pool.wake.notified() => tokio::task::yield_now().await,
            () = tokio::time::sleep_until(next) => {}
            () = pool.stopping.cancelled() => {}
        }
    }
}

pub(crate) async fn fill(
    pool: &Arc<Pool>,
    keeper: &Arc<TemplatePool>,
    interval: bool,
) -> Result<(), StoreError> {
    let name = keeper.template().name.clone();
    // Read before the store is asked: an attempt that ends in between is counted once too often, never too seldom.
    let making = keeper.making.load(Ordering::Acquire);
    let mut counts = pool.ask(pool.store.counts(&name, Some(&pool.node))).await?;
    // An attempt that has just begun is not on record yet.
    counts.warming = counts.warming.max(making);
    // Read after: it may have changed, or gone, while the store was asked.
    let template = keeper.template();
    if !keeper.is_kept() {
        return Ok(());
    }
    if pool.is_draining() || !pool.knows_its_secret() {
        return Ok(());
    }
    let view = View {
        counts,
        making,
        waiting: keeper.line.waiting(),
        refilling: keeper.refilling.load(Ordering::Acquire),
        interval,
        pausing: keeper.pause().is_some(),
    };
    let mut plan = plan(view, &keeper.sizes());
    if (plan.start > 0 || !keeper.bakery.is_settled(template.revision))
        && !bake::prepare(pool, keeper, &template).await
    {
        plan.refilling |= plan.start > 0;
        plan.start = 0;
    }
    keeper.refilling.store(plan.refilling, Ordering::Release);
    for _ in 0..plan.start {
        provision::begin(pool, keeper.clone());
    }
    if plan.low != keeper.low.swap(plan.low, Ordering::AcqRel) && plan.low {
        tracing::warn!(template = %template.name, ready = counts.ready, min = template.pool.min, "the pool is low");
    }
    Ok(())
}

/// Handles the runtime's exit events as they come.
pub(crate) async fn watch_exits(pool: Arc<Pool>, mut exits: mpsc::UnboundedReceiver<Exit>) {
    while let Some(exit) = exits.recv().await {
        if !pool.hands.died(&exit.id) {
            pool.fail(&exit.id, &exit.how).await;
        }
    }
}

impl Pool {
    /// An instance died: nobody will get it, and the visitor who has it is told.
    pub(crate) async fn fail(self: &Arc<Self>, id: &InstanceId, how: &str) {
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
            Err(error) => {
                tracing::warn!(%id, %error, "a dead instance is still on record");
                self.repair_soon();
            }
        }
        self.take_down(id.clone());
        self.wake.notify_one();
    }
}
