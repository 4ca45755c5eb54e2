//! The store that many nodes share: Valkey 8 or newer, or Redis 7.
//!
//! Every transition is one call of a script, which Valkey runs alone and by its own clock: all of it happens or none,
//! whatever other nodes do. The rules are those of [`crate::instance`]; the conformance suite checks that the scripts
//! follow them.
//!
//! All keys share one hash tag. So a cluster keeps them on one server, and in return the route events of all templates
//! have one order, a sweep sees all templates at once, and a snapshot of the routes is exact. One Valkey runs tens of
//! thousands of claims a second; a second one would make none of them faster.
//!
//! A Valkey that restarts may come back with older data, or empty: `recovery/mod.rs` describes how the nodes restore
//! what it lost.
//!
//! | file | content |
//! |---|---|
//! | `store.rs` | [`ValkeyStore`]: one step for each method of the trait |
//! | `nodes.rs`, `scan.rs` | its methods about nodes, and those that read in pages |
//! | `admission.rs` | which steps may run: none while the state of Valkey is not verified |
//! | `connection.rs` | the shared connection, the deadline of each call, its repetition |
//! | `server_hosts.rs` | the hosts of all servers, which no instance may reach |
//! | `transport.rs` | one connection: single server, Sentinels or cluster |
//! | `scripts/` | the Lua scripts, with the list of all keys in `prelude.lua` |
//! | `record_codec.rs`, `script_reply.rs` | the texts that go to the scripts and come back |
//! | `recovery/` | the task that verifies and restores, the local view, the grant log |
//!
//! # When a step is added or changed
//! - The answer of each step is noted in the grant log before the caller gets it, and may be refused there: see
//!   `ValkeyStore::note`.
//! - A step that ends, grants or returns an instance also concerns `recovery/local_view.rs`,
//!   `scripts/recover_report.lua` and the clients in `tests/backends/valkey/recovery.rs`.
//! - `scripts/mod.rs` has the two rules for scripts.

mod admission;
mod connection;
mod nodes;
mod record_codec;
mod recovery;
mod scan;
mod script_reply;
mod scripts;
mod server_hosts;
mod settings;
mod store;
mod transport;

pub use server_hosts::server_hosts;
pub use settings::{Address, CALL_TIMEOUT, MAX_ROUTE_EVENTS, Mode, RECOVERY_TIMEOUT, Settings};
pub use store::ValkeyStore;
