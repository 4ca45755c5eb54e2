//! The metrics of the memory that the instances of a template use on this host.

use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use serde::Serialize;

use super::label_sets::TemplateLabel;

/// The memory that the instances of one template use together. All fields but `instances` are bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct PoolMemory {
    /// Instances that were measured.
    pub instances: u64,
    /// Memory of the processes that each instance has for itself.
    pub private_bytes: u64,
    /// The proportional set size (PSS) of the processes: each page counts by the share of the process in it.
    pub proportional_bytes: u64,
    /// The memory that would be free without the instances: private memory, files that they wrote, and memory that the
    /// kernel keeps for them.
    pub charged_bytes: u64,
    /// Memory that the instances share, counted once for all of them.
    pub shared_bytes: u64,
}

/// The gauges of [`PoolMemory`].
#[derive(Debug)]
pub(super) struct MemoryMetrics {
    instances: Family<TemplateLabel, Gauge>,
    private: Family<TemplateLabel, Gauge>,
    proportional: Family<TemplateLabel, Gauge>,
    charged: Family<TemplateLabel, Gauge>,
    shared: Family<TemplateLabel, Gauge>,
}

impl MemoryMetrics {
    /// Creates the gauges and adds them to `registry`.
    pub(super) fn register(registry: &mut Registry) -> Self {
        let mut gauge = |name: &str, help: &str| {
            let family = Family::<TemplateLabel, Gauge>::default();
            registry.register(name, help, family.clone());
            family
        };
        Self {
            instances: gauge("pool_memory_instances", "Instances whose memory was measured"),
            private: gauge("pool_memory_private_bytes", "Memory that each instance has for itself"),
            proportional: gauge("pool_memory_proportional_bytes", "Proportional set size of the instances"),
            charged: gauge("pool_memory_charged_bytes", "Memory that would be free without the instances"),
            shared: gauge(
                "pool_memory_shared_bytes",
                "Memory that instances of a checkpoint share, counted once",
            ),
        }
    }

    /// Sets the gauges of one template.
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
