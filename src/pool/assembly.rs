//! Puts the parts of the pools together, starts their tasks, and takes over a changed configuration.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::claim::delivery::Ledger;
use super::claim::delivery_worker;
use super::end::{databases, expire, fail, gc};
use super::shared_state::SharedState;
use super::supply::{memory_sampler, ready_watch, reconcile, workers};
use super::template_pool::TemplatePools;
use super::{Claims, Instances, Statistics, Supply};
use crate::clock::Clock;
use crate::cluster::Membership;
use crate::cluster::queue::{Queue, QueueAccess};
use crate::config::PublicUrl;
use crate::instance::NodeId;
use crate::proxy::routes::RouteTable;
use crate::runtime::{Databases, Runtime};
use crate::store::Store;
use crate::telemetry::{Metrics, task};
use crate::template::{NodeSecret, Templates};

/// What [`Pool::new`] needs.
pub struct PoolParts {
    /// What all nodes agree on. Each of its calls ends in a bounded time.
    pub store: Arc<dyn Store>,
    /// What runs the instances of this node.
    pub runtime: Arc<dyn Runtime>,
    /// Where instances have their databases.
    pub databases: Arc<dyn Databases>,
    /// Jobs for this node, and for others where they share it.
    pub queue: QueueAccess,
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
    pub public_url: Arc<PublicUrl>,
    /// The configured templates.
    pub templates: Templates,
    /// How long an acquire may wait for an instance that is being made.
    pub acquire_timeout: Duration,
}

/// The pools of all templates on this node, in the parts that others use.
///
/// A pool that was created does nothing until [`Pool::run`].
pub struct Pool {
    /// What runs the instances of this node: makes and stops them.
    pub supply: Arc<Supply>,
    /// Assigns instances to visitors.
    pub claims: Arc<Claims>,
    /// One instance by its id.
    pub instances: Arc<Instances>,
    /// The counts of all pools.
    pub statistics: Arc<Statistics>,
    pub(super) shared: Arc<SharedState>,
}

impl Pool {
    /// Creates the pools of the configured templates.
    pub fn new(parts: PoolParts) -> Arc<Self> {
        let shared = Arc::new(SharedState {
            membership: Arc::new(Membership::new(parts.store.clone(), parts.node.clone())),
            store: parts.store,
            routes: parts.routes,
            metrics: parts.metrics,
            clock: parts.clock,
            node: parts.node,
            public_url: parts.public_url,
            is_clustered: parts.secret.is_none(),
            template_pools: TemplatePools::new(parts.templates),
            wake: Notify::new(),
            is_gc_requested: AtomicBool::new(false),
            stopping: CancellationToken::new(),
        });
        let ledger = Arc::<Ledger>::default();
        let supply = Supply::new(shared.clone(), parts.runtime, parts.databases, parts.queue, parts.secret);
        let supply = Arc::new(supply);
        let claims = Claims::new(shared.clone(), supply.clone(), ledger.clone(), parts.acquire_timeout);
        Arc::new(Self {
            claims: Arc::new(claims),
            instances: Arc::new(Instances::new(shared.clone(), supply.clone(), ledger)),
            statistics: Arc::new(Statistics::new(shared.clone(), supply.clone())),
            supply,
            shared,
        })
    }

    /// Returns this node's membership in the cluster.
    pub fn membership(&self) -> &Arc<Membership> {
        &self.shared.membership
    }

    /// Returns the clock of the pools.
    pub fn clock(&self) -> &Clock {
        &self.shared.clock
    }

    /// Returns the queue of jobs.
    pub fn queue(&self) -> &Arc<dyn Queue> {
        &self.supply.queue
    }

    /// Returns how visitors reach this node.
    pub fn public_url(&self) -> &Arc<PublicUrl> {
        &self.shared.public_url
    }

    /// Starts the tasks of the pools. Before it returns, what an earlier server process left on record has been
    /// compared with what runs, so that no dead instance is assigned.
    pub async fn run(&self) {
        let supply = &self.supply;
        // Subscribed to before the comparison, so that no exit is missed after it.
        let exits = supply.runtime.exits();
        memory_sampler::sample_before_start(supply).await;
        // If it fails, the reconcile loop does it soon.
        let _is_done = gc::collect(supply).await;
        task::spawn("pool reconcile", reconcile::run(supply.clone()));
        task::spawn("pool workers", workers::run(supply.clone()));
        task::spawn("pool ready watch", ready_watch::run(supply.clone()));
        task::spawn("pool exits", fail::watch_exits(supply.clone(), exits));
        task::spawn("pool expire", expire::run(supply.clone()));
        if supply.databases.is_configured() {
            task::spawn("pool databases", databases::run(supply.clone()));
        }
        task::spawn("pool memory", memory_sampler::run(supply.clone()));
        task::spawn("pool deliveries", delivery_worker::run(self.claims.clone()));
    }

    /// Replaces the configured templates at once. When the returned future is done, the ready instances of removed and
    /// changed templates are retired, so that none of them is assigned any more. Assigned instances live until their
    /// deadline.
    pub fn reload(&self, templates: Templates) -> impl Future<Output = ()> + Send + use<> {
        self.shared.template_pools.adopt(templates);
        self.shared.template_pools.refill_all();
        self.supply.sample_memory_now.notify_one();
        self.shared.wake.notify_one();
        let supply = self.supply.clone();
        async move {
            if let Err(error) = gc::retire_unwanted(&supply).await {
                tracing::warn!(%error, "failed to retire outdated instances");
                supply.shared.garbage_collect_soon();
            }
            supply.shared.wake.notify_one();
        }
    }
}
