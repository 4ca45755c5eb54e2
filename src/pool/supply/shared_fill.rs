//! The part of the reconcile loop for nodes that share a queue: one node plans for all, and gives the queue a job for
//! each missing instance.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::try_join_all;

use super::cluster_plan::ClusterPool;
use super::plan::{PoolObservation, plan};
use crate::cluster::queue::{Job, Lane, QueueError};
use crate::pool::Supply;
use crate::pool::template_pool::TemplatePool;
use crate::template::{PoolSizes, Template};

/// Longest time between two plans, which is how long jobs may be missing that were lost with a stream.
pub(super) const PLAN_INTERVAL: Duration = Duration::from_secs(2);

/// Most jobs that are published at a time. The rest follows with the next plan.
const MAX_PUBLISHED: usize = 50;

/// Publishes a job for each instance that the cluster misses, if this node plans for it or the interval is over. Returns
/// whether the queue fills the pools: else this node fills its own.
pub(super) async fn publish_missing(
    supply: &Arc<Supply>,
    pool: &TemplatePool,
    template: &Template,
    cluster: &ClusterPool,
    is_interval_over: bool,
) -> bool {
    if supply.queue.problem().is_some() {
        return false;
    }
    // At the interval every node plans: the one that does so for all may be cut off from the queue alone.
    if !cluster.is_planner && !is_interval_over {
        return true;
    }
    match try_publish(supply, pool, template, cluster, is_interval_over).await {
        Ok(()) => true,
        Err(error) => {
            tracing::debug!(template = %template.name, %error, "failed to publish jobs");
            false
        }
    }
}

async fn try_publish(
    supply: &Arc<Supply>,
    pool: &TemplatePool,
    template: &Template,
    cluster: &ClusterPool,
    is_interval_over: bool,
) -> Result<(), QueueError> {
    let sizes = PoolSizes {
        target: cluster.target,
        max: cluster.capacity,
        concurrency: MAX_PUBLISHED,
        ..template.pool
    };
    let mut seen = PoolObservation {
        counts: cluster.counts,
        attempts: 0,
        waiting: 0,
        surplus: 0,
        is_refilling: pool.is_refilling.load(Ordering::Acquire),
        is_interval_over,
        is_pausing: false,
    };
    let mut planned = plan(seen, &sizes);
    if planned.start > 0 {
        let backlog = supply.queue.backlog(&Lane::Provision(template.name.clone())).await?;
        // A job in progress may have its instance on record already.
        seen.counts.warming = seen.counts.warming.max(backlog.in_progress) + backlog.pending;
        planned = plan(seen, &sizes);
        let slots = (backlog.pending as u64..).take(planned.start);
        let jobs: Vec<Job> = slots
            .map(|slot| Job::Provision {
                template: template.name.clone(),
                generation: backlog.generation,
                slot,
            })
            .collect();
        try_join_all(jobs.iter().map(|job| supply.queue.publish(job))).await?;
    }
    pool.is_refilling.store(planned.is_refilling, Ordering::Release);
    Ok(())
}
