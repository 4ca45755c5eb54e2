//! TODO

pub(super) mod backoff;
pub(super) mod bake;
pub(super) mod capacity;
pub(super) mod hooks;
pub(super) mod memory_sampler;
pub(super) mod plan;
pub(super) mod provision;
pub(super) mod readiness;
pub(super) mod reconcile;
