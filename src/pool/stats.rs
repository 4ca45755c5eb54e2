//! How the pools are doing.

use serde::Serialize;

use super::Pool;
use crate::store::{Counts, StoreError};

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
    /// Every configured template's pool, in the order of the configuration. Sets the pool gauges on the way.
    pub async fn stats(&self) -> Result<Vec<TemplateStats>, StoreError> {
        let templates = self.templates();
        let mut all = Vec::new();
        for template in templates.iter() {
            let Counts { warming, ready, assigned } =
                self.ask(self.store.counts(&template.name, None)).await?;
            let stats = PoolStats {
                ready,
                assigned,
                warming,
                target: template.pool.target,
                capacity: template.pool.max,
            };
            let name = template.name.as_str();
            self.metrics.pool(name, Counts { warming, ready, assigned }, stats.target, stats.capacity);
            let problem = self.keepers.get(name).and_then(|keeper| keeper.problem());
            all.push(TemplateStats { template: name.to_owned(), stats, problem });
        }
        // What is left of a template that was removed shrinks to nothing; its gauges must not stay as they were.
        for keeper in self.keepers.all().into_iter().filter(|keeper| !keeper.is_kept()) {
            let name = &keeper.template().name;
            self.metrics.pool(
                name.as_str(),
                self.ask(self.store.counts(name, Some(&self.node))).await?,
                0,
                0,
            );
        }
        Ok(all)
    }
}
