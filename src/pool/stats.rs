//! The counts of all pools, for the API, and their gauges.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::try_join;
use serde::Serialize;

use super::shared_query::SharedQuery;
use super::shared_state::SharedState;
use super::{CapacityBasis, Supply};
use crate::instance::{StateCounts, TemplateName};
use crate::store::{NodeStatus, StoreError};
use crate::telemetry::PoolMemory;

/// The counts of one pool, or the sum of several. The field names are part of the API.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct PoolStats {
    /// Instances that no visitor has yet.
    pub ready: usize,
    /// Instances that visitors have.
    pub assigned: usize,
    /// Instances that are being made.
    pub warming: usize,
    /// Ready instances to keep.
    pub target: usize,
    /// Most instances in all states.
    pub capacity: usize,
}

/// The pools of one template over all nodes. The field names are part of the API.
#[derive(Debug, Clone, Serialize)]
pub struct TemplateStats {
    /// The template's name.
    pub template: String,
    /// Their counts.
    #[serde(flatten)]
    pub stats: PoolStats,
    /// The memory of its instances on this node; absent where it is not measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<PoolMemory>,
    /// What the capacity on this node is computed from; absent where the template sets the capacity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by_memory: Option<CapacityBasis>,
    /// Why the last attempt of this node to make an instance failed; absent after a success.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

impl std::iter::Sum for PoolStats {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |a, b| Self {
            ready: a.ready + b.ready,
            assigned: a.assigned + b.assigned,
            warming: a.warming + b.warming,
            target: a.target + b.target,
            capacity: a.capacity + b.capacity,
        })
    }
}

/// The counts of all pools, and whether the store answers.
pub struct Statistics {
    shared: Arc<SharedState>,
    supply: Arc<Supply>,
    stats_query: SharedQuery<Result<Vec<TemplateStats>, StoreError>>,
    ping_query: SharedQuery<Result<(), StoreError>>,
}

impl Statistics {
    pub(super) fn new(shared: Arc<SharedState>, supply: Arc<Supply>) -> Self {
        Self { shared, supply, stats_query: SharedQuery::default(), ping_query: SharedQuery::default() }
    }

    /// Checks that the store answers. Callers at the same time share a check, which begins after each of them called.
    ///
    /// # Errors
    /// `Unavailable` when it does not answer in time.
    pub async fn ping(&self) -> Result<(), StoreError> {
        self.ping_query.answer(self.shared.store.ping()).await
    }

    /// Returns the counts of each template over all nodes: first the templates of this node's configuration, in its
    /// order, then those that only peers have.
    ///
    /// Also sets the pool gauges. These are of this node alone; whatever reads the metrics of all nodes sums them.
    ///
    /// Callers at the same time share a query of the store. The counts are never older than the call.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer in time.
    pub async fn of_templates(&self) -> Result<Vec<TemplateStats>, StoreError> {
        self.stats_query.answer(self.query_stats()).await
    }

    async fn query_stats(&self) -> Result<Vec<TemplateStats>, StoreError> {
        let (templates, peers) =
            (self.shared.template_pools.configured(), self.shared.membership.living_peers());
        let mut all = Vec::new();
        for template in templates.iter() {
            let name = template.name.as_str();
            let template_pool = self.shared.template_pools.get(name);
            let sizes = template_pool.as_ref().map_or(template.pool, |pool| pool.sizes());
            let target = if self.shared.is_draining() { 0 } else { sizes.target };
            let own = self.shared.store.counts(&template.name, Some(&self.shared.node));
            let problem = template_pool.and_then(|pool| pool.problem());
            let sum = self.sum_over_nodes(&template.name, target, sizes.max, problem, &peers);
            let (own, sum) = try_join!(own, sum)?;
            self.shared.metrics.set_pool_counts(name, own, target, sizes.max);
            all.push(sum);
        }
        let infos = peers.iter().flat_map(|peer| &peer.info.pools);
        let names: BTreeSet<_> = infos.map(|info| &info.template).collect();
        for name in names.into_iter().filter(|name| templates.get(name.as_str()).is_none()) {
            all.push(self.sum_over_nodes(name, 0, 0, None, &peers).await?);
        }
        // The instances of a removed template disappear one by one; its gauges must follow.
        for pool in self.shared.template_pools.all().into_iter().filter(|pool| !pool.is_configured()) {
            let name = &pool.template().name;
            let own = self.shared.store.counts(name, Some(&self.shared.node)).await?;
            self.shared.metrics.set_pool_counts(name.as_str(), own, 0, 0);
        }
        Ok(all)
    }

    /// Returns the sum of a template's pools over all nodes, where this node's own pool has `target` and `capacity`.
    async fn sum_over_nodes(
        &self,
        name: &TemplateName,
        target: usize,
        capacity: usize,
        problem: Option<String>,
        peers: &[NodeStatus],
    ) -> Result<TemplateStats, StoreError> {
        let StateCounts { warming, ready, assigned } = self.shared.store.counts(name, None).await?;
        let mut stats = PoolStats { ready, assigned, warming, target, capacity };
        for info in peers.iter().flat_map(|peer| &peer.info.pools) {
            if info.template == *name {
                stats.target += info.target;
                stats.capacity += info.capacity;
            }
        }
        let sample = self.supply.memory_sample.load();
        let (memory, by_memory) =
            (sample.memory_of_pool(name.as_str()), sample.capacity_basis(name.as_str()));
        Ok(TemplateStats { template: name.to_string(), stats, memory, by_memory, problem })
    }
}
