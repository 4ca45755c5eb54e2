//! Making one instance: a table of named steps, each with its undo.
//!
//! If a step fails, its own undo and those of the steps before it run in reverse order, so that nothing remains. What a
//! crash of the server process between two steps leaves is found by the garbage collection and by the runtime at the
//! next start.
//!
//! To change a step, change its undo and the tests in `pool/tests/faults.rs`, which fail each step.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::Instant;

use super::health;
use super::hooks::{self, HookValues};
use super::provision_error::ProvisionError;
use super::readiness;
use super::readiness::{AppTarget, ReadinessError};
use super::repeated_values::AnswerValues;
use super::wrong_port;
use crate::instance::{Instance, InstanceId};
use crate::pool::Supply;
use crate::pool::in_flight::InstanceLock;
use crate::pool::template_pool::TemplatePool;
use crate::runtime::{StartMethod, StartRequest, Started};
use crate::store::StoreError;
use crate::template::Template;
use crate::template::hooks::HookCalls;

/// Longest time to find out where an app listens that did not become ready.
const LISTENERS_DEADLINE: Duration = Duration::from_secs(5);

/// An instance that is being made.
pub(in crate::pool) struct ProvisionDraft<'p> {
    pub(super) supply: &'p Arc<Supply>,
    template_pool: &'p TemplatePool,
    pub(super) template: Arc<Template>,
    pub(super) id: InstanceId,
    /// The values of the placeholders in its hooks.
    values: HookValues,
    start_request: StartRequest,
    /// Set by the step `start`.
    started: Option<Started>,
    /// Its answers to each compared page, if its steps compare it with another instance.
    pub(super) answers: Vec<[AnswerValues; 2]>,
}

type Act = for<'a> fn(&'a mut ProvisionDraft<'_>) -> BoxFuture<'a, Result<(), ProvisionError>>;
type UndoStep = for<'a> fn(&'a ProvisionDraft<'_>) -> BoxFuture<'a, ()>;

/// A step of making an instance.
pub(in crate::pool) struct ProvisionStep {
    /// Its name in logs and errors.
    pub(in crate::pool) name: &'static str,
    pub(super) act: Act,
    /// Undoes the step, also one that failed half way. It must succeed if there is nothing to undo.
    pub(super) undo: UndoStep,
}

/// The name of the step that waits until an instance is ready.
pub(super) const ANSWER: &str = "answer";

/// The name of the step after which a visitor may have the instance.
const OFFER: &str = "offer";

/// The steps up to an instance that answers, and from which a checkpoint can be made.
pub(super) const START_STEPS: [ProvisionStep; 5] = [
    ProvisionStep {
        name: "create a database",
        act: |d| Box::pin(d.create_database()),
        undo: |d| Box::pin(d.drop_database()),
    },
    ProvisionStep { name: "start", act: |d| Box::pin(d.start()), undo: |d| Box::pin(d.stop()) },
    ProvisionStep { name: ANSWER, act: |d| Box::pin(d.wait_until_ready()), undo: |_| Box::pin(async {}) },
    ProvisionStep { name: "warm up", act: |d| Box::pin(d.warm_up()), undo: |_| Box::pin(async {}) },
    ProvisionStep {
        name: "run the bake hooks",
        act: |d| Box::pin(d.run_bake_hooks()),
        undo: |_| Box::pin(async {}),
    },
];

/// The step that gives an instance its own address, keys and passwords.
pub(super) const INSTANCE_HOOKS: ProvisionStep = ProvisionStep {
    name: "run the hooks",
    act: |d| Box::pin(d.run_instance_hooks()),
    undo: |_| Box::pin(async {}),
};

/// All steps, in their order.
pub(in crate::pool) const STEPS: [ProvisionStep; 8] = {
    let [database, start, answer, warm_up, bake_hooks] = START_STEPS;
    [
        ProvisionStep { name: "record", act: |d| Box::pin(d.record()), undo: |d| Box::pin(d.unrecord()) },
        database,
        start,
        answer,
        warm_up,
        bake_hooks,
        INSTANCE_HOOKS,
        ProvisionStep { name: OFFER, act: |d| Box::pin(d.offer()), undo: |_| Box::pin(async {}) },
    ]
};

impl<'p> ProvisionDraft<'p> {
    /// Creates a draft of the instance `id`, of which no step was run.
    pub(super) fn new(
        supply: &'p Arc<Supply>,
        template_pool: &'p TemplatePool,
        template: Arc<Template>,
        id: InstanceId,
    ) -> Self {
        let (url, host) =
            (supply.shared.public_url.instance_url(&id), supply.shared.public_url.instance_host(&id));
        let random_texts = supply.random_texts.get().expect("no instance is made before the secret is known");
        let access = supply.database_access(&template, &id);
        let values =
            HookValues::new(random_texts.current(), &template.hooks, &id, &url, &host, access.as_ref());
        let (app, revision) = (values.app(&template), template.revision);
        let start_request = StartRequest {
            database_connections: template.database.as_ref().map(|database| database.max_connections),
            ..StartRequest::new(id.clone(), url, host, app, revision)
        };
        Self {
            supply,
            template_pool,
            template,
            id,
            values,
            start_request,
            started: None,
            answers: Vec::new(),
        }
    }

