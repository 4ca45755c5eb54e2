//! From a live route to where its traffic goes: to the app itself, or to the server that runs it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Uri};

use super::routes::Route;
use super::{Proxy, api_bridge};
use crate::api::ApiError;
use crate::cluster::{HOP, Provenance};
use crate::request::Destination;

/// How much longer than the app another server may be silent.
pub(super) const MARGIN: Duration = Duration::from_secs(5);

/// Where the traffic of a route goes.
#[derive(Debug)]
pub(super) enum Target {
    /// To the app, which this server runs.
    Here,
    /// To the server that runs the app.
    Node {
        /// Where that is.
        address: SocketAddr,
        /// What makes it believe us: the value of [`HOP`].
        hop: HeaderValue,
    },
}

impl Proxy {
    /// How a request came to this server. Whoever parsed it takes [`HOP`] off it then, whatever it is worth.
    pub(super) fn arrival(&self, uri: &Uri, headers: &HeaderMap) -> Provenance {
        if !headers.contains_key(HOP) {
            return Provenance::FromOutside;
        }
        let side = self.0.hosts.side(uri, headers);
        let label = if let Destination::Instance(label) = &side { label } else { "" };
        let arrival = self.0.directory.arrival(headers, label, self.0.pool.clock().now());
        if arrival == Provenance::Unproved {
            // Not louder, for anybody can write such a field.
            tracing::debug!("a hop is not proved: forged, or clocks or secrets of the servers differ");
        }
        arrival
    }

    /// Takes the field off a request for the API, which is told how the request came here.
    pub fn judge_api(&self, parts: &mut http::request::Parts) {
        let arrival = self.arrival(&parts.uri, &parts.headers);
        parts.headers.remove(HOP);
        api_bridge::tell(parts, &arrival);
    }

    /// The live route of a label and the way to it, for a request that came here as it did.
    pub(super) async fn target(
        &self,
        label: &str,
        arrival: &Provenance,
    ) -> Result<(Arc<Route>, Target), ApiError> {
        let route = self.find(label).await?;
        let directory = &self.0.directory;
        if route.node() == directory.own() {
            return Ok((route, Target::Here));
        }
        if !arrival.may_be_passed_on() {
            tracing::warn!(node = %route.node(), ?arrival, "a request was passed on to the wrong server");
            return Err(ApiError::Unreachable);
        }
        match directory.way_to(route.node(), label, self.0.pool.clock().now()).await {
            Ok((address, hop)) => {
                self.0.metrics.passed_on();
                Ok((route, Target::Node { address, hop }))
            }
            Err(error) => {
                tracing::warn!(%error, "a request cannot be passed on");
                Err(ApiError::Unreachable)
            }
        }
    }
}
