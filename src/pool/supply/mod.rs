//! Making instances, so that each pool has the ready ones that its template wants.
//!
//! | file | content |
//! |---|---|
//! | `state.rs` | [`Supply`]: what it keeps |
//! | `reconcile.rs` | the loop that fills the pools: observe, plan, act |
//! | `plan.rs` | how many instances to make now: a pure function |
//! | `cluster_plan.rs` | how many all nodes together are to have, where they share a queue |
//! | `shared_fill.rs` | jobs for the instances that these nodes miss |
//! | `workers.rs` | taking jobs from the queue, and settling each |
//! | `job_outcome.rs` | what came of a job |
//! | `provision.rs` | making one instance: a table of steps, each with its undo |
//! | `attempt.rs` | one attempt at that, and what follows from its outcome |
//! | `provision_error.rs` | why one could not be made |
//! | `readiness.rs` | requests to an app: ready check and warm-up |
//! | `ready_watch.rs` | asks ready instances their ready check again and again |
//! | `watched_instances.rs` | when each is asked next |
//! | `withdrawn.rs` | those that fail it: offered again, or replaced |
//! | `max_idle_age.rs` | replaces ready instances that are too old |
//! | `health.rs` | the health check of an image, in place of the ready check |
//! | `wrong_port.rs` | describes where an app listens, if not where it should: pure |
//! | `hooks.rs` | what gives an instance its own address, keys and passwords |
//! | `bake.rs`, `bake_state.rs` | checkpoints: when one is made, and what is known of them |
//! | `failed_restores.rs` | checkpoints whose instances do not become ready: discarded |
//! | `compare_restores.rs`, `repeated_values.rs` | what two instances of a new checkpoint both draw at random |
//! | `trial.rs` | one instance that is made, measured and ended, for the command `try-image` |
//! | `backoff.rs` | how long a failing template pauses |
//! | `capacity.rs` | for how many instances the memory has room: a pure function |
//! | `memory_sampler.rs`, `memory_sample.rs` | measures the memory of instances, and sets the capacity by it |

pub(super) mod attempt;
pub(super) mod backoff;
pub(super) mod bake;
pub(super) mod bake_state;
pub(super) mod capacity;
pub(super) mod cluster_plan;
mod compare_restores;
mod failed_restores;
mod health;
pub(super) mod hooks;
pub(super) mod job_outcome;
mod max_idle_age;
pub(super) mod memory_sample;
pub(super) mod memory_sampler;
pub(super) mod plan;
pub(super) mod provision;
mod provision_error;
pub(super) mod readiness;
pub(super) mod ready_watch;
pub(super) mod reconcile;
mod repeated_values;
mod shared_fill;
mod state;
pub(super) mod trial;
pub(super) mod watched_instances;
mod withdrawn;
pub(super) mod workers;
mod wrong_port;

pub use state::Supply;
