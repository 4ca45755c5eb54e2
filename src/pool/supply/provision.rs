//! Making one instance: a table of named steps, each with its undo.
//!
//! Whatever step fails, the steps done before are undone in reverse order, so nothing is left. A crash of the
//! server between two steps leaves what [`super::reconcile`] and the runtime find at the next start.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::future::BoxFuture;
use tokio::time::Instant;

use super::hooks::{self, HookError, Values};
use super::readiness;
use super::readiness::{NotReady, Target};
use crate::instance::{Instance, InstanceId};
use crate::pool::Pool;
use crate::pool::in_flight::InstanceLock;
use crate::pool::template_pool::TemplatePool;
use crate::runtime::{RuntimeError, StartMethod, StartRequest, Started};
use crate::store::StoreError;
use crate::telemetry::{Outcome, ProvisionMethod};
use crate::template::Template;
use crate::template::hooks::Calls;

/// Why no instance came of an attempt. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProvisionError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    #[error(transparent)]
    NotReady(#[from] NotReady),
    #[error(transparent)]
    Hook(#[from] HookError),
    #[error("the app ended before it was ready; its last output: {0}")]
    Died(String),
    #[error("the server is stopping")]
    Stopping,
    #[error("the template has changed meanwhile")]
    Outdated,
}

/// An instance in the making.
pub(crate) struct ProvisionDraft<'p> {
    pub(crate) pool: &'p Arc<Pool>,
    keeper: &'p TemplatePool,
    pub(crate) template: Arc<Template>,
    pub(crate) id: InstanceId,
    /// What its hooks give it.
    values: Values,
    order: StartRequest,
    started: Option<Started>,
}

pub(crate) type Act = for<'a> fn(&'a mut ProvisionDraft<'_>) -> BoxFuture<'a, Result<(), ProvisionError>>;
pub(crate) type Undo = for<'a> fn(&'a ProvisionDraft<'_>) -> BoxFuture<'a, ()>;

pub(crate) struct ProvisionStep {
    pub(crate) name: &'static str,
    pub(crate) act: Act,
    pub(crate) undo: Undo,
}

/// From nothing to an instance that answers, and that others could be copied from.
pub(crate) const START_STEPS: [ProvisionStep; 4] = [
    ProvisionStep { name: "start", act: |d| Box::pin(d.start()), undo: |d| Box::pin(d.stop()) },
    ProvisionStep { name: "answer", act: |d| Box::pin(d.answer()), undo: |_| Box::pin(async {}) },
    ProvisionStep { name: "warm up", act: |d| Box::pin(d.warm_up()), undo: |_| Box::pin(async {}) },
    ProvisionStep {
        name: "run the bake hooks",
        act: |d| Box::pin(d.prepare()),
        undo: |_| Box::pin(async {}),
    },
];

pub(crate) const STEPS: [ProvisionStep; 7] = {
    let [start, answer, warm_up, prepare] = START_STEPS;
    [
        ProvisionStep { name: "record", act: |d| Box::pin(d.record()), undo: |d| Box::pin(d.unrecord()) },
        start,
        answer,
        warm_up,
        prepare,
        ProvisionStep {
            name: "run the hooks",
            act: |d| Box::pin(d.make_its_own()),
            undo: |_| Box::pin(async {}),
        },
        ProvisionStep { name: "offer", act: |d| Box::pin(d.offer()), undo: |_| Box::pin(async {}) },
    ]
};

impl<'p> ProvisionDraft<'p> {
    /// Of which nothing is done yet.
    pub(crate) fn new(
        pool: &'p Arc<Pool>,
        keeper: &'p TemplatePool,
        template: Arc<Template>,
        id: InstanceId,
    ) -> Self {
        let (url, host) = (pool.address.instance_url(&id), pool.address.instance_host(&id));
        let randomness = pool.randomness.get().expect("nothing is made before the secret is known");
        let values = Values::new(randomness, &template.hooks, &id, &url, &host);
        let files = values.files(&template.hooks);
        let (app, revision) = (template.app.clone(), template.revision);
        let order = StartRequest { id: id.clone(), url, host, app, revision, files, to_be_frozen: false };
        Self { pool, keeper, template, id, values, order, started: None }
    }

    /// The same, to be frozen when its steps are done.
    pub(crate) fn for_a_freeze(mut self) -> Self {
        self.order.to_be_frozen = true;
        self
    }
}

