//! The containerd runtime: an instance is a container in a network namespace of its own, started from an image or, once
//! its template is baked, restored from a checkpoint.
//!
//! | folder or file | what it does |
//! |---|---|
//! | `runtime`, `inner` | the trait's implementation, and the state that its operations share |
//! | `settings` | the runtime's settings |
//! | `client/` | calls to containerd, the labels on what it stores, the options of runc's shim |
//! | `image/` | from an image's name to a snapshot: pull, import, inspect, mount |
//! | `container/` | starts, watches and ends a container: specification, writable disk, files, commands, exit events |
//! | `network/` | sealed network namespaces; links, addresses and a firewall for instances with egress |
//! | `checkpoint/` | bakes checkpoints and restores instances from them, with shared memory |
//! | `host/` | what the runtime keeps on this host outside of containerd: folders, tmpfs, cgroups, the shared shim |
//! | `takeover/` | after a crash: takes over what runs and removes the rest; `clean` removes all of some nodes |
//! | `fault_points` | steps at which tests fail or kill a server |
//!
//! To follow an instance's life, read `container/start.rs`, `checkpoint/bake.rs`, `container/stop.rs`,
//! `takeover/adopt.rs`.
//!
//! Everything that this runtime creates in containerd lies in a namespace of its own and carries the node's id as a
//! label. A newer server takes over what an older one left: labels, names of containers and snapshots, names of files
//! and of nftables tables must not change.
//!
//! containerd has a `/run` of its own (`deployments/stack`), because CRIU keeps what it found out about the kernel only
//! on a tmpfs there. Two things follow. Paths given to containerd must not lie below the host's `/run`. And a
//! containerd that is restarted must run in the mount namespace of its shims, or it does not find their sockets in
//! `/run`.

mod checkpoint;
mod client;
mod container;
mod fault_points;
mod host;
mod image;
mod inner;
mod network;
mod runtime;
mod settings;
mod takeover;

use std::ffi::OsString;
use std::process::ExitCode;

pub use checkpoint::catalog::baked_checkpoints;
pub use fault_points::{FaultInjector, FaultPoint};
pub use host::cgroup_changes::{MIN_KERNEL as CGROUP_CHANGES_KERNEL, first_change as first_cgroup_change};
pub use host::id_ranges::refusal as user_namespaces_refusal;
pub use host::node_group::NodeLimitSettings;
pub use host::shared_accounts::{AccountLimits, INOTIFY_TOTALS, total as inotify_total};
pub use network::egress::clean as clean_network;
pub use runtime::ContainerdRuntime;
pub use settings::{ContainerdSettings, default_shared_memory_limit};
pub use takeover::{Cleaned, clean};

/// Runs the internal command by which a shim calls this program in place of runc, if the arguments (the program's name
/// first) name it. Returns `None` if they do not.
///
/// `main` must call this before anything that starts a thread.
pub fn internal_command(arguments: impl IntoIterator<Item = OsString>) -> Option<ExitCode> {
    checkpoint::restore::run_internal_command(arguments.into_iter())
}
