//! The cluster: the nodes that share a store, where each is reached, and how one node forwards a request to another.
//!
//! A *peer* is another node of the same cluster. The folder is in reading order:
//!
//! | file | content |
//! |---|---|
//! | `membership.rs` | what this node knows of the cluster; draining, eviction of dead nodes, leaving |
//! | `local_node.rs` | what the cluster needs of this node's own pools, as a trait that `pool` implements |
//! | `heartbeat.rs` | the task that sends a heartbeat each second and evicts nodes that are silent for too long |
//! | `own_address.rs` | the address that this node advertises when its configuration names none |
//! | `directory.rs` | where each peer is reached, and the secret that signs hops |
//! | `hop_header.rs` | the header that one node signs for another, and what it proves |
//! | `peer_connection.rs`, `peer_tls.rs` | connections between nodes |
//! | `peer_client.rs` | requests that this node makes to a peer on behalf of an API client |
//! | `queue/` | work between nodes: a trait, in memory and on NATS |
//!
//! **Architecture invariant:** `pool` uses `cluster`, never the reverse. What concerns the pools of this node goes
//! through [`LocalNode`].
//!
//! **Architecture invariant:** a request is forwarded at most once. The node that forwards it signs that in
//! [`HOP_HEADER`]; every node removes that header, genuine or not, before anything else reads the request.
//!
//! How silence is measured, so that an outage of the store does not make nodes look dead, is defined by
//! [`MAX_HEARTBEAT_GAP`](crate::store::MAX_HEARTBEAT_GAP).

mod directory;
mod heartbeat;
mod hop_header;
mod local_node;
mod membership;
mod own_address;
mod peer_client;
mod peer_connection;
mod peer_tls;
pub mod queue;

pub use directory::{Directory, UnreachableNode};
pub use heartbeat::{HEARTBEAT_INTERVAL, Heartbeat};
pub use hop_header::HOP_HEADER;
pub use local_node::LocalNode;
pub use membership::{Membership, NodePool, NodeSummary};
pub use own_address::own_address;
pub use peer_client::{PeerClient, PeerError};
pub use peer_connection::{CONNECT_TIMEOUT, KEEPALIVE_INTERVAL, KEEPALIVE_PROBES, connect};
pub use peer_tls::{OwnCertificate, PeerTls};
