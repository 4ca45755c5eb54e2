//! What the supply of this node keeps.

use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use tokio::sync::Notify;
use tokio_util::task::TaskTracker;

use super::hooks::RandomTextSources;
use super::memory_sample::MemorySample;
use super::watched_instances::ReadyWatch;
use crate::cluster::queue::{Queue, QueueAccess};
use crate::instance::InstanceId;
use crate::pool::in_flight::InFlight;
use crate::pool::shared_state::SharedState;
use crate::runtime::{DatabaseAccess, Databases, Runtime};
use crate::template::{NodeSecret, Template};

/// Makes the instances of this node, watches them and ends them. The tasks of the pools call its methods, which are in
/// `supply/` and `end/`.
pub struct Supply {
    pub(in crate::pool) shared: Arc<SharedState>,
    pub(in crate::pool) runtime: Arc<dyn Runtime>,
    /// Where instances have their databases.
    pub(in crate::pool) databases: Arc<dyn Databases>,
    /// Jobs for this node, and for others where they share it.
    pub(in crate::pool) queue: Arc<dyn Queue>,
    /// Most jobs at a time.
    pub(in crate::pool) workers: usize,
    /// The instances that a task is making or stopping at present.
    pub(in crate::pool) in_flight: InFlight,
    /// Tracks each task that makes or stops an instance.
    pub(in crate::pool) tasks: TaskTracker,
    /// The ready instances of this node, which are checked again and again.
    pub(in crate::pool) ready_watch: ReadyWatch,
    /// The sources of the random texts in hooks; set once its secret is known.
    pub(in crate::pool) random_texts: OnceLock<RandomTextSources>,
    /// The memory of this node's instances, as it was measured last.
    pub(in crate::pool) memory_sample: ArcSwap<MemorySample>,
    /// Wakes the memory sampler before its interval ends.
    pub(in crate::pool) sample_memory_now: Notify,
    /// Wakes the sweep of databases before its interval ends.
    pub(in crate::pool) sweep_databases_now: Notify,
}

impl Supply {
    pub(in crate::pool) fn new(
        shared: Arc<SharedState>,
        runtime: Arc<dyn Runtime>,
        databases: Arc<dyn Databases>,
        QueueAccess { queue, workers }: QueueAccess,
        secret: Option<NodeSecret>,
    ) -> Self {
        let random_texts = secret.map(|secret| RandomTextSources::new(&secret).into());
        Self {
            shared,
            runtime,
            databases,
            queue,
            workers,
            in_flight: InFlight::default(),
            tasks: TaskTracker::new(),
            ready_watch: ReadyWatch::default(),
            random_texts: random_texts.unwrap_or_default(),
            memory_sample: ArcSwap::default(),
            sample_memory_now: Notify::new(),
            sweep_databases_now: Notify::new(),
        }
    }

    /// Returns how the app of an instance connects to its database; `None` if its template has none.
    pub(in crate::pool) fn database_access(
        &self,
        template: &Template,
        id: &InstanceId,
    ) -> Option<DatabaseAccess> {
        let access = template.database.as_ref().and_then(|_| self.databases.access(id))?;
        Some(match self.runtime.database_address() {
            Some((host, port)) => DatabaseAccess { host: host.to_string(), port, ..access },
            None => access,
        })
    }

    /// Returns whether the secret of the random texts is known. Before that no instance is made.
    pub(in crate::pool) fn is_secret_known(&self) -> bool {
        self.random_texts.get().is_some()
    }
}
