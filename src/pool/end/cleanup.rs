//! The job of removing an instance that has ended but could not be stopped at once.
//!
//! The garbage collection is what guarantees the removal. The job repeats it with growing pauses, and shows the operator
//! what fails for good.

use std::sync::Arc;

use super::gc::is_living;
use crate::cluster::queue::Job;
use crate::instance::InstanceId;
use crate::pool::Supply;
use crate::pool::supply::job_outcome::JobOutcome;

impl Supply {
    /// Gives the queue the job of removing an instance of this node.
    pub(super) async fn publish_cleanup(&self, instance: InstanceId) {
        let job = Job::Cleanup { node: self.shared.node.clone(), instance };
        if let Err(error) = self.queue.publish(&job).await {
            tracing::debug!(job = %job.id(), %error, "failed to publish job");
        }
    }
}

/// Removes an instance that is not on record as living. Does nothing with one that is, or that another task works on.
pub(in crate::pool) async fn clean_up(supply: &Arc<Supply>, id: &InstanceId) -> JobOutcome {
    let Some(lock) = supply.in_flight.lock(id) else { return JobOutcome::Done };
    let is_on_record = match supply.shared.store.get(id).await {
        Ok(found) => found.is_some_and(|instance| is_living(&instance)),
        // That says nothing of the job, which the garbage collection gives again.
        Err(error) => {
            tracing::debug!(%id, %error, "failed to check job");
            return JobOutcome::Done;
        }
    };
    let outcome = match is_on_record {
        true => JobOutcome::Done,
        false => match supply.stop_with_database(id).await {
            Ok(()) => JobOutcome::Done,
            Err(error) => JobOutcome::Failed(error.to_string()),
        },
    };
    if lock.unlock() && is_on_record {
        supply.fail(id, "it died while its record was read").await;
    }
    outcome
}
