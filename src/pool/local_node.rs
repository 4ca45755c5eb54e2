//! The pools' part in the cluster: what heartbeats report, and what changes elsewhere mean for the instances here.

use std::sync::Arc;

use super::Supply;
use super::supply::hooks::RandomTextSources;
use crate::cluster::LocalNode;
use crate::instance::{Instance, State};
use crate::proxy::routes::{RouteLookup, RouteUpdate};
use crate::store::{PoolInfo, RouteChange};
use crate::telemetry::ReleaseReason;
use crate::template::{NodeSecret, Template};

impl Supply {
    /// Applies a change from the store's stream of events, and stops an instance of this node that another node ended.
    ///
    /// What this node does itself is in its route table before the stream reports it. So a change that the table knows
    /// already needs no action, and a change that is new to the table was made by another node.
    pub fn apply_route_change(self: &Arc<Self>, change: &RouteChange) {
        let node = match change {
            RouteChange::Set(instance) => Some(instance.node().clone()),
            RouteChange::Gone(id) => match self.shared.routes.find(id.as_str()) {
                RouteLookup::Live(route) => Some(route.node().clone()),
                _ => None,
            },
        };
        let applied = self.shared.routes.apply_with_metrics(change, &self.shared.metrics);
        let is_own = node.as_ref() == Some(&self.shared.node);
        // From the end of the pools on, another process of this node stops it.
        // Where nodes share a queue, one plans for all.
        if applied != RouteUpdate::Unchanged && !is_own && self.queue.is_shared() {
            self.shared.wake.notify_one();
        }
        if applied == RouteUpdate::Unchanged || !is_own || self.shared.stopping.is_cancelled() {
            return;
        }
        match change {
            // Ready: its claim was undone, and no visitor ever knew of it.
            RouteChange::Set(instance)
                if matches!(instance.state(), State::Assigned { .. } | State::Ready { .. }) => {}
            RouteChange::Set(instance) => self.stop_in_background(instance.id().clone()),
            RouteChange::Gone(id) => self.stop_in_background(id.clone()),
        }
        self.shared.wake.notify_one();
    }
}

impl LocalNode for Supply {
    fn runtime_name(&self) -> &'static str {
        self.runtime.name()
    }

    fn pool_infos(&self) -> Vec<PoolInfo> {
        let is_draining = self.shared.is_draining();
        let info = |template: &Arc<Template>| PoolInfo {
            template: template.name.clone(),
            target: if is_draining { 0 } else { template.pool.target },
            capacity: self
                .shared
                .template_pools
                .get(template.name.as_str())
                .map_or(0, |pool| pool.sizes().max),
        };
        self.shared.template_pools.configured().iter().map(info).collect()
    }

    fn set_shared_secret(&self, secret: &NodeSecret) {
        if self.shared.is_clustered && self.random_texts.set(RandomTextSources::new(secret)).is_ok() {
            self.shared.wake.notify_one();
        }
    }

    fn draining_changed(&self, is_draining: bool) {
        if !is_draining {
            self.shared.template_pools.refill_all();
        }
        // The garbage collection retires what is ready.
        self.shared.garbage_collect_soon();
    }

    fn garbage_collect_soon(&self) {
        self.shared.garbage_collect_soon();
    }

    fn publish_evicted(&self, ended: &[Instance]) {
        for instance in ended {
            self.shared.publish_route(RouteChange::Set(instance.clone()));
            self.shared.metrics.record_release(instance.id().template(), ReleaseReason::Failed);
        }
        self.sweep_databases_now.notify_one();
    }
}
