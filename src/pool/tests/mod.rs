//! The pool on a stage: every fault at every step, and random lives against a model.

mod bakes;
mod deliveries;
mod faults;
mod memory;
mod model;
pub(crate) mod stage;
mod test_app;
pub(super) mod test_runtime;
mod test_store;
mod waiting;
mod world;
