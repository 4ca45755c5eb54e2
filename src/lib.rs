//! Try It Now: a server that keeps instances of an app running and assigns one to each visitor who asks.
//!
//! Two stories run through this crate, and its modules are listed in their order.
//!
//! **A request:** the server accepts a connection, checks the head of each request and finds its host. Then the API
//! answers, or the proxy forwards the request to the instance that owns the host.
//!
//! **An instance:** `warming -> ready -> assigned -> expired -> gone`. The pool makes it from a template, assigns it to
//! one visitor, and removes it. An instance is never used twice.
//!
//! `tests/structure/walls.rs` holds the table of which module may use which.

// The commands of the program: serve, bake, clean, doctor, and the built-in sample app.
pub mod cli;

// A request, in order.

// The one port: accepts connections, checks heads, chooses an engine; assembles the parts and shuts them down.
pub mod server;

// Which host a request names, which client sent it, its id: the rules that both engines share.
pub mod request;

// The API and the pages, answered by hyper: one endpoint a file.
pub mod api;

// The traffic of instances: Pingora forwards it, except WebSockets, which a tunnel carries.
pub mod proxy;

// The nodes that share a store: membership, heartbeat, and requests from one node to another.
pub mod cluster;

// An instance, in order.

// What an app is, as the operator declares it. Pure.
pub mod template;

// The rules of an instance's states. Pure.
pub mod instance;

// How many instances there are, which visitor gets one, when it ends.
pub mod pool;

// What both stories stand on: one trait a folder, with an embedded implementation and one for production.

// What all nodes agree on.
pub mod store;

// What runs instances.
pub mod runtime;

// Used by all.

// Reads the environment and the file of templates, and reports all errors in them at once.
pub mod config;

// Log lines, metrics and named tasks.
pub mod telemetry;

// The current time.
pub mod clock;

// Returns the configuration of property tests: a failure is stored below `tests/`, in a file for each source file.
#[cfg(test)]
fn proptest_config() -> proptest::test_runner::Config {
    use proptest::test_runner::{Config, FileFailurePersistence};
    let seeds = FileFailurePersistence::SourceParallel("tests/proptest-regressions");
    Config { failure_persistence: Some(Box::new(seeds)), ..Config::default() }
}
