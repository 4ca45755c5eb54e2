//! From a live route to the target of its traffic: the app itself, or the node that runs it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, header};

use super::Proxy;
use super::routes::Route;
use crate::api::ApiError;
use crate::request::RequestContext;

/// How much longer than the app another node may be silent: it reports the app's timeout before its own is over.
const NODE_SILENCE_MARGIN: Duration = Duration::from_secs(5);

/// Where the traffic of a route goes.
#[derive(Debug)]
pub(super) enum Target {
    /// To the app, which this node runs.
    App,
    /// To the node that runs the app.
    Node {
        /// The node's address.
        address: SocketAddr,
        /// The value of [`HOP_HEADER`](crate::cluster::HOP_HEADER), which proves to that node who forwarded the
        /// request.
        hop: HeaderValue,
    },
}

impl Proxy {
    /// Returns the live route of a host's label, and its target for a request.
    ///
    /// # Errors
    /// Those of [`Proxy::resolve_route`]; [`ApiError::AppUnreachable`] when the node that runs the app is not known,
    /// or when the request was forwarded already.
    pub(super) async fn resolve_target(
        &self,
        label: &str,
        context: &RequestContext<'_>,
    ) -> Result<(Arc<Route>, Target), ApiError> {
        let route = self.resolve_route(label, context).await?;
        let (directory, provenance) = (&self.0.directory, &context.provenance);
        if route.node() == directory.own_id() {
            return Ok((route, Target::App));
        }
        if !provenance.may_be_forwarded() {
            tracing::warn!(node = %route.node(), ?provenance, "forwarded request arrived at the wrong node");
            return Err(ApiError::AppUnreachable);
        }
        match directory.hop_to(route.node(), label, self.0.clock.now()).await {
            Ok((address, hop)) => {
                self.0.metrics.record_forwarded_request();
                Ok((route, Target::Node { address, hop }))
            }
            Err(error) => {
                tracing::warn!(%error, "failed to forward request");
                Err(ApiError::AppUnreachable)
            }
        }
    }

    /// Returns how long the target may be silent until its answer begins; `None` without a limit, for a client that
    /// accepts an event stream, and for an instance whose template is unknown. Then the type of the answer counts too,
    /// see `silence.rs`.
    pub(super) fn upstream_read_timeout(
        &self,
        route: &Route,
        target: &Target,
        headers: &HeaderMap,
    ) -> Option<Duration> {
        // An event stream may be silent for as long as nothing happens.
        if accepts_event_stream(headers) {
            return None;
        }
        let silence = self.0.instances.template_of(route.id()).map(|template| template.silence)?;
        Some(match target {
            Target::App => silence,
            Target::Node { .. } => silence + NODE_SILENCE_MARGIN,
        })
    }
}

/// Returns whether a client accepts an event stream.
fn accepts_event_stream(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::ACCEPT)
        .iter()
        .any(|value| value.to_str().is_ok_and(|value| value.contains("text/event-stream")))
}