    /// Turns the draft into one of an instance that is frozen after its steps.
    pub(super) fn for_bake(mut self) -> Self {
        self.start_request.will_be_baked = true;
        self
    }

    /// Turns the draft into one of an instance that leaves the processors to the ready ones while no visitor waits.
    pub(super) fn for_refill(mut self) -> Self {
        self.start_request.yields = true;
        self
    }
}

impl ProvisionDraft<'_> {
    async fn record(&mut self) -> Result<(), ProvisionError> {
        let supply = self.supply;
        let new = Instance::warming(
            self.id.clone(),
            supply.shared.node.clone(),
            self.template.revision,
            supply.shared.clock.now(),
        );
        supply.shared.store.insert(new).await?;
        // A reload retires the instances that are on record by then. If it came earlier, it has missed this one.
        if self.template_pool.wants(self.template.revision) { Ok(()) } else { Err(ProvisionError::Outdated) }
    }

    async fn unrecord(&self) {
        match self.supply.shared.store.retire(&self.id).await {
            Ok(_) | Err(StoreError::Unknown) => {}
            // It was offered, and assigned to a visitor before this undo.
            Err(StoreError::Refused(_)) => {
                self.supply.fail(&self.id, "it ended while it was being offered").await
            }
            Err(error) => {
                tracing::warn!(id = %self.id, %error, "failed to remove record of failed attempt");
            }
        }
    }

    async fn create_database(&mut self) -> Result<(), ProvisionError> {
        let (Some(wanted), Some(password)) = (&self.template.database, self.values.database_password())
        else {
            return Ok(());
        };
        Ok(self.supply.databases.create_database(&self.id, wanted, &password).await?)
    }

    /// Drops the instance's database. A failure is logged: the sweep drops what no instance has.
    pub(super) async fn drop_database(&self) {
        if self.template.database.is_some() {
            self.supply.drop_database(&self.id).await;
        }
    }

    /// Ends an instance that was never on record.
    pub(super) async fn end(&self) {
        self.stop().await;
        self.drop_database().await;
    }

    async fn start(&mut self) -> Result<(), ProvisionError> {
        self.start_request.files = self.values.files(&self.template.hooks).await?;
        let begun = Instant::now();
        let started = self.supply.runtime.start(&self.start_request).await?;
        if started.method == StartMethod::Restored {
            self.supply.shared.metrics.record_restore(begun.elapsed());
        }
        self.started = Some(started);
        Ok(())
    }

    /// Stops the instance. A failure is logged: the reconciliation stops what is not on record.
    pub(super) async fn stop(&self) {
        if let Err(error) = self.supply.runtime.stop(&self.id).await {
            tracing::error!(id = %self.id, %error, "failed to stop instance of failed attempt; retrying later");
        }
    }

    async fn wait_until_ready(&mut self) -> Result<(), ProvisionError> {
        match self.supply.runtime.runs_apps() {
            // In a box of its own: it is large, and an instance without an app needs none of it.
            true => Box::pin(self.wait_for_app()).await,
            false => Ok(()),
        }
    }

    async fn wait_for_app(&mut self) -> Result<(), ProvisionError> {
        let begun = Instant::now();
        let host = self.supply.shared.public_url.instance_authority(&self.id);
        let (target, ready, metrics) =
            (self.target(&host), &self.template.ready, &self.supply.shared.metrics);
        let of_image = match ready.yields_to_image {
            true => self.supply.runtime.health_check(&self.template.app),
            false => None,
        };
        let waited = match (of_image, self.started().method) {
            (None, _) => readiness::wait_until_ready(target, ready, metrics).await,
            (Some(_), StartMethod::Restored) => readiness::wait_until_answering(target, ready, metrics).await,
            (Some(check), StartMethod::Cold) => {
                health::wait_until_healthy(target, &self.start_request, &check, ready, metrics).await
            }
        };
        let endpoint = match waited {
            Ok(endpoint) => endpoint,
            Err(error) => return Err(self.with_listeners(error).await.into()),
        };
        self.started = Some(Started { endpoint, ..self.started() });
        self.supply.shared.metrics.record_ready_wait(begun.elapsed());
        Ok(())
    }

    /// Adds to the error of a ready check where the app listens, if not where it should.
    async fn with_listeners(&self, mut error: ReadinessError) -> ReadinessError {
        if let ReadinessError::Timeout { listening, .. } = &mut error {
            let looking = self.supply.runtime.listeners(&self.id);
            let listeners = tokio::time::timeout(LISTENERS_DEADLINE, looking).await.ok().flatten();
            let (port, sets_port) = (self.started().endpoint.port(), self.template.app.image.is_some());
            *listening = listeners.and_then(|found| wrong_port::describe(&found, port, sets_port));
        }
        error
    }

    /// Sends the warm-up requests. A restored instance was warmed up before it was frozen, so it gets none, but for the
    /// first instance of a checkpoint: it gets one request, after which the runtime records which memory a visitor's
    /// first page needs. Further pages would add memory that most instances need not have.
    async fn warm_up(&mut self) -> Result<(), ProvisionError> {
        let runtime = &self.supply.runtime;
        let is_restored = self.started().method == StartMethod::Restored;
        if !runtime.runs_apps() || is_restored && !runtime.may_observe(&self.id).await {
            return Ok(());
        }
        let host = self.supply.shared.public_url.instance_authority(&self.id);
        let requests = if is_restored { 1 } else { usize::MAX };
        for path in self.template.warm_up.iter().take(requests) {
            readiness::send_warm_up(self.target(&host), path, self.template.ready.timeout).await?;
        }
        if is_restored && let Err(error) = runtime.observe(&self.id).await {
            tracing::debug!(id = %self.id, %error, "failed to observe instance");
        }
        Ok(())
    }

    /// Runs the hooks that come before a bake. In a restored instance they have run already.
    async fn run_bake_hooks(&mut self) -> Result<(), ProvisionError> {
        match self.started().method {
            StartMethod::Cold => self.run_hooks(&self.template.hooks.bake).await,
            StartMethod::Restored => Ok(()),
        }
    }

    async fn run_instance_hooks(&mut self) -> Result<(), ProvisionError> {
        self.run_hooks(&self.template.hooks.calls).await
    }

    async fn run_hooks(&self, calls: &HookCalls) -> Result<(), ProvisionError> {
        if !self.supply.runtime.runs_apps() {
            return Ok(());
        }
        let host = self.supply.shared.public_url.instance_authority(&self.id);
        let running = hooks::run(calls, &self.values, self.target(&host), &self.start_request);
        Ok(Box::pin(running).await?)
    }

    async fn offer(&mut self) -> Result<(), ProvisionError> {
        self.supply.runtime.end_yielding(&self.id).await;
        match self.supply.shared.store.offer(&self.id, self.started().endpoint).await {
            // A drain retires the instances that are ready by then. If it came earlier, it has missed this one.
            Ok(_) if self.supply.shared.is_draining() => Err(ProvisionError::Stopping),
            Ok(offered) => {
                self.supply.ready_watch.add(&offered, self.template.recheck_interval);
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Takes an offer back that was interrupted, or whose answer was lost. Returns false if a visitor has the instance.
    async fn withdraw(&self) -> bool {
        !matches!(self.supply.shared.store.retire(&self.id).await, Err(StoreError::Refused(_)))
    }

    /// Returns how the step `start` made the instance; `None` before.
    pub(super) fn start_method(&self) -> Option<StartMethod> {
        self.started.map(|started| started.method)
    }

    /// Returns what the step `start` made.
    pub(super) fn started(&self) -> Started {
        self.started.expect("the step `start` comes first and sets it")
    }

    /// Returns the target of requests to the app with the authority `host`.
    pub(super) fn target<'a>(&'a self, host: &'a str) -> AppTarget<'a> {
        let scheme = self.supply.shared.public_url.scheme;
        AppTarget { runtime: &*self.supply.runtime, endpoint: self.started().endpoint, host, scheme }
    }
}

/// Runs the steps in their order. If one fails, runs its undo and those of the steps before it in reverse order, and
/// returns its name and error.
pub(super) async fn run_steps(
    steps: &[ProvisionStep],
    draft: &mut ProvisionDraft<'_>,
    lock: &InstanceLock,
) -> Result<(), (&'static str, ProvisionError)> {
    for (index, step) in steps.iter().enumerate() {
        let supply = draft.supply.clone();
        let outcome = tokio::select! {
            biased;
            () = supply.shared.stopping.cancelled() => Err(ProvisionError::Stopping),
            // An attempt at a replaced revision must not delay the new one, least of all if it hangs.
            () = draft.template_pool.outdated(draft.template.revision) => Err(ProvisionError::Outdated),
            () = lock.died() => Err(ProvisionError::Died(last_output(&supply, &draft.id).await)),
            outcome = (step.act)(draft) => outcome,
        };
        if let Err(error) = outcome {
            // A visitor keeps what was offered, unless it has died.
            let may_be_taken = step.name == OFFER && !matches!(error, ProvisionError::Died(_));
            if may_be_taken && !draft.withdraw().await {
                return Ok(());
            }
            for step in steps[..=index].iter().rev() {
                (step.undo)(draft).await;
            }
            return Err((step.name, error));
        }
    }
    Ok(())
}

/// Returns the end of an instance's output, for the operator.
async fn last_output(supply: &Supply, id: &InstanceId) -> String {
    const MAX_BYTES: usize = 400;
    let log = supply.runtime.logs(id).await.unwrap_or_default();
    let text = String::from_utf8_lossy(&log[log.len().saturating_sub(MAX_BYTES)..]).trim().to_owned();
    if text.is_empty() { "none".to_owned() } else { text }
}
