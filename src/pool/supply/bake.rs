//! Golden checkpoints: one instance of a template is made, warmed up and frozen, so that the others are copies of it.
//!
//! While the first is being made, no other instance of the template is: each would take as long from nothing as the
//! copies will not. Once a bake has failed, instances are started cold, and baking is tried again less and less
//! often beside them. The instance that is baked is never on record, so nobody gets it and it takes no place of the
//! pool's capacity; it is held in hand until it is gone, and one that a crash leaves is a stray to the next server.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::backoff::Backoff;
use super::provision::{ProvisionDraft, ProvisionError, ProvisionStep, START_STEPS, run_steps};
use crate::instance::InstanceId;
use crate::pool::Pool;
use crate::pool::template_pool::TemplatePool;
use crate::runtime::{CheckpointStatus, RuntimeError, StartMethod};
use crate::telemetry::Outcome;
use crate::template::Template;

/// Longest time that a runtime may take to say whether there is a checkpoint.
const ASK_DEADLINE: Duration = Duration::from_secs(1);
/// Longest time that freezing an instance may take. It writes the app's memory to disk, so this is for the largest.
const FREEZE_DEADLINE: Duration = Duration::from_secs(300);

/// An instance that is to be frozen is made as any other is, but for the record and for what makes it one of its own.
const STEPS: [ProvisionStep; 5] = {
    let [start, answer, warm_up, prepare] = START_STEPS;
    [
        start,
        answer,
        warm_up,
        prepare,
        ProvisionStep { name: "freeze", act: |d| freeze(d), undo: |_| Box::pin(async {}) },
    ]
};

/// What this server remembers of one template's golden checkpoints.
#[derive(Debug, Default)]
pub(crate) struct BakeState {
    baking: AtomicBool,
    backoff: Mutex<Backoff>,
    /// The revision of which the runtime last said that there is nothing to bake.
    settled: Mutex<Option<u64>>,
}

impl BakeState {
    /// Whether there was nothing to bake for this revision when the runtime was last asked.
    pub(crate) fn is_settled(&self, revision: u64) -> bool {
        *self.settled.lock() == Some(revision)
    }

    /// Time until baking is tried again after it failed.
    pub(crate) fn pause(&self) -> Option<Duration> {
        self.backoff.lock().remaining(Instant::now())
    }

    /// A new revision: what kept the old one from being baked may be mended.
    pub(crate) fn forget_failures(&self) {
        self.backoff.lock().succeeded();
    }

    fn has_failed(&self) -> bool {
        self.backoff.lock().why().is_some()
    }
}

/// Sees to it that there is a golden checkpoint of a template where the runtime makes any. Whether instances may be
/// made now; if not, the pool is woken when they may.
pub(crate) async fn prepare(pool: &Arc<Pool>, keeper: &Arc<TemplatePool>, template: &Template) -> bool {
    let question = pool.runtime.checkpoint_status(template.revision, &template.app);
    let Ok(golden) = tokio::time::timeout(ASK_DEADLINE, question).await else {
        tracing::error!(template = %template.name, "the runtime does not say whether there is a checkpoint");
        return true;
    };
    if !keeper.wants(template.revision) {
        // Whoever changed it has woken the pool.
        return false;
    }
    let bakery = &keeper.bakery;
    *bakery.settled.lock() = (golden != CheckpointStatus::Missing).then_some(template.revision);
    keeper.expect(if golden == CheckpointStatus::Present {
        StartMethod::Restored
    } else {
        StartMethod::Cold
    });
    if golden != CheckpointStatus::Missing {
        return true;
    }
    let may_begin = bakery.pause().is_none() && !pool.stopping.is_cancelled();
    if may_begin && !bakery.baking.swap(true, Ordering::AcqRel) {
        let baking = Baking { pool: pool.clone(), keeper: keeper.clone() };
        crate::telemetry::task::spawn(
            "pool bake",
            pool.tasks.track_future(async move { baking.run().await }),
        );
    }
    bakery.has_failed()
}

/// What came of [`Pool::bake`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Baked {
    /// There is a new checkpoint.
    Now,
    /// There was one that fits.
    Already,
}

