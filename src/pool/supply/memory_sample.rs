//! The memory of this node's instances as it was measured last, and what is computed from it.

use std::collections::HashMap;

use serde::Serialize;

use crate::instance::InstanceId;
use crate::runtime::{MemoryReport, MemoryUse};
use crate::telemetry::PoolMemory;

/// One measurement of the memory of this node's instances.
#[derive(Debug, Default)]
pub(in crate::pool) struct MemorySample {
    pub(super) instances: HashMap<InstanceId, MemoryUse>,
    /// The sums by template.
    pub(super) pools: HashMap<String, PoolMemory>,
    /// Of the templates whose capacity is computed from the memory.
    pub(super) bases: HashMap<String, CapacityBasis>,
}

/// What the capacity of a pool is computed from, in bytes. The field names are part of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct CapacityBasis {
    /// What one instance counts for.
    pub instance_bytes: u64,
    /// The host's memory that is available.
    pub available_bytes: u64,
    /// The part of that which is reserved for everything else on the host.
    pub reserve_bytes: u64,
}

/// The memory of one instance, in bytes. The field names are part of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct InstanceMemory {
    /// Memory of its processes that no other process maps.
    pub private_bytes: u64,
    /// Its processes' proportional share of all pages that they map.
    pub proportional_bytes: u64,
    /// What would be free without the instance: private memory, files that it has written, and the kernel's memory for
    /// it.
    pub charged_bytes: u64,
}

impl MemorySample {
    /// Creates a sample from a runtime's report.
    pub(super) fn from_report(report: MemoryReport) -> Self {
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
        Self { instances: report.instances.into_iter().collect(), pools, bases: HashMap::new() }
    }

    /// Returns what the capacity of a template's pool is computed from; `None` where the template sets it.
    pub(in crate::pool) fn capacity_basis(&self, template: &str) -> Option<CapacityBasis> {
        self.bases.get(template).copied()
    }

    /// Returns the memory of a template's instances; `None` where it is not measured, or they took none.
    pub(in crate::pool) fn memory_of_pool(&self, template: &str) -> Option<PoolMemory> {
        self.pools.get(template).copied()
    }

    /// Returns the memory of one instance.
    pub(in crate::pool) fn memory_of(&self, id: &InstanceId) -> Option<InstanceMemory> {
        let used = *self.instances.get(id)?;
        Some(InstanceMemory {
            private_bytes: used.private,
            proportional_bytes: used.proportional,
            charged_bytes: used.charged,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::TemplateName;
    use crate::runtime::HostMemory;

    #[test]
    fn each_template_has_its_sum_and_the_memory_that_its_instances_share_counts_once() {
        let id = |name: &str| InstanceId::random(&TemplateName::new(name).unwrap());
        let used = |private| MemoryUse { private, proportional: 2 * private, charged: 3 * private };
        let report = MemoryReport {
            instances: vec![(id("shop"), used(5)), (id("shop"), used(7)), (id("blog"), used(1))],
            shared: vec![("shop".to_owned(), 100), ("wiki".to_owned(), 9)],
            host: HostMemory { total: 0, available: 0 },
            room: None,
        };
        let sample = MemorySample::from_report(report.clone());
        let shop = PoolMemory {
            instances: 2,
            private_bytes: 12,
            proportional_bytes: 24,
            charged_bytes: 36,
            shared_bytes: 100,
        };
        assert_eq!(sample.pools["shop"], shop);
        assert_eq!(sample.pools["wiki"], PoolMemory { shared_bytes: 9, ..PoolMemory::default() });
        assert_eq!(sample.instances[&report.instances[2].0], used(1));
    }
}