impl ProvisionDraft<'_> {
    async fn record(&mut self) -> Result<(), ProvisionError> {
        let pool = self.pool;
        let new =
            Instance::warming(self.id.clone(), pool.node.clone(), self.template.revision, pool.clock.now());
        pool.ask(pool.store.insert(new)).await?;
        // Whoever reloads the templates retires what is on record by then, and this has just come on record.
        if self.keeper.wants(self.template.revision) { Ok(()) } else { Err(ProvisionError::Outdated) }
    }

    async fn unrecord(&self) {
        match self.pool.ask(self.pool.store.retire(&self.id)).await {
            Ok(_) | Err(StoreError::Unknown) => {}
            // It was offered, and a visitor was faster than its end.
            Err(StoreError::Refused(_)) => {
                self.pool.fail(&self.id, "it ended while it was being offered").await
            }
            Err(error) => tracing::warn!(id = %self.id, %error, "a failed attempt is still on record"),
        }
    }

    async fn start(&mut self) -> Result<(), ProvisionError> {
        let begun = Instant::now();
        let started = self.pool.runtime.start(&self.order).await?;
        if started.how == StartMethod::Restored {
            self.pool.metrics.restored(begun.elapsed());
        }
        self.started = Some(started);
        Ok(())
    }

    async fn stop(&self) {
        if let Err(error) = self.pool.runtime.stop(&self.id).await {
            tracing::error!(id = %self.id, %error, "a failed attempt still runs; it will be stopped again");
        }
    }

    async fn answer(&mut self) -> Result<(), ProvisionError> {
        if !self.pool.runtime.runs_apps() {
            return Ok(());
        }
        let started = Instant::now();
        let host = self.pool.address.instance_authority(&self.id);
        readiness::wait(self.target(&host), &self.template.ready, &self.pool.metrics).await?;
        self.pool.metrics.waited_for_ready(started.elapsed());
        Ok(())
    }

    async fn warm_up(&mut self) -> Result<(), ProvisionError> {
        let runtime = &self.pool.runtime;
        // A copy of a golden checkpoint was warmed up before that was frozen. Of the first it is seen what a visitor's first
        // page changes: what more pages change, most copies would have for nothing.
        let is_copy = self.started().how == StartMethod::Restored;
        if !runtime.runs_apps() || is_copy && !runtime.wants_observation(&self.id).await {
            return Ok(());
        }
        let host = self.pool.address.instance_authority(&self.id);
        let pages = if is_copy { 1 } else { usize::MAX };
        for path in self.template.warm_up.iter().take(pages) {
            readiness::visit(self.target(&host), path, self.template.ready.timeout).await?;
        }
        if is_copy && let Err(error) = runtime.observe(&self.id).await {
            tracing::debug!(id = %self.id, %error, "what a copy does first is not known");
        }
        Ok(())
    }

    /// What is asked of an app and run in it before it may be copied. A copy has it already.
    async fn prepare(&mut self) -> Result<(), ProvisionError> {
        match self.started().how {
            StartMethod::Cold => self.run_hooks(&self.template.hooks.bake).await,
            StartMethod::Restored => Ok(()),
        }
    }

    async fn make_its_own(&mut self) -> Result<(), ProvisionError> {
        self.run_hooks(&self.template.hooks.calls).await
    }

    async fn run_hooks(&self, calls: &Calls) -> Result<(), ProvisionError> {
        if !self.pool.runtime.runs_apps() {
            return Ok(());
        }
        let host = self.pool.address.instance_authority(&self.id);
        Ok(hooks::run(calls, &self.values, self.target(&host), &self.order).await?)
    }

    async fn offer(&mut self) -> Result<(), ProvisionError> {
        match self.pool.ask(self.pool.store.offer(&self.id, self.started().endpoint)).await {
            // Whoever retires what is ready has done that by now, and this has just become ready.
            Ok(_) if self.pool.is_draining() => match self.pool.ask(self.pool.store.retire(&self.id)).await {
                Err(StoreError::Refused(_)) => Ok(()),
                _ => Err(ProvisionError::Stopping),
            },
            Ok(_) => Ok(()),
            // Perhaps only the answer was lost. Then a visitor may have the instance by now, and keeps it.
            Err(lost @ StoreError::Unavailable(_)) => {
                match self.pool.ask(self.pool.store.retire(&self.id)).await {
                    Err(StoreError::Refused(_)) => Ok(()),
                    _ => Err(lost.into()),
                }
            }
            Err(error) => Err(error.into()),
        }
    }

    fn started(&self) -> Started {
        self.started.expect("the step `start` comes first and sets it")
    }

    /// Its app, by the authority that it is called.
    fn target<'a>(&'a self, host: &'a str) -> Target<'a> {
        Target { runtime: &*self.pool.runtime, endpoint: self.started().endpoint, host }
    }
}

