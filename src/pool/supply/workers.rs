//! The workers: they take jobs from the queue, as many at a time as this node may and can, and settle each.
//!
//! A job is a hint. Before its worker does anything, it asks the store whether the work is still wanted. So a job that
//! is delivered twice, or comes from an old disk, has no effect.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::attempt::{AttemptOutcome, ProvisionTask};
use super::bake;
use super::cluster_plan::ClusterPool;
use super::job_outcome::JobOutcome;
use crate::cluster::queue::{Job, Lane, Receipt, TakenJob};
use crate::instance::TemplateName;
use crate::pool::Supply;
use crate::pool::end::cleanup::clean_up;
use crate::pool::template_pool::TemplatePool;
use crate::telemetry::task;

/// Deliveries after which a job that fails is parked.
const MAX_DELIVERIES: u32 = 5;

/// Longest wait for a job before it is decided again which ones this node takes.
const TAKE_WAIT: Duration = Duration::from_secs(2);

/// Pause after the queue or the store did not answer.
const OUTAGE_PAUSE: Duration = Duration::from_millis(500);

/// Time until a job that has failed once is tried again. It doubles with each further failure.
const FIRST_RETRY_DELAY: Duration = Duration::from_millis(500);

/// Takes jobs until the pools shut down.
pub(in crate::pool) async fn run(supply: Arc<Supply>) {
    let stopping = supply.shared.stopping.clone();
    let permits = Arc::new(Semaphore::new(supply.workers));
    while let Some(permit) = unless(&stopping, permits.clone().acquire_owned()).await {
        let Ok(permit) = permit else { return };
        match unless(&stopping, take(&supply)).await {
            None => return,
            Some(Some(taken)) => begin(&supply, taken, permit),
            Some(None) => {}
        }
    }
}

async fn unless<T>(stopping: &CancellationToken, future: impl Future<Output = T>) -> Option<T> {
    stopping.run_until_cancelled(future).await
}

/// Takes a job that this node can do now. Returns `None` after some seconds without one.
async fn take(supply: &Arc<Supply>) -> Option<TakenJob> {
    let mut lanes = vec![Lane::Cleanup(supply.shared.node.clone())];
    if supply.queue.is_shared() {
        lanes.extend(provision_lanes(supply).await);
    }
    match supply.queue.take(&lanes, TAKE_WAIT).await {
        Ok(taken) => taken,
        Err(error) => {
            tracing::debug!(%error, "failed to take job");
            tokio::time::sleep(OUTAGE_PAUSE).await;
            None
        }
    }
}

/// Returns the lanes of the templates of which this node can make one more instance now.
async fn provision_lanes(supply: &Arc<Supply>) -> Vec<Lane> {
    let mut lanes = Vec::new();
    if supply.shared.is_draining() || !supply.is_secret_known() {
        return lanes;
    }
    for template in supply.shared.template_pools.configured().iter() {
        let Some(pool) = supply.shared.template_pools.get(template.name.as_str()) else { continue };
        let is_baking = !pool.bake_state.is_settled(template.revision) && !pool.bake_state.has_failed();
        if pool.pause().is_none() && !is_baking && has_room(supply, &pool, 1).await {
            lanes.push(Lane::Provision(template.name.clone()));
        }
    }
    lanes
}

/// Returns whether this node has room for its attempts and `more`.
async fn has_room(supply: &Supply, pool: &TemplatePool, more: usize) -> bool {
    let (attempts, sizes) = (pool.attempts() + more, pool.sizes());
    let name = pool.template().name.clone();
    let Ok(counts) = supply.shared.store.counts(&name, Some(&supply.shared.node)).await else { return false };
    let warming = (counts.warming + more).max(attempts);
    attempts <= sizes.concurrency && counts.ready + counts.assigned + warming <= sizes.max
}

fn begin(supply: &Arc<Supply>, taken: TakenJob, permit: OwnedSemaphorePermit) {
    let worker = supply.clone();
    let work = async move {
        work_on(&worker, taken).await;
        drop(permit);
    };
    task::spawn("pool worker", supply.tasks.track_future(work));
}

/// Does a job and settles it.
async fn work_on(supply: &Arc<Supply>, taken: TakenJob) {
    let TakenJob { job, deliveries, receipt } = taken;
    let outcome = if deliveries > MAX_DELIVERIES {
        JobOutcome::Failed(format!("{} workers ended before it was done", deliveries - 1))
    } else {
        with_progress(&*receipt, perform(supply, &job)).await
    };
    let id = job.id();
    let settled = match outcome {
        JobOutcome::Done => receipt.done().await,
        JobOutcome::Interrupted => receipt.retry_later(Duration::ZERO).await,
        JobOutcome::Failed(error) if deliveries >= MAX_DELIVERIES => {
            tracing::error!(job = %id, deliveries, %error, "job parked");
            receipt.park(&error, supply.shared.clock.now()).await
        }
        JobOutcome::Failed(error) => {
            let delay = retry_delay(deliveries);
            tracing::warn!(job = %id, deliveries, %error, ?delay, "job failed; retrying later");
            receipt.retry_later(delay).await
        }
    };
    if let Err(error) = settled {
        // It is delivered again, and its work is not wanted then.
        tracing::debug!(job = %id, %error, "failed to settle job");
    }
}

fn retry_delay(deliveries: u32) -> Duration {
    FIRST_RETRY_DELAY * 2_u32.saturating_pow(deliveries.saturating_sub(1).min(MAX_DELIVERIES))
}

/// Reports progress again and again while `work` goes on.
async fn with_progress(receipt: &dyn Receipt, work: impl Future<Output = JobOutcome>) -> JobOutcome {
    let reporting = async {
        loop {
            tokio::time::sleep(receipt.progress_interval()).await;
            if let Err(error) = receipt.progress().await {
                tracing::debug!(%error, "failed to report progress of job");
            }
        }
    };
    tokio::select! {
        outcome = work => outcome,
        () = reporting => JobOutcome::Interrupted,
    }
}

async fn perform(supply: &Arc<Supply>, job: &Job) -> JobOutcome {
    match job {
        Job::Provision { template, .. } => provision(supply, template).await,
        Job::Cleanup { node, instance } if *node == supply.shared.node => clean_up(supply, instance).await,
        Job::Cleanup { .. } => JobOutcome::Done,
    }
}

/// Makes an instance if one is wanted and this node has room.
async fn provision(supply: &Arc<Supply>, template: &TemplateName) -> JobOutcome {
    let Some(pool) = supply.shared.template_pools.get(template.as_str()) else { return JobOutcome::Done };
    if !pool.is_configured() || supply.shared.is_draining() || !supply.is_secret_known() {
        return JobOutcome::Done;
    }
    // Counts from here on, so that the jobs of this node together keep within its room.
    let attempt = ProvisionTask::new(supply, pool.clone());
    match ClusterPool::observe(supply, &pool).await {
        Ok(cluster) if !cluster.wants_one() => return JobOutcome::Done,
        Ok(_) => {}
        // That says nothing of the job, which is planned again.
        Err(error) => {
            tracing::debug!(%template, %error, "failed to check job");
            return JobOutcome::Done;
        }
    }
    if !has_room(supply, &pool, 0).await || !bake::ensure_checkpoint(supply, &pool, &pool.template()).await {
        return JobOutcome::Done;
    }
    match attempt.run().await {
        AttemptOutcome::Ready | AttemptOutcome::Outdated => JobOutcome::Done,
        AttemptOutcome::Stopping => JobOutcome::Interrupted,
        AttemptOutcome::Failed(error) => JobOutcome::Failed(error),
    }
}
