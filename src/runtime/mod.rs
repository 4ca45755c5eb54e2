//! What runs instances: the trait [`Runtime`] and its implementations.
//!
//! | module | what runs an instance |
//! |---|---|
//! | [`process`] | a child process; the embedded default, for trusted apps |
//! | [`containerd`] | a container with a sealed network, restored from a checkpoint where that is possible |
//! | [`engine`] | a started container of Docker or Podman |
//! | `null` | nothing; records only, for benches (feature `runtime-none`) |
//!
//! Every implementation passes the same conformance suite (`tests/suites/runtime.rs`). A caller starts an instance with
//! a [`StartRequest`], reaches its app with [`Runtime::connect`], and ends it with [`Runtime::stop`].
//!
//! [`Databases`] gives each instance a database of its own, where its template wants one: on a [`mariadb`], or nowhere.
//!
//! The other files serve the implementations: `output_log` (the last output of an instance), `memory_report` and `cgroup_memory` (what
//! instances use), `image/` and `image_facts` (what an image declares), `registry_auth` (logins for image registries), `blocking` (work that waits for the host),
//! `listeners` (where the processes of an instance listen),
//! `apparmor` (the profile of containers), `containerd_process` (which programs containerd finds), `tracefs` (the kernel's tracing),
//! `namespaces` (connections into network namespaces), `container_defaults` and `identity_files` (what every container gets),
//! `clean_scope` (whose things `clean` removes), `user_namespaces` (which instances have user ids of their own), `version` (of the kernel and of tools).

pub mod apparmor;
mod blocking;
mod cgroup_memory;
mod clean_scope;
mod command;
mod container_defaults;
pub mod containerd;
pub mod containerd_process;
mod database;
pub mod engine;
mod error;
mod identity_files;
mod image;
mod image_facts;
mod interface;
mod listeners;
pub mod mariadb;
mod memory_report;
mod namespaces;
#[cfg(feature = "runtime-none")]
pub mod null;
mod output_log;
pub mod process;
mod registry_auth;
mod start_request;
pub mod tracefs;
mod user_namespaces;
mod version;

pub use clean_scope::CleanScope;
pub use command::{ExecCommand, ExecOutput};
pub use database::{DatabaseAccess, DatabaseError, DatabaseName, Databases, NoDatabases};
pub use error::RuntimeError;
pub use image_facts::ImageFacts;
pub use interface::{Checkpoint, CheckpointStatus, Exit, Runtime, StartMethod, Started, TransferProgress};
pub use memory_report::{HostMemory, MemoryReport, MemoryUse};
pub use registry_auth::{Login, LoginFile, Logins};
pub use start_request::{InstanceFile, StartRequest};
pub use user_namespaces::UserNamespaces;
pub use version::version;
