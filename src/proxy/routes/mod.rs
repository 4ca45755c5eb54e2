//! Which host leads where: a table in memory that the proxy reads without a lock and never waits for.
//!
//! The pool writes what it did itself at once; [`follow`] brings everything else from the store's ordered stream.
//! Both may tell the same change, in any order: an older generation never replaces a newer one, and a host that
//! is gone stays gone.

mod follow;
mod table;

pub use follow::{FollowEvent, follow};
pub use table::{Applied, Found, Route, RouteTable};
