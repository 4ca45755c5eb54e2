//! The embedded store: one node, in memory.
//!
//! Each template has one lock, held for about a microsecond and never across an await. Templates are found without a
//! lock. Time is read inside the lock, so that the order of a template's steps is the order of their times.
//!
//! | file | content |
//! |---|---|
//! | `store.rs` | [`MemoryStore`], which finds the table of a template and locks it |
//! | `template_table.rs` | the steps on the instances of one template, pure but for the route log |
//! | `step_kind.rs` | what a step means beyond the new record |
//! | `records.rs`, `ready_queue.rs`, `instance_counts.rs` | its records, those that are ready, and the counts |
//! | `claim_tokens.rs`, `rate_limits.rs`, `assigned_instances.rs` | its tokens, and what limits count of each visitor |
//! | `route_log.rs` | the ordered stream of route events |
//! | `nodes.rs` | the nodes on record |
//!
//! # A snapshot of the routes
//! `routes` reads the stream's last cursor, then the tables in portions, and then applies to the result the events that
//! the stream received meanwhile, up to a cursor that it returns. An event is appended under the same lock under which
//! its record changes. So the change of an event up to the first cursor is seen by the later read of its table; each
//! event between the two cursors is applied, in order, over whatever the read saw; and a record that changes after the
//! returned cursor was read before that change. The result is exactly the table at the returned cursor.

mod assigned_instances;
mod claim_tokens;
mod instance_counts;
mod nodes;
mod rate_limits;
mod ready_queue;
mod records;
mod route_log;
mod step_kind;
mod store;
mod template_table;

#[cfg(test)]
mod tests;

pub use store::{MAX_ROUTE_EVENTS, MemoryStore};
