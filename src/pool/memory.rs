//! What instances take of this host's memory: read now and then, and told to whoever asks meanwhile.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use super::Pool;
use crate::instance::InstanceId;
use crate::runtime::{MemoryReport, MemoryUse};
use crate::telemetry::PoolMemory;

/// The least time between two readings.
const INTERVAL: Duration = Duration::from_secs(10);
/// The same as a multiple of what the last one took: with many instances it is not to be felt.
const SHARE: u32 = 100;
/// Longest time that a reading may take.
const DEADLINE: Duration = Duration::from_secs(30);

/// What was read last.
#[derive(Debug, Default)]
pub(super) struct Seen {
    instances: HashMap<InstanceId, MemoryUse>,
    pools: HashMap<String, PoolMemory>,
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

impl Seen {
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
        Self { instances: report.instances.into_iter().collect(), pools }
    }
}

/// Runs until the server stops, or for good where nothing can be read.
pub(super) async fn run(pool: Arc<Pool>) {
    while !pool.stopping.is_cancelled() {
        let begun = Instant::now();
        if !look(&pool).await {
            return;
        }
        let pause = INTERVAL.max(begun.elapsed().saturating_mul(SHARE));
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = pool.stopping.cancelled() => {}
        }
    }
}

/// Reads it. Whether that can be done.
async fn look(pool: &Pool) -> bool {
    let report = match tokio::time::timeout(DEADLINE, pool.runtime.memory()).await {
        Ok(Some(report)) => report,
        Ok(None) => return false,
        Err(_) => {
            tracing::warn!("what instances take of the memory could not be read in time");
            return true;
        }
    };
    let seen = Seen::of(report);
    for keeper in pool.keepers.all() {
        let template = keeper.template();
        let name = template.name.as_str();
        pool.metrics.memory(name, seen.pools.get(name).copied().unwrap_or_default());
    }
    pool.seen.store(Arc::new(seen));
    true
}

impl Pool {
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
    pub(super) fn memory_of_pool(&self, template: &str) -> Option<PoolMemory> {
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
        let seen = Seen::of(report.clone());
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
