//! Starts the tasks of the pools, and takes over a changed configuration.

use std::sync::Arc;

use super::Pool;
use super::claim::delivery_worker;
use super::end::{expire, fail, gc};
use super::supply::{memory_sampler, ready_watch, reconcile};
use crate::telemetry::task;
use crate::template::Templates;

impl Pool {
    /// Starts the tasks of the pools. Before it returns, what an earlier server process left on record has been
    /// compared with what runs, so that no dead instance is assigned.
    pub async fn run(self: &Arc<Self>) {
        // Subscribed to before the comparison, so that no exit is missed after it.
        let exits = self.runtime.exits();
        memory_sampler::sample_before_start(self).await;
        // If it fails, the reconcile loop does it soon.
        let _is_done = gc::collect(self).await;
        task::spawn("pool reconcile", reconcile::run(self.clone()));
        task::spawn("pool ready watch", ready_watch::run(self.clone()));
        task::spawn("pool exits", fail::watch_exits(self.clone(), exits));
        task::spawn("pool expire", expire::run(self.clone()));
        task::spawn("pool memory", memory_sampler::run(self.clone()));
        task::spawn("pool deliveries", delivery_worker::run(self.clone()));
    }

    /// Replaces the configured templates at once. When the returned future is done, the ready instances of removed and
    /// changed templates are retired, so that none of them is assigned any more. Assigned instances live until their
    /// deadline.
    pub fn reload(self: &Arc<Self>, templates: Templates) -> impl Future<Output = ()> + Send + use<> {
        self.template_pools.adopt(&templates);
        self.templates.store(Arc::new(templates));
        self.template_pools.refill_all();
        self.sample_memory_now.notify_one();
        self.wake.notify_one();
        let pool = self.clone();
        async move {
            if let Err(error) = gc::retire_unwanted(&pool).await {
                tracing::warn!(%error, "failed to retire outdated instances");
                pool.garbage_collect_soon();
            }
            pool.wake.notify_one();
        }
    }
}
