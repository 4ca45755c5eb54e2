//! What all parts of the pools stand on.
//!
//! This file uses only leaves.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::template_pool::TemplatePools;
use crate::clock::Clock;
use crate::cluster::Membership;
use crate::config::PublicUrl;
use crate::instance::{InstanceId, NodeId};
use crate::proxy::routes::{RouteTable, RouteUpdate};
use crate::store::{RouteChange, Store};
use crate::telemetry::Metrics;
use crate::template::Template;

/// The store, this node and its templates, and the signals between the tasks.
pub(super) struct SharedState {
    pub(super) store: Arc<dyn Store>,
    pub(super) routes: Arc<RouteTable>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) clock: Clock,
    pub(super) node: NodeId,
    pub(super) public_url: Arc<PublicUrl>,
    /// Whether other nodes share the store.
    pub(super) is_clustered: bool,
    pub(super) membership: Arc<Membership>,
    pub(super) template_pools: TemplatePools,
    /// Wakes the reconcile loop.
    pub(super) wake: Notify,
    /// Whether the reconcile loop garbage-collects before its interval ends.
    pub(super) is_gc_requested: AtomicBool,
    /// Cancelled when the pools shut down.
    pub(super) stopping: CancellationToken,
}

impl SharedState {
    /// Returns the template of an instance as it was configured last, even if it was removed since.
    pub(super) fn template_of(&self, id: &InstanceId) -> Option<Arc<Template>> {
        self.template_pools.get(id.template()).map(|template_pool| template_pool.template())
    }

    /// Returns whether this node makes no instances and lets those that it has finish.
    pub(super) fn is_draining(&self) -> bool {
        self.membership.is_draining()
    }

    /// Has what runs compared with what is on record before the interval ends: something was left undone, or changes
    /// were missed.
    pub(super) fn garbage_collect_soon(&self) {
        self.is_gc_requested.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    /// Applies a change to the proxy's route table, ahead of the store's stream of events. Returns false when the
    /// stream was faster, so that what follows from the change is already done.
    pub(super) fn publish_route(&self, change: RouteChange) -> bool {
        self.routes.apply_with_metrics(&change, &self.metrics) != RouteUpdate::Unchanged
    }
}