/// Begins one attempt in the background.
pub(crate) fn begin(pool: &Arc<Pool>, keeper: Arc<TemplatePool>) {
    keeper.making.fetch_add(1, Ordering::AcqRel);
    let making = ProvisionTask { pool: pool.clone(), keeper };
    crate::telemetry::task::spawn(
        "pool provision",
        pool.tasks.track_future(async move { making.run().await }),
    );
}

/// An attempt that is counted until it ends, in whatever way.
struct ProvisionTask {
    pool: Arc<Pool>,
    keeper: Arc<TemplatePool>,
}

impl Drop for ProvisionTask {
    fn drop(&mut self) {
        self.keeper.making.fetch_sub(1, Ordering::AcqRel);
        self.pool.wake.notify_one();
    }
}

impl ProvisionTask {
    async fn run(&self) {
        let (pool, keeper) = (&self.pool, &self.keeper);
        let template = keeper.template();
        let id = InstanceId::random(&template.name);
        let Some(hold) = pool.hands.take(&id) else { return };
        let start = Instant::now();
        let mut draft = ProvisionDraft::new(pool, keeper, template.clone(), id.clone());
        let outcome = run_steps(&STEPS, &mut draft, &hold).await;
        let died = hold.let_go();
        let name = template.name.as_str();
        // One that did not start has failed at what was expected of it.
        let how = draft.started.map_or_else(|| keeper.expected(), |started| started.how);
        let method = match how {
            StartMethod::Restored => ProvisionMethod::CriuRestore,
            StartMethod::Cold => ProvisionMethod::ColdStart,
        };
        match outcome {
            Ok(()) => {
                pool.metrics.provisioned(name, method, Outcome::Success, start.elapsed());
                keeper.succeeded(how, start.elapsed());
                if died {
                    pool.fail(&id, "died while it was being offered").await;
                } else {
                    tracing::debug!(%id, millis = start.elapsed().as_millis() as u64, "ready");
                    keeper.line.call();
                }
            }
            Err((_, ProvisionError::Stopping)) => {}
            Err((step, error)) if !keeper.wants(template.revision) => {
                tracing::debug!(%id, step, %error, "an attempt at an outdated template was given up");
            }
            Err((step, error)) => {
                pool.metrics.provisioned(name, method, Outcome::Error, start.elapsed());
                if keeper.wants(template.revision) {
                    keeper.failed(error.to_string());
                }
                let pause = keeper.pause().unwrap_or_default();
                tracing::error!(template = name, step, %error, ?pause, "an instance could not be made");
            }
        }
    }
}

/// Runs the steps in order. On failure undoes those that ran, the failed one too, in reverse, and names it.
pub(crate) async fn run_steps(
    steps: &[ProvisionStep],
    draft: &mut ProvisionDraft<'_>,
    hold: &InstanceLock,
) -> Result<(), (&'static str, ProvisionError)> {
    for (index, step) in steps.iter().enumerate() {
        let pool = draft.pool.clone();
        let outcome = tokio::select! {
            biased;
            () = pool.stopping.cancelled() => Err(ProvisionError::Stopping),
            // An attempt at what the operator has replaced must not keep the new version waiting, least of all one that hangs.
            () = draft.keeper.outdated(draft.template.revision) => Err(ProvisionError::Outdated),
            () = hold.died() => Err(ProvisionError::Died(last_words(&pool, &draft.id).await)),
            outcome = (step.act)(draft) => outcome,
        };
        if let Err(error) = outcome {
            for step in steps[..=index].iter().rev() {
                (step.undo)(draft).await;
            }
            return Err((step.name, error));
        }
    }
    Ok(())
}

/// The end of an instance's log, for the operator.
async fn last_words(pool: &Pool, id: &InstanceId) -> String {
    const MOST: usize = 400;
    let log = pool.runtime.logs(id).await.unwrap_or_default();
    let text = String::from_utf8_lossy(&log[log.len().saturating_sub(MOST)..]).trim().to_owned();
    if text.is_empty() { "none".to_owned() } else { text }
}
