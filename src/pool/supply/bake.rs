//! Checkpoints: one instance of a template is made, warmed up and frozen, so that the others are restored from it.
//!
//! While the first instance is being baked, no other instance of the template is made: a cold start takes longer than
//! the bake and a restore save. Once a bake has failed, instances are started cold, and baking is tried again beside
//! them, with growing pauses. A checkpoint whose instances do not become ready is discarded, and counts as a failed bake:
//! else the pool would stay empty for ever.
//!
//! The instance that is baked is never on record. So it is never assigned, and does not count towards the capacity. It
//! is locked until it is gone; one that a crash leaves running is unrecorded, and the next server process stops it.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::Instant;

use super::compare_restores::compare_restores;
use super::provision::{ProvisionDraft, ProvisionStep, START_STEPS, run_steps};
use super::provision_error::ProvisionError;
use crate::instance::InstanceId;
use crate::pool::Supply;
use crate::pool::template_pool::TemplatePool;
use crate::runtime::{CheckpointStatus, RuntimeError, StartMethod};
use crate::telemetry::{Outcome, task};
use crate::template::Template;

/// Longest time that a runtime may take to report whether there is a checkpoint.
const STATUS_DEADLINE: Duration = Duration::from_secs(1);
/// Longest time to freeze an instance. The app's memory is written to disk; this suffices for the largest apps.
const FREEZE_DEADLINE: Duration = Duration::from_secs(300);

/// The step that fetches the app, before those of [`BAKE_STEPS`].
const FETCH: &str = "fetch";

/// The steps of a bake: those of any instance, without its record and without what makes it unlike the others.
const BAKE_STEPS: [ProvisionStep; 6] = {
    let [database, start, answer, warm_up, bake_hooks] = START_STEPS;
    [
        database,
        start,
        answer,
        warm_up,
        bake_hooks,
        ProvisionStep { name: "freeze", act: |d| freeze(d), undo: |_| Box::pin(async {}) },
    ]
};

/// Makes sure that a template has a checkpoint, where the runtime makes any: begins a bake in the background if needed.
/// Returns whether instances may be made now; if not, the reconcile loop is woken when they may.
pub(in crate::pool) async fn ensure_checkpoint(
    supply: &Arc<Supply>,
    template_pool: &Arc<TemplatePool>,
    template: &Template,
) -> bool {
    let request = supply.runtime.checkpoint_status(template.revision, &template.app);
    let Ok(status) = tokio::time::timeout(STATUS_DEADLINE, request).await else {
        tracing::error!(template = %template.name, "failed to get checkpoint status in time");
        return true;
    };
    if !template_pool.wants(template.revision) {
        // The change of the configuration has woken the reconcile loop.
        return false;
    }
    let bake_state = &template_pool.bake_state;
    // A runtime removes a checkpoint that cannot be restored, and a new one will hardly be better.
    if status == CheckpointStatus::Missing && bake_state.is_settled(template.revision) {
        bake_state.record_failure("its checkpoint was discarded".to_owned());
    }
    bake_state.set_settled((status != CheckpointStatus::Missing).then_some(template.revision));
    template_pool.expect_start_method(match status {
        CheckpointStatus::Present => StartMethod::Restored,
        CheckpointStatus::Missing | CheckpointStatus::Never => StartMethod::Cold,
    });
    if status != CheckpointStatus::Missing {
        return true;
    }
    let may_begin = bake_state.pause().is_none() && !supply.shared.stopping.is_cancelled();
    if may_begin && bake_state.try_begin() {
        let bake = BakeTask { supply: supply.clone(), template_pool: template_pool.clone() };
        task::spawn("pool bake", supply.tasks.track_future(async move { bake.run().await }));
    }
    bake_state.has_failed()
}

/// The result of [`Supply::bake`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BakeOutcome {
    /// A checkpoint was made.
    Baked {
        /// Values that the first two restored instances both drew, though they should be random; described for the
        /// operator.
        repeated: Vec<String>,
    },
    /// A checkpoint that fits exists already.
    AlreadyBaked,
    /// The template has a runtime handler of its own, which starts its instances and restores none.
    NeverBaked,
}

