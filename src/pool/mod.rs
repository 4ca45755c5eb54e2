//! The decisions: how many instances there are, who gets one, and when it ends.
//!
//! Level-triggered: [`reconcile`] observes, plans (a pure function) and acts; everything else only wakes it. The
//! same loop fills the pool, replaces dead members, and cleans up after a crash.

mod claim;
mod end;
mod in_flight;
mod membership;
mod stats;
mod supply;
mod template_pool;
#[cfg(test)]
pub(crate) mod tests;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use claim::acquire::{AcquireError, Acquired};
#[cfg(test)]
pub(crate) use claim::delivery::probe as delivery_tests;
pub use claim::delivery::{Delivered, Delivery};
pub use membership::{NodePool, NodeSummary};
pub use stats::{PoolStats, TemplateStats};
pub use supply::bake::{BakeError, Baked};
pub use supply::memory_sampler::{ByMemory, InstanceMemory};

use crate::clock::Clock;
use crate::config::PublicUrl;
use crate::instance::{Endpoint, Instance, InstanceId, NodeId};
use crate::proxy::routes::{Applied, Found, Route, RouteTable};
use crate::runtime::Runtime;
use crate::store::{Store, StoreError};
use crate::telemetry::Metrics;
use crate::template::{Secret, Template, Templates};
use in_flight::InFlight;
use membership::ClusterView;
use template_pool::TemplatePools;

/// Longest time that one question to the store may take before its asker is told that the store is away.
const STORE_DEADLINE: Duration = Duration::from_secs(1);

/// What a pool stands on.
pub struct PoolParts {
    /// What all servers agree on.
    pub store: Arc<dyn Store>,
    /// What runs instances.
    pub runtime: Arc<dyn Runtime>,
    /// The proxy's table, told at once of what happens here.
    pub routes: Arc<RouteTable>,
    /// Where numbers go.
    pub metrics: Arc<Metrics>,
    /// The present.
    pub clock: Clock,
    /// This server.
    pub node: NodeId,
    /// What the random texts in its instances' hooks come from: no visitor may know it, and an instance's are the same
    /// as long as it is. `None` is the secret that all servers of the store share, before which nothing is made.
    pub secret: Option<Secret>,
    /// How visitors reach this server.
    pub address: PublicUrl,
    /// What to keep.
    pub templates: Templates,
    /// How long an acquire may wait for an instance that is being made.
    pub acquire_timeout: Duration,
}

/// The pools of all templates on this server.
pub struct Pool {
    store: Arc<dyn Store>,
    runtime: Arc<dyn Runtime>,
    routes: Arc<RouteTable>,
    metrics: Arc<Metrics>,
    clock: Clock,
    node: NodeId,
    address: PublicUrl,
    acquire_timeout: Duration,
    templates: ArcSwap<Templates>,
    keepers: TemplatePools,
    /// What became of the answers that handed instances out.
    ledger: Arc<claim::delivery::Ledger>,
    /// Instances that a task of ours is making or taking down right now.
    hands: InFlight,
    /// Where the random texts of the instances come from.
    randomness: OnceLock<supply::hooks::Randomness>,
    /// Whether the store is that of other servers, too, and so the random texts come from what all share.
    is_shared: bool,
    /// What instances take of this host's memory.
    seen: ArcSwap<supply::memory_sampler::MemorySample>,
    /// Has the memory read before its time.
    resized: Notify,
    /// Wakes [`reconcile`].
    wake: Notify,
    /// Whether [`reconcile`] should compare what runs with what is on record before its time.
    repair: AtomicBool,
    /// The other servers, and what this one is to them.
    others: ClusterView,
    stopping: CancellationToken,
    /// Every task that makes or takes down an instance.
    tasks: TaskTracker,
}

impl Pool {
    /// A pool that does nothing yet; [`Pool::run`] brings it to life.
    pub fn new(parts: PoolParts) -> Arc<Self> {
        let keepers = TemplatePools::default();
        keepers.adopt(&parts.templates);
        Arc::new(Self {
            store: parts.store,
            runtime: parts.runtime,
            routes: parts.routes,
            metrics: parts.metrics,
            clock: parts.clock,
            node: parts.node,
            address: parts.address,
            acquire_timeout: parts.acquire_timeout,
            templates: ArcSwap::from_pointee(parts.templates),
            keepers,
            ledger: Arc::default(),
            hands: InFlight::default(),
            is_shared: parts.secret.is_none(),
            randomness: parts
                .secret
                .map(|secret| supply::hooks::Randomness::new(&secret).into())
                .unwrap_or_default(),
            seen: ArcSwap::default(),
            resized: Notify::new(),
            wake: Notify::new(),
            repair: AtomicBool::new(false),
            others: ClusterView::default(),
            stopping: CancellationToken::new(),
            tasks: TaskTracker::new(),
        })
    }

