//! What instances take of this host's memory: read now and then, and told to whoever asks meanwhile.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use super::capacity::{self, Taken};
use crate::instance::InstanceId;
use crate::pool::Pool;
use crate::pool::template_pool::TemplatePool;
use crate::proxy::routes::Found;
use crate::runtime::{HostMemory, MemoryReport, MemoryUse};
use crate::telemetry::PoolMemory;

/// The least time between two readings.
const INTERVAL: Duration = Duration::from_secs(10);
/// The same as a multiple of what the last one took: with many instances it is not to be felt.
const SHARE: u32 = 100;
/// The time until it is tried again where nothing could be read.
const SELDOM: Duration = Duration::from_secs(600);
/// Longest time that a reading may take.
const DEADLINE: Duration = Duration::from_secs(30);
/// Longest time that a start waits for the first.
const FIRST: Duration = Duration::from_secs(5);

/// What was read last.
#[derive(Debug, Default)]
pub(crate) struct MemorySample {
    instances: HashMap<InstanceId, MemoryUse>,
    pools: HashMap<String, PoolMemory>,
    /// Of templates whose size goes by the memory.
    planned: HashMap<String, ByMemory>,
}

/// What the size of a pool goes by, in bytes, where that is the host's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ByMemory {
    /// What an instance counts for.
    pub instance_bytes: u64,
    /// What could be used of the host's memory.
    pub available_bytes: u64,
    /// What of that is left alone.
    pub reserve_bytes: u64,
}

/// What one instance takes of its host's memory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct InstanceMemory {
    /// Memory of its processes that it has for itself.
    pub private_bytes: u64,
    /// The share of its processes in all that is in memory.
    pub proportional_bytes: u64,
    /// What would be free without it: what is private, what it has written, and what the kernel keeps for it.
    pub charged_bytes: u64,
}

impl MemorySample {
    fn of(report: MemoryReport) -> Self {
        let mut pools: HashMap<String, PoolMemory> = HashMap::new();
        for (id, used) in &report.instances {
            let pool = pools.entry(id.template().to_owned()).or_default();
            pool.instances += 1;
            pool.private_bytes = pool.private_bytes.saturating_add(used.private);
            pool.proportional_bytes = pool.proportional_bytes.saturating_add(used.proportional);
            pool.charged_bytes = pool.charged_bytes.saturating_add(used.charged);
        }
        for (template, bytes) in report.shared {
            let pool = pools.entry(template).or_default();
            pool.shared_bytes = pool.shared_bytes.saturating_add(bytes);
        }
        Self { instances: report.instances.into_iter().collect(), pools, planned: HashMap::new() }
    }
}

/// Reads it before anything is made, where that goes by it.
pub(crate) async fn first(pool: &Pool) {
    if pool.keepers.all().iter().any(|keeper| keeper.template().pool.by_memory) {
        let _read_again_soon = tokio::time::timeout(FIRST, look(pool)).await;
    }
}

/// Runs until the server stops.
pub(crate) async fn run(pool: Arc<Pool>) {
    while !pool.stopping.is_cancelled() {
        let begun = Instant::now();
        let pause = match look(&pool).await {
            true => INTERVAL.max(begun.elapsed().saturating_mul(SHARE)),
            false => SELDOM,
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = pool.resized.notified() => {}
            () = pool.stopping.cancelled() => {}
        }
    }
}

/// Reads it. Whether that can be done.
async fn look(pool: &Pool) -> bool {
    let report = match tokio::time::timeout(DEADLINE, pool.runtime.memory()).await {
        Ok(Some(report)) => report,
        Ok(None) => {
            cannot_plan(pool);
            return false;
        }
        Err(_) => {
            tracing::warn!("what instances take of the memory could not be read in time");
            return true;
        }
    };
    let host = report.host;
    let mut seen = MemorySample::of(report);
    seen.planned = plan(pool, &seen.instances, host).await;
    for keeper in pool.keepers.all() {
        let template = keeper.template();
        let name = template.name.as_str();
        pool.metrics.memory(name, seen.pools.get(name).copied().unwrap_or_default());
    }
    pool.seen.store(Arc::new(seen));
    true
}

