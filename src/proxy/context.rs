//! What the proxy knows of a request from its connection and its head, before it looks for an instance.

use http::HeaderMap;

use super::Proxy;
use crate::cluster::HOP_HEADER;
use crate::request::{Destination, Peer, Provenance, RequestContext};

impl Proxy {
    /// Returns what is known of a request with these headers. The caller must then remove [`HOP_HEADER`] from it, whether
    /// it is genuine or not.
    pub fn context<'a>(
        &self,
        destination: Destination<'a>,
        peer: Peer,
        headers: &HeaderMap,
    ) -> RequestContext<'a> {
        let provenance = self.provenance(&destination, headers);
        RequestContext::new(destination, provenance, peer, headers, &self.0.trusted_proxies)
    }

    fn provenance(&self, destination: &Destination<'_>, headers: &HeaderMap) -> Provenance {
        if !headers.contains_key(HOP_HEADER) {
            return Provenance::FromOutside;
        }
        let label = if let Destination::Instance(label) = destination { label } else { "" };
        let provenance = self.0.directory.provenance(headers, label, self.0.clock.now());
        if provenance == Provenance::Unverified {
            // At debug level only, because any client can send such a header. It is forged, or the clocks or the
            // secrets of two nodes differ.
            tracing::debug!("hop header not verified");
        }
        provenance
    }
}
