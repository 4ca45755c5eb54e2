//! The reconcile loop: it observes, plans and acts, so that each pool has what its template wants.
//!
//! The loop is level-triggered. It runs when it is woken and at intervals, and each time reads the present state
//! instead of relying on the event that woke it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::cluster_plan::ClusterPool;
use super::plan::{PoolObservation, plan};
use super::shared_fill::{PLAN_INTERVAL, publish_missing};
use super::{attempt, bake};

use crate::pool::Supply;
use crate::pool::end::gc;
use crate::pool::template_pool::TemplatePool;
use crate::store::StoreError;

/// Time between two garbage collections.
const GC_INTERVAL: Duration = Duration::from_secs(10);
/// Least time until the next garbage collection after a failed one, or on request.
const GC_RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// The least time between two garbage collections, as a multiple of the time that the last one took: with a hundred
/// thousand instances each costs as much as thousands of visitors.
const GC_COST_FACTOR: u32 = 200;

/// Runs the loop until the pools shut down.
pub(in crate::pool) async fn run(supply: Arc<Supply>) {
    let mut collected_at = Instant::now();
    let mut collect_at = collected_at + GC_INTERVAL;
    let mut refill_at: HashMap<String, Instant> = HashMap::new();
    while !supply.shared.stopping.is_cancelled() {
        let now = Instant::now();
        if supply.shared.is_gc_requested.swap(false, Ordering::AcqRel) {
            collect_at = collect_at.min(collected_at + GC_RETRY_INTERVAL);
        }
        if now >= collect_at {
            let is_done = gc::collect(&supply).await;
            collected_at = Instant::now();
            let pause = if is_done { GC_INTERVAL } else { GC_RETRY_INTERVAL };
            collect_at = collected_at + pause.max((collected_at - now) * GC_COST_FACTOR);
        }
        let mut next = collect_at;
        let template_pools = supply.shared.template_pools.all().into_iter();
        for template_pool in template_pools.filter(|template_pool| template_pool.is_configured()) {
            let template = template_pool.template();
            let due = refill_at
                .entry(template.name.as_str().to_owned())
                .or_insert(now + template.pool.replenish_interval);
            let is_interval_over = now >= *due;
            if is_interval_over {
                *due = now + template.pool.replenish_interval;
            }
            next = next.min(*due);
            if supply.queue.is_shared() {
                next = next.min(now + PLAN_INTERVAL);
            }
            if let Err(error) = fill(&supply, &template_pool, is_interval_over).await {
                tracing::warn!(template = %template.name, %error, "failed to fill pool");
            }
            for pause in [template_pool.pause(), template_pool.bake_state.pause()].into_iter().flatten() {
                next = next.min(now + pause);
            }
        }
        tokio::select! {
            // Yields first, so that the loop runs once for all tasks that wake it in this turn of the scheduler.
            // Otherwise it would run after each acquire.
            () = supply.shared.wake.notified() => tokio::task::yield_now().await,
            () = tokio::time::sleep_until(next) => {}
            () = supply.shared.stopping.cancelled() => {}
        }
    }
}

/// Observes one pool, plans, and begins the attempts that the plan asks for.
pub(in crate::pool) async fn fill(
    supply: &Arc<Supply>,
    template_pool: &Arc<TemplatePool>,
    is_interval_over: bool,
) -> Result<(), StoreError> {
    let name = template_pool.template().name.clone();
    // Read before the store's counts: an attempt that ends in between is counted twice, never left out.
    let attempts = template_pool.attempts.load(Ordering::Acquire);
    let mut counts = supply.shared.store.counts(&name, Some(&supply.shared.node)).await?;
    // An attempt that has just begun is not on record yet.
    counts.warming = counts.warming.max(attempts);
    // Read after the store's counts: the template may have been changed or removed meanwhile.
    let template = template_pool.template();
    if !template_pool.is_configured() {
        return Ok(());
    }
    if supply.shared.is_draining() || !supply.is_secret_known() {
        return Ok(());
    }
    let mut sizes = template_pool.sizes();
    let mut has_queue = false;
    if supply.queue.is_shared() {
        let cluster = ClusterPool::observe(supply, template_pool).await?;
        has_queue = publish_missing(supply, template_pool, &template, &cluster, is_interval_over).await;
        sizes.target = cluster.local_target(counts, &sizes, has_queue);
        if has_queue && cluster.counts.ready >= sizes.min {
            // Visitors get the instances of all nodes.
            sizes.min = 0;
        }
    }
    let observation = PoolObservation {
        counts,
        attempts,
        waiting: template_pool.wait_queue.waiting(),
        surplus: template_pool.surplus(Instant::now()),
        is_refilling: template_pool.is_refilling.load(Ordering::Acquire),
        is_interval_over,
        is_pausing: template_pool.pause().is_some(),
    };
    let mut plan = plan(observation, &sizes);
    if (plan.start > 0 || !template_pool.bake_state.is_settled(template.revision))
        && !bake::ensure_checkpoint(supply, template_pool, &template).await
    {
        plan.is_refilling |= plan.start > 0;
        plan.start = 0;
    }
    // With a queue, the refill is that of the cluster.
    if !has_queue {
        template_pool.is_refilling.store(plan.is_refilling, Ordering::Release);
    }
    for _ in 0..plan.start {
        attempt::begin(supply, template_pool.clone());
    }
    let was_low = template_pool.is_low.swap(plan.is_low, Ordering::AcqRel);
    if plan.is_low && !was_low {
        tracing::warn!(template = %template.name, ready = counts.ready, min = template.pool.min, "pool is low");
    }
    Ok(())
}
