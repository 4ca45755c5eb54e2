//! The pool on a stage: every fault at every step, and random lives against a model.

mod bakes;
mod deliveries;
mod faults;
pub(crate) mod fixture;
mod memory;
mod model;
mod model_world;
mod test_app;
pub(super) mod test_runtime;
mod test_store;
mod waiting;
