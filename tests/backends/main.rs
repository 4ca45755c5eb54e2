//! Every store, every queue and every runtime under the suite of its trait, and the promises that only one backend makes.
//!
//! A new backend is one module here with one `store_suite!`, `queue_suite!` or `runtime_suite!` line.
#![allow(clippy::unwrap_used, reason = "clippy allows it in test functions, but not in what they call")]
#![allow(unreachable_pub, reason = "a test binary exports nothing")]

#[macro_use]
#[path = "../suites"]
mod suites {
    #[macro_use]
    pub mod databases;
    #[macro_use]
    pub mod queue;
    #[macro_use]
    pub mod runtime;
    #[macro_use]
    pub mod store;
}

/// The parts of the shared test support that this binary needs.
#[path = "../support"]
mod support {
    #[allow(dead_code, reason = "the server's tests use the rest")]
    pub mod engine_stack;
    pub mod fault_proxy;
    #[cfg(feature = "measurements")]
    pub mod large_seed;
    pub mod leak_check;
    #[allow(dead_code, reason = "the server's tests use the rest")]
    pub mod mariadb_server;
    pub mod nats_server;
    pub mod skip;
    pub mod stack;
    pub mod user_namespaces;
    #[allow(dead_code, reason = "the server's tests use the rest")]
    pub mod valkey_server;
}

mod containerd;
mod engines;
mod mariadb;
mod memory;
mod memory_queue;
mod nats;
mod process;
mod valkey;