/// Why a template was not baked. No partial checkpoint remains.
#[derive(Debug, thiserror::Error)]
pub enum BakeError {
    /// The template is not configured.
    #[error("there is no such template")]
    NoTemplate,
    /// The runtime makes no checkpoints, or cannot on this host.
    #[error("the {0} runtime cannot bake here (see: try-it-now doctor)")]
    Unsupported(&'static str),
    /// One step failed.
    #[error("step `{step}` failed: {why}")]
    Step {
        /// The step's name.
        step: &'static str,
        /// Why it failed.
        why: String,
    },
}

/// Bakes a template, unless it has a checkpoint: fetches its app, which may bring a checkpoint that an earlier server
/// process baked, makes an instance and freezes it. Returns whether it made a checkpoint.
///
/// # Errors
/// The name of the step that failed, and why. Its undo and those of the steps before it have run.
async fn bake(
    supply: &Arc<Supply>,
    template_pool: &Arc<TemplatePool>,
    template: &Arc<Template>,
) -> Result<bool, (&'static str, ProvisionError)> {
    let fetched = tokio::select! {
        biased;
        () = supply.shared.stopping.cancelled() => Err(ProvisionError::Stopping),
        () = template_pool.outdated(template.revision) => Err(ProvisionError::Outdated),
        fetched = supply.runtime.fetch(&template.app) => fetched.map_err(ProvisionError::from),
    };
    fetched.map_err(|error| (FETCH, error))?;
    let status = supply.runtime.checkpoint_status(template.revision, &template.app).await;
    if status != CheckpointStatus::Missing {
        return Ok(false);
    }
    let id = InstanceId::random(&template.name);
    tracing::info!(template = %template.name, %id, "bake started");
    let lock = supply.in_flight.lock(&id).expect("no task knows an id that was drawn just now");
    let mut draft = ProvisionDraft::new(supply, template_pool, template.clone(), id).for_bake();
    let outcome = run_steps(&BAKE_STEPS, &mut draft, &lock).await;
    if outcome.is_ok() {
        // Each restored instance gets a database of its own.
        draft.drop_database().await;
    }
    // Its death needs no handling: it was frozen, or its steps were undone.
    lock.unlock();
    outcome.map(|()| true)
}

impl Supply {
    /// Bakes a template ahead of its use, unless it has a checkpoint. The pool must not be running. The caller shuts
    /// the pool down afterwards, also when it drops the future.
    ///
    /// # Errors
    /// See [`BakeError`].
    pub async fn bake(self: &Arc<Self>, name: &str) -> Result<BakeOutcome, BakeError> {
        let template_pool = self.shared.template_pools.get(name).ok_or(BakeError::NoTemplate)?;
        let template = template_pool.template();
        if template.app.runtime.is_some() {
            return Ok(BakeOutcome::NeverBaked);
        }
        let is_possible = async || {
            self.runtime.checkpoint_status(template.revision, &template.app).await != CheckpointStatus::Never
        };
        let unsupported = BakeError::Unsupported(self.runtime.name());
        if !is_possible().await {
            return Err(unsupported);
        }
        let baked = with_deaths(self, async {
            match bake(self, &template_pool, &template).await? {
                true => Ok(Some(compare_restores(self, &template_pool, &template).await)),
                false => Ok(None),
            }
        });
        let failed = |(step, error): (_, ProvisionError)| BakeError::Step { step, why: error.to_string() };
        match baked.await.map_err(failed)? {
            Some(repeated) => Ok(BakeOutcome::Baked { repeated }),
            None if is_possible().await => Ok(BakeOutcome::AlreadyBaked),
            None => Err(unsupported),
        }
    }

    /// Returns whether a template has a runtime handler of its own, so that it is never baked.
    pub fn has_runtime_handler(&self, name: &str) -> bool {
        self.shared.template_pools.get(name).is_some_and(|pool| pool.template().app.runtime.is_some())
    }

