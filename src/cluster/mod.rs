//! The servers that share a store: who they are, where each is reached, and how one passes a request on to another.
//!
//! A request is passed on once at most. Whoever passes it on signs that in a field of its own ([`hop`]), which is taken
//! off before anything else sees the request, whether it is genuine or not.

mod directory;
mod heartbeat;
mod hop_header;
mod own_address;
mod peer_client;
mod peer_connection;
mod peer_tls;

pub use directory::{Directory, Unreachable};
pub use heartbeat::{HEARTBEAT_INTERVAL, Heartbeat};
pub use hop_header::{HOP, Provenance};
pub use own_address::reached_at;
pub use peer_client::{PeerClient, PeerError};
pub use peer_connection::{CONNECT_TIMEOUT, KEEPALIVE, KEEPALIVE_PROBES, connect};
pub use peer_tls::{OwnCertificate, PeerTls};
