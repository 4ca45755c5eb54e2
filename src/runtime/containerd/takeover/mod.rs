//! What servers left behind. A server that starts takes over its node ([`take_over`]); the command `clean` removes
//! everything of some nodes, or of all ([`clean()`]).
//!
//! Both find things in containerd by the labels in `client/labels.rs` and by the names of containers and snapshots. A
//! new kind of thing needs a place in both.

mod adopt;
mod clean;

pub(super) use adopt::take_over;
pub use clean::{Cleaned, clean};
