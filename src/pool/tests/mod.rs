//! The pools against a store, a runtime and an app that fail on demand: each fault at each step, and random operations
//! against a model; and what a flood of requests costs the store.

mod bakes;
mod deliveries;
mod ended_elsewhere;
mod evicted_nodes;
mod faults;
pub(crate) mod fixture;
mod floods;
mod memory;
mod model;
mod model_world;
mod node_hosts;
mod ready_watch;
mod test_app;
mod test_databases;
pub(super) mod test_runtime;
mod test_store;
mod waiting;
