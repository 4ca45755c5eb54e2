//! What the instances of a template take of this host's memory, as metrics.

use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use serde::Serialize;

use super::metrics::TemplateLabel;

/// What the instances of one template take, in all. Bytes, but for their number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct PoolMemory {
    /// Instances that were measured.
    pub instances: u64,
    /// Memory of their processes that each has for itself.
    pub private_bytes: u64,
    /// The share of their processes in all that is in memory.
    pub proportional_bytes: u64,
    /// What would be free without them: what is private, what they have written, and what the kernel keeps for them.
    pub charged_bytes: u64,
    /// What copies have in common, once for all of them.
    pub shared_bytes: u64,
}

#[derive(Debug)]
pub(super) struct MemoryMetrics {
    instances: Family<TemplateLabel, Gauge>,
    private: Family<TemplateLabel, Gauge>,
    proportional: Family<TemplateLabel, Gauge>,
    charged: Family<TemplateLabel, Gauge>,
    shared: Family<TemplateLabel, Gauge>,
}

impl MemoryMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let mut gauge = |name: &str, help: &str| {
            let family = Family::<TemplateLabel, Gauge>::default();
            registry.register(name, help, family.clone());
            family
        };
        Self {
            instances: gauge("pool_memory_instances", "Instances whose memory was measured"),
            private: gauge("pool_memory_private_bytes", "Memory that instances have for themselves"),
            proportional: gauge(
                "pool_memory_proportional_bytes",
                "The instances' share of all memory in use",
            ),
            charged: gauge("pool_memory_charged_bytes", "What would be free without the instances"),
            shared: gauge("pool_memory_shared_bytes", "What copies of a checkpoint have in common, once"),
        }
    }

    pub(super) fn set(&self, template: &str, memory: PoolMemory) {
        let label = TemplateLabel { template: template.to_owned() };
        for (gauge, value) in [
            (&self.instances, memory.instances),
            (&self.private, memory.private_bytes),
            (&self.proportional, memory.proportional_bytes),
            (&self.charged, memory.charged_bytes),
            (&self.shared, memory.shared_bytes),
        ] {
            gauge.get_or_create(&label).set(i64::try_from(value).unwrap_or(i64::MAX));
        }
    }
}