    /// Describes a template's checkpoint for the operator in lines; none where there is no checkpoint.
    pub async fn describe_checkpoint(&self, name: &str) -> Vec<String> {
        let Some(template_pool) = self.shared.template_pools.get(name) else { return Vec::new() };
        let template = template_pool.template();
        let (revision, app) = (template.revision, &template.app);
        let sharing = self.runtime.describe_checkpoint(revision, app).await;
        sharing.into_iter().chain(self.runtime.describe_random_numbers(revision, app).await).collect()
    }
}

/// Runs work of a pool that is not running, and meanwhile reports the deaths of instances to the tasks that locked them.
pub(super) async fn with_deaths<T>(supply: &Supply, work: impl Future<Output = T>) -> T {
    let mut exits = supply.runtime.exits();
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            outcome = &mut work => return outcome,
            Some(exit) = exits.recv() => {
                supply.in_flight.report_death(&exit.id);
            }
        }
    }
}

/// A bake in progress. Dropping it marks the bake as ended.
struct BakeTask {
    supply: Arc<Supply>,
    template_pool: Arc<TemplatePool>,
}

impl Drop for BakeTask {
    fn drop(&mut self) {
        self.template_pool.bake_state.end();
        self.supply.shared.wake.notify_one();
    }
}

impl BakeTask {
    async fn run(&self) {
        let (supply, template_pool) = (&self.supply, &self.template_pool);
        let template = template_pool.template();
        let name = template.name.as_str();
        let start = Instant::now();
        match bake(supply, template_pool, &template).await {
            Ok(false) => {}
            Ok(true) => {
                supply.shared.metrics.record_bake(name, Outcome::Success, start.elapsed());
                template_pool.bake_state.begin_checkpoint();
                if template_pool.wants(template.revision) {
                    template_pool.expect_start_method(StartMethod::Restored);
                }
                let millis = start.elapsed().as_millis() as u64;
                tracing::info!(template = name, millis, "checkpoint baked");
                // The pool fills meanwhile.
                supply.shared.wake.notify_one();
                compare_restores(supply, template_pool, &template).await;
            }
            Err((_, ProvisionError::Stopping)) => {}
            Err((step, error)) if !template_pool.wants(template.revision) => {
                tracing::debug!(template = name, step, %error, "bake of outdated template abandoned");
            }
            Err((step, error)) => {
                supply.shared.metrics.record_bake(name, Outcome::Error, start.elapsed());
                let is_first = template_pool.bake_state.record_failure(error.to_string());
                let pause = template_pool.bake_state.pause().unwrap_or_default();
                if is_first {
                    tracing::error!(
                        template = name, step, %error, ?pause,
                        "failed to bake checkpoint; instances are started cold, which is slower"
                    );
                } else {
                    tracing::debug!(template = name, step, %error, ?pause, "failed to bake checkpoint again");
                }
            }
        }
    }
}

fn freeze<'a>(draft: &'a mut ProvisionDraft<'_>) -> BoxFuture<'a, Result<(), ProvisionError>> {
    Box::pin(async {
        let (revision, app) = (draft.template.revision, &draft.template.app);
        let runtime = &draft.supply.runtime;
        let failed = |source| RuntimeError::Io { operation: "freeze it".to_owned(), source };
        match tokio::time::timeout(FREEZE_DEADLINE, runtime.bake(&draft.id, revision, app)).await {
            Ok(frozen) => frozen?,
            Err(_) => return Err(failed(std::io::ErrorKind::TimedOut.into()).into()),
        }
        // Checked here: without a checkpoint the reconcile loop would bake again at once, without end.
        match runtime.checkpoint_status(revision, app).await {
            CheckpointStatus::Missing => {
                Err(failed(std::io::Error::other("there is no checkpoint afterwards")).into())
            }
            CheckpointStatus::Present | CheckpointStatus::Never => Ok(()),
        }
    })
}
