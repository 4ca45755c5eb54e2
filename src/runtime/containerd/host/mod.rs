//! TODO

pub(super) mod cgroups;
pub(super) mod memory_usage;
pub(super) mod node_dir;
pub(super) mod shared_shim;
pub(super) mod tmpfs;
