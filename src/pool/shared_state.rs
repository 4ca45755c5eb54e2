//! The state that all tasks of the pools share.
//!
//! This file uses only leaves; the tasks and the other methods of [`Pool`] are in the files that use it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::claim::delivery::Ledger;
use super::claim::refused_visitors::RefusedVisitors;
use super::in_flight::InFlight;
use super::lookup_budget::LookupBudget;
use super::shared_query::SharedQuery;
use super::stats::TemplateStats;
use super::supply::hooks::RandomTextSources;
use super::supply::memory_sample::MemorySample;
use super::supply::watched_instances::ReadyWatch;
use super::template_pool::TemplatePools;
use crate::clock::Clock;
use crate::cluster::Membership;
use crate::config::PublicUrl;
use crate::instance::NodeId;
use crate::proxy::routes::{RouteTable, RouteUpdate};
use crate::runtime::Runtime;
use crate::store::{CALL_DEADLINE, RouteChange, Store, StoreError, within};
use crate::telemetry::Metrics;
use crate::template::{NodeSecret, Templates};

/// What [`Pool::new`] needs.
pub struct PoolParts {
    /// What all nodes agree on.
    pub store: Arc<dyn Store>,
    /// What runs the instances of this node.
    pub runtime: Arc<dyn Runtime>,
    /// The proxy's route table; it learns at once of each change that this node makes.
    pub routes: Arc<RouteTable>,
    /// Where the pools record their metrics.
    pub metrics: Arc<Metrics>,
    /// The current time.
    pub clock: Clock,
    /// The id of this node.
    pub node: NodeId,
    /// The secret from which the random texts of hooks are derived. No visitor may know it, and it must stay the same
    /// for as long as an instance lives. `None` selects the secret that all nodes of the cluster share; no instance is
    /// made before that is known.
    pub secret: Option<NodeSecret>,
    /// How visitors reach this node.
    pub public_url: PublicUrl,
    /// The configured templates.
    pub templates: Templates,
    /// How long an acquire may wait for an instance that is being made.
    pub acquire_timeout: Duration,
}

/// The pools of all templates on this node.
///
/// A pool that was created does nothing until [`Pool::run`].
pub struct Pool {
    pub(super) store: Arc<dyn Store>,
    pub(super) runtime: Arc<dyn Runtime>,
    pub(super) routes: Arc<RouteTable>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) clock: Clock,
    pub(super) node: NodeId,
    pub(super) public_url: PublicUrl,
    pub(super) acquire_timeout: Duration,
    pub(super) templates: ArcSwap<Templates>,
    pub(super) template_pools: TemplatePools,
    /// How far the answers got that assigned instances.
    pub(super) ledger: Arc<Ledger>,
    /// The query for the counts of all pools, and the check that the store answers.
    pub(super) stats_query: SharedQuery<Result<Vec<TemplateStats>, StoreError>>,
    pub(super) ping_query: SharedQuery<Result<(), StoreError>>,
    /// The visitors whom a rate limit refused a moment ago.
    pub(super) refused_visitors: RefusedVisitors,
    /// The instances that a task is making or stopping at present.
    pub(super) in_flight: InFlight,
    /// The ready instances of this node, which are checked again and again.
    pub(super) ready_watch: ReadyWatch,
    /// The sources of the random texts in hooks; set once its secret is known.
    pub(super) random_texts: OnceLock<RandomTextSources>,
    /// Whether other nodes share the store, so that the random texts are derived from the shared secret.
    pub(super) is_clustered: bool,
    /// How often the store may be asked for ids that are unknown here.
    pub(super) lookup_budget: Mutex<LookupBudget>,
    /// The memory of this node's instances, as it was measured last.
    pub(super) memory_sample: ArcSwap<MemorySample>,
    /// Wakes the memory sampler before its interval ends.
    pub(super) sample_memory_now: Notify,
    /// Wakes the reconcile loop.
    pub(super) wake: Notify,
    /// Whether the reconcile loop garbage-collects before its interval ends.
    pub(super) is_gc_requested: AtomicBool,
    pub(super) membership: Arc<Membership>,
    /// Cancelled when the pools shut down.
    pub(super) stopping: CancellationToken,
    /// Tracks each task that makes or stops an instance.
    pub(super) tasks: TaskTracker,
}

impl Pool {
    /// Creates the pools of the configured templates.
    pub fn new(parts: PoolParts) -> Arc<Self> {
        let template_pools = TemplatePools::default();
        template_pools.adopt(&parts.templates);
        Arc::new(Self {
            membership: Arc::new(Membership::new(parts.store.clone(), parts.node.clone())),
            store: parts.store,
            runtime: parts.runtime,
            routes: parts.routes,
            metrics: parts.metrics,
            clock: parts.clock,
            node: parts.node,
            public_url: parts.public_url,
            acquire_timeout: parts.acquire_timeout,
            templates: ArcSwap::from_pointee(parts.templates),
            template_pools,
            ledger: Arc::default(),
            stats_query: SharedQuery::default(),
            ping_query: SharedQuery::default(),
            refused_visitors: RefusedVisitors::default(),
            in_flight: InFlight::default(),
            ready_watch: ReadyWatch::default(),
            is_clustered: parts.secret.is_none(),
            random_texts: parts
                .secret
                .map(|secret| RandomTextSources::new(&secret).into())
                .unwrap_or_default(),
            lookup_budget: Mutex::new(LookupBudget::new(Instant::now())),
            memory_sample: ArcSwap::default(),
            sample_memory_now: Notify::new(),
            wake: Notify::new(),
            is_gc_requested: AtomicBool::new(false),
            stopping: CancellationToken::new(),
            tasks: TaskTracker::new(),
        })
    }

    /// Returns this node's membership in the cluster.
    pub fn membership(&self) -> &Arc<Membership> {
        &self.membership
    }

    /// Returns the templates that are configured at present.
    pub fn templates(&self) -> Arc<Templates> {
        self.templates.load_full()
    }

    /// Returns how visitors reach this node.
    pub fn public_url(&self) -> &PublicUrl {
        &self.public_url
    }

    /// Returns the clock of the pools.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Returns the runtime's name, the `mode` of `/health`.
    pub fn runtime_name(&self) -> &'static str {
        self.runtime.name()
    }

    /// Checks that the store answers. Callers at the same time share a check, which begins after each of them called.
    ///
    /// # Errors
    /// `Unavailable` when it does not answer in time.
    pub async fn ping(&self) -> Result<(), StoreError> {
        self.ping_query.answer(self.ask(self.store.ping())).await
    }

    /// Has what runs compared with what is on record before the interval ends: something was left undone, or changes
    /// were missed.
    pub fn garbage_collect_soon(&self) {
        self.is_gc_requested.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    /// Applies a change to the proxy's route table, ahead of the store's stream of events. Returns false when the
    /// stream was faster, so that what follows from the change is already done.
    pub(super) fn publish_route(&self, change: RouteChange) -> bool {
        self.routes.apply_with_metrics(&change, &self.metrics) != RouteUpdate::Unchanged
    }

    /// Bounds a usual call to the store.
    pub(super) async fn ask<T>(
        &self,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        within(CALL_DEADLINE, call).await
    }
}
