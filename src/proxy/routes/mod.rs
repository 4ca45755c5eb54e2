//! The route table: which host belongs to which instance, in memory, read without a lock.
//!
//! | file | content |
//! |---|---|
//! | `route.rs` | one route: from a host to an assigned instance |
//! | `idle_sockets.rs` | sockets to apps that are kept while no request uses them |
//! | `table.rs` | all routes, and the hosts that have ended or do not exist |
//! | `follow.rs` | the task that applies the store's changes to the table |
//!
//! Changes come from two sources. The pool applies what this node did itself at once, and [`follow()`] brings every
//! change from the store's ordered stream. So most changes of this node arrive twice, in any order. Four rules make
//! that safe:
//!
//! - A record of an older generation never replaces a newer one.
//! - A host that is gone stays gone.
//! - A change that the table had already is [`RouteUpdate::Unchanged`]. If the stream brings a change that the table
//!   did not have, another node made it, so the pool acts on it where it concerns an instance of this node.
//! - A claim that was undone arrives as the instance's ready record, never as gone: the instance is claimed again, and
//!   the table would refuse the next claim of an instance that is gone.

mod follow;
mod idle_sockets;
mod route;
mod table;

pub use follow::{FollowEvent, follow};
pub use idle_sockets::{IDLE_TIMEOUT, IdleSockets};
pub use route::{Route, RoutePermit};
pub use table::{RouteLookup, RouteTable, RouteUpdate};
