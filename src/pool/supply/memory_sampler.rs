//! Measures the memory of this node's instances at intervals, and sets the capacity of the pools that are limited by
//! it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::capacity::{self, MemoryDemand};
use super::memory_sample::{CapacityBasis, MemorySample};
use crate::instance::InstanceId;
use crate::pool::Supply;
use crate::pool::template_pool::TemplatePool;
use crate::proxy::routes::RouteLookup;
use crate::runtime::{HostMemory, MemoryUse};

/// The least time between two measurements.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(10);
/// The least time between two measurements, as a multiple of the time that the last one took: with many instances the
/// measurements must stay cheap.
const SAMPLE_COST_FACTOR: u32 = 100;
/// Time until another attempt where the memory cannot be measured.
const RETRY_INTERVAL: Duration = Duration::from_secs(600);
/// Longest time of a measurement.
const SAMPLE_DEADLINE: Duration = Duration::from_secs(30);
/// Longest time that the start of the pools waits for the first measurement.
const FIRST_SAMPLE_DEADLINE: Duration = Duration::from_secs(5);

/// Measures the memory before any instance is made, if the capacity of a pool is limited by it.
pub(in crate::pool) async fn sample_before_start(supply: &Supply) {
    if supply.shared.template_pools.all().iter().any(is_limited_by_memory) {
        // After a timeout the sampler measures again at once.
        let _is_done = tokio::time::timeout(FIRST_SAMPLE_DEADLINE, sample(supply)).await;
    }
}

/// Measures the memory until the pools shut down.
pub(in crate::pool) async fn run(supply: Arc<Supply>) {
    while !supply.shared.stopping.is_cancelled() {
        let begun = Instant::now();
        let pause = match sample(&supply).await {
            true => SAMPLE_INTERVAL.max(begun.elapsed().saturating_mul(SAMPLE_COST_FACTOR)),
            false => RETRY_INTERVAL,
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = supply.sample_memory_now.notified() => {}
            () = supply.shared.stopping.cancelled() => {}
        }
    }
}

fn is_limited_by_memory(template_pool: &Arc<TemplatePool>) -> bool {
    template_pool.template().pool.limited_by_memory
}

/// Measures the memory once, and sets the capacities. Returns whether the runtime can measure it.
async fn sample(supply: &Supply) -> bool {
    let report = match tokio::time::timeout(SAMPLE_DEADLINE, supply.runtime.memory()).await {
        Ok(Some(report)) => report,
        Ok(None) => {
            set_capacities_without_sample(supply);
            return false;
        }
        Err(_) => {
            tracing::warn!("failed to measure instance memory in time");
            return true;
        }
    };
    let host = limited(report.host, report.room);
    let mut sample = MemorySample::from_report(report);
    sample.bases = set_capacities(supply, &sample.instances, host).await;
    for template_pool in supply.shared.template_pools.all() {
        let template = template_pool.template();
        let name = template.name.as_str();
        supply.shared.metrics.set_pool_memory(name, sample.memory_of_pool(name).unwrap_or_default());
    }
    supply.memory_sample.store(Arc::new(sample));
    true
}

/// Returns the memory of a host of which instances may use no more than `room` beyond the reserve.
fn limited(host: HostMemory, room: Option<u64>) -> HostMemory {
    let most = room.map_or(u64::MAX, |room| room.saturating_add(host.reserve()));
    HostMemory { available: host.available.min(most), ..host }
}

/// Sets the capacity of the pools that are limited by the memory. Returns what each was computed from.
async fn set_capacities(
    supply: &Supply,
    uses: &HashMap<InstanceId, MemoryUse>,
    host: HostMemory,
) -> HashMap<String, CapacityBasis> {
    let mut limited = supply.shared.template_pools.all();
    limited.retain(|template_pool| template_pool.is_configured() && is_limited_by_memory(template_pool));
    let mut demands = Vec::new();
    for template_pool in &limited {
        demands.push(demand(supply, template_pool, uses).await);
    }
    let reserve = host.reserve();
    let capacities = capacity::capacities(host.available, reserve, &demands);
    let mut bases = HashMap::new();
    for ((template_pool, demand), capacity) in limited.iter().zip(&demands).zip(capacities) {
        let template = template_pool.template();
        // Without any observation one instance may be tried, whatever its limit: else none would ever be observed.
        let is_unobserved = template_pool.observed_memory.lock().is_empty();
        let first = usize::from(is_unobserved && host.available > reserve);
        let capacity = capacity.max(first).min(template.pool.max);
        let before = template_pool.set_memory_capacity(capacity);
        let basis = CapacityBasis {
            instance_bytes: demand.cost,
            available_bytes: host.available,
            reserve_bytes: reserve,
        };
        // Small changes are not logged: each visit causes one.
        if before.abs_diff(capacity) > before / 10 {
            tracing::info!(
                template = %template.name,
                capacity,
                before,
                instance_mebibytes = demand.cost >> 20,
                available_mebibytes = host.available >> 20,
                reserve_mebibytes = reserve >> 20,
                "pool capacity changed"
            );
        }
        bases.insert(template.name.to_string(), basis);
        if before != capacity {
            supply.shared.wake.notify_one();
        }
    }
    bases
}

/// Returns what the instances of one pool need of the memory.
async fn demand(
    supply: &Supply,
    template_pool: &TemplatePool,
    uses: &HashMap<InstanceId, MemoryUse>,
) -> MemoryDemand {
    let template = template_pool.template();
    let of_template = uses.iter().filter(|(id, _)| id.template() == template.name.as_str());
    let has_visitor =
        |id: &InstanceId| matches!(supply.shared.routes.find(id.as_str()), RouteLookup::Live(_));
    let now: Vec<_> = of_template.map(|(id, used)| (id.clone(), used.charged, has_visitor(id))).collect();
    let cost = {
        let mut observed = template_pool.observed_memory.lock();
        observed.observe(&now);
        observed.cost(template.app.limits.container_memory())
    };
    // The larger number counts: an instance without processes yet is only on record, and one that is being stopped
    // still takes memory.
    let on_record = match supply.shared.store.counts(&template.name, Some(&supply.shared.node)).await {
        Ok(counts) => counts.warming + counts.ready + counts.assigned,
        Err(_) => 0,
    };
    let bytes = now.iter().fold(0_u64, |sum, (_, charged, _)| sum.saturating_add((*charged).min(cost)));
    MemoryDemand { living: on_record.max(now.len()), bytes, cost }
}

/// Sets the capacity of the pools that are limited by the memory to their target: the memory cannot be measured here.
fn set_capacities_without_sample(supply: &Supply) {
    for template_pool in supply.shared.template_pools.all() {
        let template = template_pool.template();
        let target = template.pool.target;
        if template.pool.limited_by_memory && template_pool.set_memory_capacity(target) != target {
            tracing::warn!(
                template = %template.name,
                capacity = target,
                "cannot measure instance memory on this host; pool capacity set to its target"
            );
            supply.shared.wake.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_common_limit_of_all_instances_bounds_what_pools_may_take() {
        let host = HostMemory { total: 16 << 30, available: 12 << 30 };
        assert_eq!(limited(host, None), host);
        assert_eq!(limited(host, Some(u64::MAX)), host);
        let room = 3 << 30;
        assert_eq!(limited(host, Some(room)).available - host.reserve(), room);
    }
}