/// Has the pools that go by the memory be as large as that has room for.
async fn plan(
    pool: &Pool,
    uses: &HashMap<InstanceId, MemoryUse>,
    host: HostMemory,
) -> HashMap<String, ByMemory> {
    let keepers = pool.keepers.all().into_iter();
    let keepers: Vec<_> =
        keepers.filter(|keeper| keeper.is_kept() && keeper.template().pool.by_memory).collect();
    let mut all = Vec::new();
    for keeper in &keepers {
        all.push(taken(pool, keeper, uses).await);
    }
    let reserve = capacity::reserve(host.total);
    let capacities = capacity::capacities(host.available, reserve, &all);
    let mut planned = HashMap::new();
    for ((keeper, taken), capacity) in keepers.iter().zip(&all).zip(capacities) {
        let template = keeper.template();
        // One of which nothing is known yet may be tried whatever its limit, else nothing would ever be known.
        let first = usize::from(keeper.observed.lock().is_empty() && host.available > reserve);
        let capacity = capacity.max(first).min(template.pool.max);
        let before = keeper.has_room(capacity);
        let by_memory =
            ByMemory { instance_bytes: taken.cost, available_bytes: host.available, reserve_bytes: reserve };
        // Each visit changes it by a little.
        if before.abs_diff(capacity) > before / 10 {
            tracing::info!(
                template = %template.name,
                capacity,
                before,
                instance_mebibytes = taken.cost >> 20,
                available_mebibytes = host.available >> 20,
                reserve_mebibytes = reserve >> 20,
                "the memory has room for another number of instances"
            );
        }
        planned.insert(template.name.to_string(), by_memory);
        if before != capacity {
            pool.wake.notify_one();
        }
    }
    planned
}

async fn taken(pool: &Pool, keeper: &TemplatePool, uses: &HashMap<InstanceId, MemoryUse>) -> Taken {
    let template = keeper.template();
    let own = uses.iter().filter(|(id, _)| id.template() == template.name.as_str());
    let now: Vec<_> = own
        .map(|(id, used)| (id.clone(), used.charged, matches!(pool.routes.find(id.as_str()), Found::Live(_))))
        .collect();
    let cost = {
        let mut observed = keeper.observed.lock();
        observed.observe(&now);
        observed.cost(template.app.limits.container_memory())
    };
    // Those that have no processes yet are on record, and those that end still take something.
    let on_record = match pool.ask(pool.store.counts(&template.name, Some(&pool.node))).await {
        Ok(counts) => counts.warming + counts.ready + counts.assigned,
        Err(_) => 0,
    };
    let bytes = now.iter().fold(0_u64, |sum, (_, charged, _)| sum.saturating_add((*charged).min(cost)));
    Taken { living: on_record.max(now.len()), bytes, cost }
}

/// Nothing is known of the memory, so there are no more instances than the operator wants ready.
fn cannot_plan(pool: &Pool) {
    for keeper in pool.keepers.all() {
        let template = keeper.template();
        if template.pool.by_memory && keeper.has_room(template.pool.target) != template.pool.target {
            tracing::warn!(
                template = %template.name,
                capacity = template.pool.target,
                "what instances take of the memory is not known here, so there are as many as are wanted ready"
            );
            pool.wake.notify_one();
        }
    }
}

impl Pool {
    /// What the size of a template's pool goes by, if it goes by the memory.
    pub(crate) fn by_memory(&self, template: &str) -> Option<ByMemory> {
        self.seen.load().planned.get(template).copied()
    }

    /// What an instance of this server took of the memory when that was read last.
    pub fn memory_of(&self, id: &InstanceId) -> Option<InstanceMemory> {
        let used = *self.seen.load().instances.get(id)?;
        Some(InstanceMemory {
            private_bytes: used.private,
            proportional_bytes: used.proportional,
            charged_bytes: used.charged,
        })
    }

    /// What this server's instances of a template took of the memory when that was read last. `None` where it is not
    /// read, or they took nothing.
    pub(crate) fn memory_of_pool(&self, template: &str) -> Option<PoolMemory> {
        self.seen.load().pools.get(template).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::TemplateName;
    use crate::runtime::HostMemory;

    #[test]
    fn each_template_has_its_sum_and_what_its_copies_share_counts_once() {
        let id = |name: &str| InstanceId::random(&TemplateName::new(name).unwrap());
        let used = |private| MemoryUse { private, proportional: 2 * private, charged: 3 * private };
        let report = MemoryReport {
            instances: vec![(id("shop"), used(5)), (id("shop"), used(7)), (id("blog"), used(1))],
            shared: vec![("shop".to_owned(), 100), ("wiki".to_owned(), 9)],
            host: HostMemory { total: 0, available: 0 },
        };
        let seen = MemorySample::of(report.clone());
        let shop = PoolMemory {
            instances: 2,
            private_bytes: 12,
            proportional_bytes: 24,
            charged_bytes: 36,
            shared_bytes: 100,
        };
        assert_eq!(seen.pools["shop"], shop);
        assert_eq!(seen.pools["wiki"], PoolMemory { shared_bytes: 9, ..PoolMemory::default() });
        assert_eq!(seen.instances[&report.instances[2].0], used(1));
    }
}
