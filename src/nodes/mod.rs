//! The servers that share a store: who they are, where each is reached, and how one passes a request on to another.
//!
//! A request is passed on once at most. Whoever passes it on signs that in a field of its own ([`hop`]), which is taken
//! off before anything else sees the request, whether it is genuine or not.

mod address;
mod ask;
mod beat;
mod connect;
mod directory;
mod hop;
mod secure;

pub use address::reached_at;
pub use ask::{Asker, Untold};
pub use beat::{BEAT, Beats};
pub use connect::{CONNECT_TIMEOUT, KEEPALIVE, KNOCKS, connect};
pub use directory::{Directory, Unreachable};
pub use hop::{Arrival, HOP};
pub use secure::{OwnCertificate, Secure};
