//! What runs instances: the trait [`Runtime`] and its implementations.
//!
//! | module | what runs an instance |
//! |---|---|
//! | [`process`] | a child process; the embedded default, for trusted apps |
//! | [`containerd`] | a container with a sealed network, restored from a checkpoint where that is possible |
//! | `null` | nothing; records only, for benches (feature `runtime-none`) |
//!
//! Every implementation passes the same conformance suite (`tests/suites/runtime.rs`). A caller starts an instance with
//! a [`StartRequest`], reaches its app with [`Runtime::connect`], and ends it with [`Runtime::stop`].
//!
//! The other files serve the implementations: `output_log` (the last output of an instance), `memory_report` (what
//! instances use), `registry_auth` (logins for image registries), `blocking` (work that waits for the host),
//! `apparmor` (the profile of containers), `containerd_process` (which programs containerd finds), `tracefs` (the kernel's tracing).

pub mod apparmor;
mod blocking;
mod command;
pub mod containerd;
pub mod containerd_process;
mod error;
mod interface;
mod memory_report;
#[cfg(feature = "runtime-none")]
pub mod null;
mod output_log;
pub mod process;
mod registry_auth;
mod start_request;
pub mod tracefs;

pub use command::{ExecCommand, ExecOutput};
pub use error::RuntimeError;
pub use interface::{Checkpoint, CheckpointStatus, Exit, Runtime, StartMethod, Started};
pub use memory_report::{HostMemory, MemoryReport, MemoryUse};
pub use registry_auth::{Login, LoginFile, Logins};
pub use start_request::{InstanceFile, StartRequest};
