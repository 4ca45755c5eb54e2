//! Making instances, so that each pool has the ready ones that its template wants.
//!
//! | file | content |
//! |---|---|
//! | `reconcile.rs` | the loop that fills the pools: observe, plan, act |
//! | `plan.rs` | how many instances to make now: a pure function |
//! | `provision.rs` | making one instance: a table of steps, each with its undo |
//! | `readiness.rs` | requests to an app: ready check and warm-up |
//! | `hooks.rs` | what gives an instance its own address, keys and passwords |
//! | `bake.rs`, `bake_state.rs` | checkpoints: when one is made, and what is known of them |
//! | `compare_restores.rs`, `repeated_values.rs` | what two instances of a new checkpoint both draw at random |
//! | `backoff.rs` | how long a failing template pauses |
//! | `capacity.rs` | for how many instances the memory has room: a pure function |
//! | `memory_sampler.rs`, `memory_sample.rs` | measures the memory of instances, and sets the capacity by it |

pub(super) mod backoff;
pub(super) mod bake;
pub(super) mod bake_state;
pub(super) mod capacity;
mod compare_restores;
pub(super) mod hooks;
pub(super) mod memory_sample;
pub(super) mod memory_sampler;
pub(super) mod plan;
pub(super) mod provision;
pub(super) mod readiness;
pub(super) mod reconcile;
mod repeated_values;
