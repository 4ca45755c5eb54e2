//! One attempt at making an instance, in the background: it counts as in progress until it ends, and its outcome decides
//! what is tried next.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::failed_restores;
use super::provision::{ANSWER, ProvisionDraft, STEPS, run_steps};
use super::provision_error::ProvisionError;
use crate::instance::InstanceId;
use crate::pool::Supply;
use crate::pool::template_pool::TemplatePool;
use crate::runtime::StartMethod;
use crate::telemetry::{Outcome, ProvisionMethod, task};

/// Longest time for which an instance leaves the processors to others. Busy ones could else keep it from becoming ready,
/// and its checkpoint would count as unfit.
const MAX_YIELDING: Duration = Duration::from_secs(2);

/// Pause between two attempts to end the yielding of an instance.
const END_YIELDING_INTERVAL: Duration = Duration::from_millis(5);

/// Begins one attempt in the background.
pub(in crate::pool) fn begin(supply: &Arc<Supply>, template_pool: Arc<TemplatePool>) {
    let attempt = ProvisionTask::new(supply, template_pool);
    task::spawn("pool provision", supply.tasks.track_future(async move { attempt.run().await }));
}

/// What came of an attempt. Whatever it is, it was noted and logged.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum AttemptOutcome {
    /// The instance was offered.
    Ready,
    /// The configuration wants no instance of the template's revision any more.
    Outdated,
    /// The pools shut down or drain.
    Stopping,
    /// It failed, for this reason.
    Failed(String),
}

/// An attempt in progress. Dropping it ends its count.
pub(super) struct ProvisionTask {
    supply: Arc<Supply>,
    template_pool: Arc<TemplatePool>,
}

impl Drop for ProvisionTask {
    fn drop(&mut self) {
        self.template_pool.attempts.fetch_sub(1, Ordering::AcqRel);
        self.supply.shared.wake.notify_one();
    }
}

impl ProvisionTask {
    /// Creates an attempt, which counts as in progress from now on.
    pub(super) fn new(supply: &Arc<Supply>, template_pool: Arc<TemplatePool>) -> Self {
        template_pool.attempts.fetch_add(1, Ordering::AcqRel);
        Self { supply: supply.clone(), template_pool }
    }

    /// Ends the yielding of an instance when a visitor waits for one, or when it has yielded for [`MAX_YIELDING`].
    async fn end_yielding_when_awaited(&self, id: &InstanceId) -> Infallible {
        tokio::select! {
            () = self.template_pool.wait_queue.occupied() => {}
            () = tokio::time::sleep(MAX_YIELDING) => {}
        }
        // Before its start, the runtime does not know it.
        while !self.supply.runtime.end_yielding(id).await {
            tokio::time::sleep(END_YIELDING_INTERVAL).await;
        }
        std::future::pending().await
    }

    /// Makes the instance.
    pub(super) async fn run(&self) -> AttemptOutcome {
        let (supply, template_pool) = (&self.supply, &self.template_pool);
        let template = template_pool.template();
        let id = InstanceId::random(&template.name);
        let Some(lock) = supply.in_flight.lock(&id) else { return AttemptOutcome::Stopping };
        let begun = Instant::now();
        let mut draft = ProvisionDraft::new(supply, template_pool, template.clone(), id.clone()).for_refill();
        let outcome = tokio::select! {
            outcome = run_steps(&STEPS, &mut draft, &lock) => outcome,
            never = self.end_yielding_when_awaited(&id) => match never {},
        };
        let has_died = lock.unlock();
        let name = template.name.as_str();
        // An attempt that failed before the start counts as one of the expected method.
        let start_method = draft.start_method().unwrap_or_else(|| template_pool.expected_start_method());
        let method = match start_method {
            StartMethod::Restored => ProvisionMethod::CriuRestore,
            StartMethod::Cold => ProvisionMethod::ColdStart,
        };
        match outcome {
            Ok(()) => {
                supply.shared.metrics.record_provision(name, method, Outcome::Success, begun.elapsed());
                template_pool.record_success(start_method, begun.elapsed());
                if start_method == StartMethod::Restored {
                    template_pool.bake_state.reset();
                }
                if has_died {
                    supply.fail(&id, "it died while it was being offered").await;
                } else {
                    tracing::debug!(%id, millis = begun.elapsed().as_millis() as u64, "instance ready");
                    template_pool.wait_queue.notify_ready();
                }
                AttemptOutcome::Ready
            }
            Err((_, ProvisionError::Stopping)) => AttemptOutcome::Stopping,
            Err((step, error)) if !template_pool.wants(template.revision) => {
                tracing::debug!(%id, step, %error, "attempt at outdated template abandoned");
                AttemptOutcome::Outdated
            }
            Err((step, error)) => {
                supply.shared.metrics.record_provision(name, method, Outcome::Error, begun.elapsed());
                if template_pool.wants(template.revision) {
                    template_pool.record_failure(error.to_string());
                }
                let pause = template_pool.pause().unwrap_or_default();
                tracing::error!(template = name, step, %error, ?pause, "failed to make instance");
                // Hooks and the store fail for reasons of their own.
                let is_restored = draft.start_method() == Some(StartMethod::Restored);
                if is_restored && step == ANSWER {
                    let why = error.to_string();
                    // Each attempt would be larger by what only this case needs.
                    Box::pin(failed_restores::record_failed_restore(supply, template_pool, &template, &why))
                        .await;
                }
                AttemptOutcome::Failed(format!("{step}: {error}"))
            }
        }
    }
}