/// Why a template was not baked. Nothing half made is left.
#[derive(Debug, thiserror::Error)]
pub enum BakeError {
    /// It is not configured.
    #[error("there is no such template")]
    NoTemplate,
    /// The runtime makes no checkpoints, or cannot on this host.
    #[error("the {0} runtime cannot bake here (see: try-it-now doctor)")]
    Never(&'static str),
    /// One step failed.
    #[error("it could not {step}: {why}")]
    Step {
        /// Which one.
        step: &'static str,
        /// Why it failed.
        why: String,
    },
}

impl Pool {
    /// Bakes a template for those who will need it, if that was not done before. For a pool that does not run.
    ///
    /// # Errors
    /// Why there is no checkpoint. The caller drains the pool, also when it drops the future.
    pub async fn bake(self: &Arc<Self>, name: &str) -> Result<Baked, BakeError> {
        let keeper = self.keepers.get(name).ok_or(BakeError::NoTemplate)?;
        let template = keeper.template();
        let failed = |step, why: &dyn std::fmt::Display| BakeError::Step { step, why: why.to_string() };
        let golden = || self.runtime.checkpoint_status(template.revision, &template.app);
        if golden().await == CheckpointStatus::Never {
            return Err(BakeError::Never(self.runtime.name()));
        }
        self.runtime.fetch(&template.app).await.map_err(|error| failed("fetch", &error))?;
        match golden().await {
            CheckpointStatus::Never => return Err(BakeError::Never(self.runtime.name())),
            CheckpointStatus::Present => return Ok(Baked::Already),
            CheckpointStatus::Missing => {}
        }
        let mut exits = self.runtime.exits();
        let id = InstanceId::random(&template.name);
        let hold = self.hands.take(&id).expect("an id that was just drawn is in nobody's hands");
        let mut draft = ProvisionDraft::new(self, &keeper, template.clone(), id).for_a_freeze();
        let mut making = std::pin::pin!(run_steps(&STEPS, &mut draft, &hold));
        let outcome = loop {
            tokio::select! {
                outcome = &mut making => break outcome,
                Some(exit) = exits.recv() => {
                    self.hands.died(&exit.id);
                }
            }
        };
        outcome.map(|()| Baked::Now).map_err(|(step, error)| failed(step, &error))
    }
}

impl Pool {
    /// What an operator may want to know of a template's golden checkpoint; `None` where there is none.
    pub async fn about_golden(&self, name: &str) -> Option<String> {
        let template = self.keepers.get(name)?.template();
        self.runtime.describe_checkpoint(template.revision, &template.app).await
    }
}

/// A bake that is under way until it ends, in whatever way.
struct Baking {
    pool: Arc<Pool>,
    keeper: Arc<TemplatePool>,
}

impl Drop for Baking {
    fn drop(&mut self) {
        self.keeper.bakery.baking.store(false, Ordering::Release);
        self.pool.wake.notify_one();
    }
}

impl Baking {
    async fn run(&self) {
        let (pool, keeper) = (&self.pool, &self.keeper);
        let template = keeper.template();
        let name = template.name.as_str();
        if self.is_baked_after_all(&template).await {
            return;
        }
        let id = InstanceId::random(&template.name);
        let Some(hold) = pool.hands.take(&id) else { return };
        let start = Instant::now();
        tracing::info!(template = name, %id, "baking: an instance is made to be copied");
        let mut draft = ProvisionDraft::new(pool, keeper, template.clone(), id).for_a_freeze();
        let outcome = run_steps(&STEPS, &mut draft, &hold).await;
        // Its end is what it was made for, or was undone.
        hold.let_go();
        match outcome {
            Ok(()) => {
                pool.metrics.baked(name, Outcome::Success, start.elapsed());
                keeper.bakery.forget_failures();
                if keeper.wants(template.revision) {
                    keeper.expect(StartMethod::Restored);
                }
                tracing::info!(template = name, millis = start.elapsed().as_millis() as u64, "baked");
            }
            Err((_, ProvisionError::Stopping)) => {}
            Err((step, error)) if !keeper.wants(template.revision) => {
                tracing::debug!(template = name, step, %error, "the bake of an outdated template was given up");
            }
            Err((step, error)) => {
                pool.metrics.baked(name, Outcome::Error, start.elapsed());
                keeper.bakery.backoff.lock().failed(Instant::now(), error.to_string());
                let pause = keeper.bakery.pause().unwrap_or_default();
                tracing::error!(
                    template = name, step, %error, ?pause,
                    "baking failed: instances are started cold, which is slower, until it works"
                );
            }
        }
    }

    /// Fetches the app, which may show that it was baked before this server started. What keeps it from being fetched
    /// is told by the start that follows.
    async fn is_baked_after_all(&self, template: &Template) -> bool {
        let (pool, keeper) = (&self.pool, &self.keeper);
        tokio::select! {
            biased;
            () = pool.stopping.cancelled() => return true,
            () = keeper.outdated(template.revision) => return true,
            fetched = pool.runtime.fetch(&template.app) => if fetched.is_err() { return false },
        }
        pool.runtime.checkpoint_status(template.revision, &template.app).await != CheckpointStatus::Missing
    }
}

fn freeze<'a>(draft: &'a mut ProvisionDraft<'_>) -> BoxFuture<'a, Result<(), ProvisionError>> {
    Box::pin(async {
        let (revision, app) = (draft.template.revision, &draft.template.app);
        let runtime = &draft.pool.runtime;
        let failed = |source| RuntimeError::Io { doing: "freeze it".to_owned(), source };
        match tokio::time::timeout(FREEZE_DEADLINE, runtime.bake(&draft.id, revision, app)).await {
            Ok(frozen) => frozen?,
            Err(_) => return Err(failed(std::io::ErrorKind::TimedOut.into()).into()),
        }
        // Else it would be baked again at once, and for ever.
        match runtime.checkpoint_status(revision, app).await {
            CheckpointStatus::Missing => {
                Err(failed(std::io::Error::other("the checkpoint is not there")).into())
            }
            CheckpointStatus::Present | CheckpointStatus::Never => Ok(()),
        }
    })
}
