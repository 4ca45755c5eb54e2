//! What is known of a request before anything answers it.

use std::net::IpAddr;

use http::HeaderMap;
use tokio::time::Instant;

use super::{ClientAddr, Destination, RequestId};
use crate::config::TrustedProxies;
use crate::instance::NodeId;

/// How a request came to this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Provenance {
    /// From a visitor, or from one of the operator's own proxies: it has no hop header.
    FromOutside,
    /// From this peer, which has checked what the request says of its visitor.
    FromNode(NodeId),
    /// With a hop header that no peer signed for this node: it is forged, or too old, or signed with another secret.
    /// Nothing that the request says of its visitor is trusted.
    Unverified,
}

impl Provenance {
    /// Returns whether a peer forwarded the request, so that what it says of its visitor is trusted.
    pub fn is_trusted(&self) -> bool {
        matches!(self, Provenance::FromNode(_))
    }

    /// Returns whether the request may be forwarded to a peer. A request with a hop header never may: two nodes that
    /// each take the other for the owner would send it back and forth.
    pub fn may_be_forwarded(&self) -> bool {
        matches!(self, Provenance::FromOutside)
    }
}

/// The end of a client's connection from which requests come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// The address at the other end of the connection, which may be a proxy's. It is unspecified (0.0.0.0) if the
    /// connection has none.
    pub address: IpAddr,
    /// Whether the connection is encrypted.
    pub is_secure: bool,
}

/// What is known of a request from its connection and its head. It is made once for each request; the API, the proxy and
/// WebSockets get it.
#[derive(Debug, Clone)]
pub struct RequestContext<'a> {
    /// When the head was read.
    pub start: Instant,
    /// The id: the client's if it is valid.
    pub id: RequestId,
    /// What answers the request.
    pub destination: Destination<'a>,
    /// Whether a visitor or another node sent it.
    pub provenance: Provenance,
    /// The end of the connection.
    pub peer: Peer,
    /// The client behind trusted proxies.
    pub client: ClientAddr,
}

impl<'a> RequestContext<'a> {
    /// Works out the id and the client of a request that is read now.
    pub fn new(
        destination: Destination<'a>,
        provenance: Provenance,
        peer: Peer,
        headers: &HeaderMap,
        trusted: &TrustedProxies,
    ) -> Self {
        let client = ClientAddr::of(peer.address, peer.is_secure, headers, trusted);
        Self { start: Instant::now(), id: RequestId::of(headers), destination, provenance, peer, client }
    }
}
