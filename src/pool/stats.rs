//! How the pools are doing.

use std::collections::BTreeSet;

use futures_util::try_join;
use serde::Serialize;

use super::{ByMemory, Pool};
use crate::instance::Counts;
use crate::instance::TemplateName;
use crate::store::{NodeStatus, StoreError};
use crate::telemetry::PoolMemory;

/// One pool, or several summed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct PoolStats {
    /// Waiting for a visitor.
    pub ready: usize,
    /// In a visitor's hands.
    pub assigned: usize,
    /// Being made.
    pub warming: usize,
    /// Ready instances wanted.
    pub target: usize,
    /// Most instances in all states.
    pub capacity: usize,
}

/// One template's pool.
#[derive(Debug, Clone, Serialize)]
pub struct TemplateStats {
    /// The template's name.
    pub template: String,
    /// Its numbers.
    #[serde(flatten)]
    pub stats: PoolStats,
    /// What its instances on this server take of the host's memory; absent where that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<PoolMemory>,
    /// What the capacity on this server goes by; absent where its template names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by_memory: Option<ByMemory>,
    /// Why its last attempt to make an instance failed, until one works.
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

impl Pool {
    /// Every template's pools over all servers, those of our own configuration first and in its order. `problem` is this
    /// server's. Sets the pool gauges on the way, which are this server's alone, to be summed by whoever reads all.
    pub async fn stats(&self) -> Result<Vec<TemplateStats>, StoreError> {
        let (templates, others) = (self.templates(), self.living_others());
        let mut all = Vec::new();
        for template in templates.iter() {
            let name = template.name.as_str();
            let keeper = self.keepers.get(name);
            let sizes = keeper.as_ref().map_or(template.pool, |keeper| keeper.sizes());
            let target = if self.is_draining() { 0 } else { sizes.target };
            let own = self.ask(self.store.counts(&template.name, Some(&self.node)));
            let problem = keeper.and_then(|keeper| keeper.problem());
            let sum = self.summed(&template.name, target, sizes.max, problem, &others);
            let (own, sum) = try_join!(own, sum)?;
            self.metrics.pool(name, own, target, sizes.max);
            all.push(sum);
        }
        let cards = others.iter().flat_map(|other| &other.card.pools);
        let foreign: BTreeSet<_> = cards.map(|pool| &pool.template).collect();
        for name in foreign.into_iter().filter(|name| templates.get(name.as_str()).is_none()) {
            all.push(self.summed(name, 0, 0, None, &others).await?);
        }
        // What is left of a template that was removed shrinks to nothing; its gauges must not stay as they were.
        for keeper in self.keepers.all().into_iter().filter(|keeper| !keeper.is_kept()) {
            let name = &keeper.template().name;
            let own = self.ask(self.store.counts(name, Some(&self.node))).await?;
            self.metrics.pool(name.as_str(), own, 0, 0);
        }
        Ok(all)
    }

    /// A template's pools over all servers, of which ours wants `target` and `capacity`.
    async fn summed(
        &self,
        name: &TemplateName,
        target: usize,
        capacity: usize,
        problem: Option<String>,
        others: &[NodeStatus],
    ) -> Result<TemplateStats, StoreError> {
        let Counts { warming, ready, assigned } = self.ask(self.store.counts(name, None)).await?;
        let mut stats = PoolStats { ready, assigned, warming, target, capacity };
        for pool in others.iter().flat_map(|other| &other.card.pools) {
            if pool.template == *name {
                stats.target += pool.target;
                stats.capacity += pool.capacity;
            }
        }
        let memory = self.memory_of_pool(name.as_str());
        let by_memory = self.by_memory(name.as_str());
        Ok(TemplateStats { template: name.to_string(), stats, memory, by_memory, problem })
    }
}