    /// Begins to fill, to expire and to watch. When this returns, what an earlier server left has been compared with
    /// what runs, so that nothing dead is handed out.
    pub async fn run(self: &Arc<Self>) {
        let exits = self.runtime.exits();
        supply::memory_sampler::first(self).await;
        let _tried_again_soon = end::gc::collect(self).await;
        crate::telemetry::task::spawn("pool reconcile", supply::reconcile::run(self.clone()));
        crate::telemetry::task::spawn("pool exits", supply::reconcile::watch_exits(self.clone(), exits));
        crate::telemetry::task::spawn("pool expire", end::expire::run(self.clone()));
        crate::telemetry::task::spawn("pool memory", supply::memory_sampler::run(self.clone()));
        crate::telemetry::task::spawn("pool settle", claim::delivery_worker::run(self.clone()));
    }

    /// The templates as they are now.
    pub fn templates(&self) -> Arc<Templates> {
        self.templates.load_full()
    }

    /// Takes over a new set of templates at once. When the returned future is done, the ready instances of templates
    /// that are gone or changed have been retired, so that none is handed out any more; assigned ones live out their
    /// time.
    pub fn reload(self: &Arc<Self>, templates: Templates) -> impl Future<Output = ()> + Send + use<> {
        self.keepers.adopt(&templates);
        self.templates.store(Arc::new(templates));
        self.keepers.refill_all();
        self.resized.notify_one();
        self.wake.notify_one();
        let pool = self.clone();
        async move {
            if let Err(error) = end::gc::retire_unwanted(&pool).await {
                tracing::warn!(%error, "outdated instances cannot be retired while the store is away");
                pool.repair_soon();
            }
            pool.wake.notify_one();
        }
    }

    /// Has what runs and what is on record compared before its time: something was left undone.
    fn repair_soon(&self) {
        self.repair.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    /// The template that an instance was made from, as it was last known.
    pub fn template_of(&self, id: &InstanceId) -> Option<Arc<Template>> {
        self.keepers.get(id.template()).map(|keeper| keeper.template())
    }

    /// What its visitor logs in with, where its template says so. `None` too when the template has changed since the
    /// instance was made, or a server made it that has secrets of its own.
    pub fn credentials(&self, instance: &Instance) -> Option<Secret> {
        let (id, template) = (instance.id(), self.template_of(instance.id())?);
        let is_known = self.is_shared || instance.node() == &self.node;
        let is_known = is_known && instance.revision() == template.revision;
        let words = template.hooks.credentials.as_ref().filter(|_| is_known)?;
        let (url, host) = (self.address.instance_url(id), self.address.instance_host(id));
        let values = supply::hooks::Values::new(self.randomness.get()?, &template.hooks, id, &url, &host);
        Some(Secret::new(values.fill(words)))
    }

    /// How visitors reach this server.
    pub fn address(&self) -> &PublicUrl {
        &self.address
    }

    /// The present, as this pool sees it.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// The runtime's name, the `mode` of `/health`.
    pub fn mode(&self) -> &'static str {
        self.runtime.name()
    }

    /// Whether the store answers.
    pub async fn ping(&self) -> Result<(), StoreError> {
        self.ask(self.store.ping()).await
    }

    /// An instance as the store has it, for somebody who knows its name.
    pub async fn get(&self, id: &InstanceId) -> Result<Option<Instance>, StoreError> {
        if let Found::Live(route) = self.routes.find(id.as_str()) {
            self.used(&route);
        }
        self.ask(self.store.get(id)).await
    }

    /// Gives a visitor more time, from the deadline on and up to the template's longest time.
    pub async fn extend(&self, id: &InstanceId, by: Duration) -> Result<Instance, StoreError> {
        let template = self.template_of(id).ok_or(StoreError::Unknown)?;
        let instance = self.ask(self.store.extend(id, by, template.max_ttl)).await?;
        if let Found::Live(route) = self.routes.find(id.as_str()) {
            self.used(&route);
        }
        self.publish(crate::store::RouteChange::Set(instance.clone()));
        Ok(instance)
    }

    /// The last output of an instance that this server runs.
    pub async fn logs(&self, id: &InstanceId) -> Option<bytes::Bytes> {
        self.runtime.logs(id).await
    }

    /// A connection to the app of an instance that this server runs. It has no deadline of its own.
    ///
    /// # Errors
    /// What the system says: nobody listens there, or the instance is gone.
    pub async fn connect(&self, endpoint: Endpoint) -> std::io::Result<tokio::net::TcpStream> {
        self.runtime.connect(endpoint).await
    }

    /// Tells the proxy's table at once, ahead of the store's stream. False when that was faster, and so what follows from
    /// it is done.
    fn publish(&self, change: crate::store::RouteChange) -> bool {
        self.routes.apply_measured(&change, &self.metrics) != Applied::Nothing
    }

    /// Somebody knows of an instance, so its visitor was told, whatever became of the server that did.
    pub fn used(&self, route: &Route) {
        if route.uses() {
            self.ledger.delivered(route.id().clone());
        }
    }

    /// Bounds a question to the store.
    async fn ask<T>(&self, question: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        self.ask_within(STORE_DEADLINE, question).await
    }

    /// Bounds a question to the store that may take longer than the usual ones.
    async fn ask_within<T>(
        &self,
        deadline: Duration,
        question: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        match tokio::time::timeout(deadline, question).await {
            Ok(answer) => answer,
            Err(_) => Err(StoreError::Unavailable(format!("no answer within {deadline:?}"))),
        }
    }
}
