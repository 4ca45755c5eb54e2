//! How a request came to this node: from a visitor, or forwarded by another node that signed the hop header.

use http::request::Parts;
use http::{HeaderMap, Uri};

use super::Proxy;
use crate::cluster::{HOP_HEADER, Provenance};
use crate::request::Destination;

impl Proxy {
    /// Returns how a request came to this node. The caller must then remove [`HOP_HEADER`] from the request, whether
    /// it is genuine or not.
    pub(super) fn provenance(&self, uri: &Uri, headers: &HeaderMap) -> Provenance {
        if !headers.contains_key(HOP_HEADER) {
            return Provenance::FromOutside;
        }
        let destination = self.0.hosts.destination(uri, headers);
        let label = if let Destination::Instance(label) = &destination { label } else { "" };
        let provenance = self.0.directory.provenance(headers, label, self.0.pool.clock().now());
        if provenance == Provenance::Unverified {
            // At debug level only, because any client can send such a header. It is forged, or the clocks or the
            // secrets of two nodes differ.
            tracing::debug!("hop header not verified");
        }
        provenance
    }

    /// Removes the hop header from a request for the API, and puts the [`Provenance`] that it proved into the request's
    /// extensions, where the API reads it. A request from outside gets none.
    pub fn verify_hop_header(&self, head: &mut Parts) {
        let provenance = self.provenance(&head.uri, &head.headers);
        head.headers.remove(HOP_HEADER);
        set_provenance(head, &provenance);
    }
}

/// Stores how a request came to this node in its extensions, where the API reads it. A request from outside gets none.
pub(super) fn set_provenance(head: &mut Parts, provenance: &Provenance) {
    if *provenance != Provenance::FromOutside {
        head.extensions.insert(provenance.clone());
    }
}
