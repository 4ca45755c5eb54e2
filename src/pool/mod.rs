//! The pools of this node: how many instances there are, which visitor gets one, and when it ends.
//!
//! The pools are level-triggered: one loop, `supply/reconcile.rs`, observes, plans (a pure function) and acts;
//! everything else only wakes it. The same loop fills a pool, replaces instances that died, and cleans up after a
//! crash. There is no second path of recovery.
//!
//! | file | content |
//! |---|---|
//! | `assembly.rs` | [`Pool`]: its parts, the start of their tasks, a changed configuration |
//! | `supply/` | [`Supply`]: making instances: plan, provisioning, checkpoints, capacity |
//! | `claim/` | [`Claims`]: assigning an instance to a visitor, and whether the answer reached the visitor |
//! | `end/` | the end of instances: release, expiry, failure, garbage collection, shutdown |
//! | `instances.rs` | [`Instances`]: what the API and the proxy do with one instance |
//! | `lookup.rs`, `lookup_budget.rs` | an instance by its id, and how often the store is asked for ids that are unknown here |
//! | `stats.rs` | [`Statistics`]: the counts of all pools, and their gauges |
//! | `local_node.rs` | the pools' part in the cluster |
//! | `shared_state.rs` | what all parts stand on |
//! | `template_pool.rs` | what is kept per template: sizes, back-off, wait queue, recent provisioning times |
//! | `in_flight.rs` | which instances a task works on, so that no other task touches them |
//! | `shared_query.rs` | one query of the store for many callers |
//!
//! The states and the transitions between them are defined in [`crate::instance`]; the store performs them.

mod assembly;
mod claim;
mod end;
mod in_flight;
mod instances;
mod local_node;
mod lookup;
mod lookup_budget;
mod shared_query;
mod shared_state;
mod stats;
mod supply;
mod template_pool;
#[cfg(test)]
pub(crate) mod tests;

pub use assembly::{Pool, PoolParts};
pub use claim::Claims;
pub use claim::acquire::{AcquireError, Acquired};
#[cfg(test)]
pub(crate) use claim::delivery::delivery_probe;
pub use claim::delivery::{Delivered, Delivery};
pub use instances::Instances;
pub use lookup::InstanceStatus;
pub use lookup_budget::Asker;
pub use stats::{PoolStats, Statistics, TemplateStats};
pub use supply::Supply;
pub use supply::bake::{BakeError, BakeOutcome};
pub use supply::memory_sample::{CapacityBasis, InstanceMemory};
pub use supply::trial::{TrialStart, TrialStartError};
