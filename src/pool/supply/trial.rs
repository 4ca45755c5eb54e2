//! One instance that is made as any other, measured and ended, for an operator who tries an image.
//!
//! The instance is never on record. So a crash at any instant leaves an unrecorded instance, which the next server
//! process of the node stops.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::bake::with_deaths;
use super::provision::{INSTANCE_HOOKS, ProvisionDraft, ProvisionStep, START_STEPS, run_steps};
use crate::instance::InstanceId;
use crate::pool::Supply;
use crate::runtime::{MemoryUse, StartMethod};

/// The steps of a trial: those of any instance, without its record.
const STEPS: [ProvisionStep; 6] = {
    let [database, start, answer, warm_up, bake_hooks] = START_STEPS;
    [database, start, answer, warm_up, bake_hooks, INSTANCE_HOOKS]
};

/// What a trial measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrialStart {
    /// How the instance was made.
    pub method: StartMethod,
    /// Time from the beginning of its start until it could be offered.
    pub took: Duration,
    /// Its memory when it could be offered; `None` where the kernel does not report it.
    pub memory: Option<MemoryUse>,
}

/// Why a trial made no instance. Nothing of the attempt remains.
#[derive(Debug, thiserror::Error)]
pub enum TrialStartError {
    /// The template is not configured.
    #[error("there is no such template")]
    NoTemplate,
    /// One step failed.
    #[error("step `{step}` failed: {why}")]
    Step {
        /// The step's name.
        step: &'static str,
        /// Why it failed.
        why: String,
    },
}

impl Supply {
    /// Makes one instance of a template, restored if there is a checkpoint, measures and ends it. The pool must not be
    /// running. The caller shuts the pool down afterwards, also when it drops the future.
    ///
    /// # Errors
    /// See [`TrialStartError`].
    pub async fn try_start(self: &Arc<Self>, name: &str) -> Result<TrialStart, TrialStartError> {
        let template_pool = self.shared.template_pools.get(name).ok_or(TrialStartError::NoTemplate)?;
        let template = template_pool.template();
        let id = InstanceId::random(&template.name);
        let lock = self.in_flight.lock(&id).expect("no task knows an id that was drawn just now");
        let mut draft = ProvisionDraft::new(self, &template_pool, template, id.clone());
        with_deaths(self, async {
            let begun = Instant::now();
            let made = run_steps(&STEPS, &mut draft, &lock).await;
            made.map_err(|(step, error)| TrialStartError::Step { step, why: error.to_string() })?;
            let took = begun.elapsed();
            let report = self.runtime.memory().await;
            let of_instance = |(of, memory): &(InstanceId, MemoryUse)| (*of == id).then_some(*memory);
            let memory = report.and_then(|report| report.instances.iter().find_map(of_instance));
            draft.end().await;
            Ok(TrialStart { method: draft.started().method, took, memory })
        })
        .await
    }
}
