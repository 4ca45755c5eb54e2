//! What this runtime keeps or reads on the host outside of containerd.
//!
//! | file | what it does |
//! |---|---|
//! | `node_dir` | the node's folder: pipes, devices, CRIU's configuration, records for the next server |
//! | `private_files` | files and folders that only the server's user reads |
//! | `tmpfs` | file systems in memory that containerd sees |
//! | `cgroups` | the control groups of instances |
//! | `cgroup_changes` | how long a process waits when it changes its group |
//! | `yielding` | instances that get only the processor time that others leave |
//! | `node_group` | the control group above all instances of this node, and its limits |
//! | `memory_guard` | ends the largest instance before the memory of all is used up |
//! | `shared_shim` | the one shim for all instances of a host |
//! | `orphans` | processes that containerd does not know |
//! | `memory_usage` | what instances use of the host's memory |
//! | `id_ranges`, `shared_accounts` | user ids of instances, and what the kernel counts for all of them together |
//! | `kernel` | the running kernel |

pub(super) mod cgroup_changes;
pub(super) mod cgroups;
pub(super) mod id_ranges;
pub(super) mod kernel;
pub(super) mod memory_guard;
mod memory_usage;
pub(super) mod node_dir;
pub(super) mod node_group;
pub(super) mod orphans;
pub(super) mod private_files;
pub(super) mod shared_accounts;
pub(super) mod shared_shim;
pub(super) mod tmpfs;
pub(super) mod yielding;
