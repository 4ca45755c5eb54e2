//! The server as a whole: the real program, tested over real sockets.
#![allow(clippy::unwrap_used, reason = "clippy allows it in test functions, but not in what they call")]
#![allow(unreachable_pub, reason = "a test binary exports nothing")]

/// The parts of the shared test support that this binary needs.
#[path = "../support"]
mod support {
    pub mod changed_image;
    pub mod debian_root;
    pub mod engine_stack;
    #[allow(dead_code, reason = "the backends' tests use the other faults")]
    pub mod fault_proxy;
    pub mod harness;
    #[cfg(feature = "measurements")]
    pub mod large_seed;
    pub mod leak_check;
    #[allow(dead_code, reason = "the backends' tests use the rest")]
    pub mod mariadb_server;
    pub mod nats_server;
    pub mod nginx;
    pub mod private_containerd;
    pub mod private_docker;
    pub mod skip;
    pub mod stack;
    #[allow(dead_code, reason = "the backends' tests use clusters and Sentinels")]
    pub mod valkey_server;
    pub mod wall_clock;
    pub mod zip;
}

mod api;
mod cluster;
mod containers;
mod engines;
mod lifecycle;
mod limits;
mod proxy;
mod zoo;
