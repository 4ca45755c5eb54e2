//! Pingora's phases, in the order in which a request passes through them.
//!
//! ```text
//! Pingora has parsed a head
//!   │
//! new_ctx                   counts the request as in flight
//!   │
//! request_filter            sets the client's timeouts, removes the hop header, finds destination, route and target
//!   ├─ API ───────────────► api_bridge runs Api::handle, which writes the log line, and sends its response ─► end
//!   ├─ refused, no route ─► error_page; its response is sent ─► logging ─► end
//!   │
//! upstream_peer             chooses the connection: app_peer to an app, node_peer to another node
//!   ├─ a kept connection turns out to be closed ─► Pingora calls upstream_peer again
//!   │
//! upstream_request_filter   headers: the head that the upstream gets
//!   │
//! request_body_filter       for each chunk of the request's body; it runs beside the phases below
//!   │
//! response_filter           headers: the head that the visitor gets; the body follows
//!   │
//!   ├─ an error in a phase above, or on a connection ─► fail_to_proxy: sends error_page's response if no head was sent
//!   │
//! logging                   counts the request in the metrics and writes its log line
//! ```
//!
//! All other phases keep Pingora's defaults. A WebSocket handshake never comes here, see `websocket.rs`.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Version, header};
use pingora_core::modules::http::HttpModules;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, ErrorSource, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, Session};
use tokio::time::Instant;

use super::headers::{RequestSource, field_count, is_event_stream, rewrite_request, rewrite_response};
use super::node_peer::NodeTlsConnector;
use super::request_permit::{RequestPermit, ResponsePermit};
use super::routes::Route;
use super::service::INSTANCE_PATH_PATTERN;
use super::target::Target;
use super::{Proxy, api_bridge, app_peer, node_peer};
use crate::api::ApiError;
use crate::cluster::{HOP_HEADER, Provenance};
use crate::request::{Destination, InFlightGuard, RequestId};
use crate::telemetry::{HostKind, RequestRecord};

/// Maximum number of header fields of a request. The HTTP/1 guard counts them on HTTP/1, this file on HTTP/2.
const MAX_FIELDS: usize = 100;

/// What the phases of one request share.
#[derive(Debug)]
pub struct RequestContext {
    start: Instant,
    request_id: Option<RequestId>,
    host: HostKind,
    provenance: Provenance,
    target: Option<(Arc<Route>, Target)>,
    permit: Option<RequestPermit>,
    response_permit: Option<ResponsePermit>,
    /// Why this program refuses to send the app's response.
    refusal: Option<ApiError>,
    /// Whether [`Api::handle`](crate::api::Api::handle) counts the request, so that the phase `logging` must not.
    is_logged_by_api: bool,
    in_flight: InFlightGuard,
}

#[async_trait]
impl ProxyHttp for Proxy {
    type CTX = RequestContext;

    fn new_ctx(&self) -> RequestContext {
        RequestContext {
            start: Instant::now(),
            request_id: None,
            host: HostKind::Unknown,
            provenance: Provenance::FromOutside,
            target: None,
            permit: None,
            response_permit: None,
            refusal: None,
            is_logged_by_api: false,
            in_flight: self.0.in_flight.begin(),
        }
    }

    /// Adds no module: Pingora's default one would compress responses that an app sent uncompressed.
    fn init_downstream_modules(&self, _modules: &mut HttpModules) {}

    /// Returns `true` when the response has been sent, `false` when the request goes to an upstream.
    async fn request_filter(&self, session: &mut Session, ctx: &mut RequestContext) -> Result<bool> {
        session.set_read_timeout(Some(self.0.read_timeout));
        session.set_write_timeout(Some(self.0.write_timeout));
        let head = session.req_header_mut();
        ctx.provenance = self.provenance(&head.uri, &head.headers);
        if ctx.provenance != Provenance::FromOutside {
            head.remove_header(&HOP_HEADER);
        }
        let head = session.req_header();
        let request_id = RequestId::of(&head.headers);
        ctx.request_id = Some(request_id.clone());
        let error = match self.0.hosts.destination(&head.uri, &head.headers) {
            _ if field_count(&head.headers) > MAX_FIELDS => ApiError::HeadersTooLarge,
            Destination::Api => {
                ctx.is_logged_by_api = true;
                let source = request_source(session, &ctx.provenance);
                return self.answer_api(session, source).await.map(|()| true);
            }
            Destination::Instance(label) => {
                ctx.host = HostKind::Instance;
                let source = request_source(session, &ctx.provenance);
                match self.resolve_target(&label, &head.headers, source).await {
                    Err(error) => error,
                    Ok(target) => match self.begin_request(&target.0, &head.headers, source) {
                        Err(error) => error,
                        Ok(permit) => {
                            (ctx.target, ctx.permit) = (Some(target), Some(permit));
                            return Ok(false);
                        }
                    },
                }
            }
            Destination::Unknown => ApiError::Misdirected,
            Destination::Invalid => ApiError::MalformedHead,
        };
        let response = self.error_response(&error, session.req_header(), &request_id);
        api_bridge::send(session, response).await.map(|()| true)
    }

    async fn upstream_peer(&self, session: &mut Session, ctx: &mut RequestContext) -> Result<Box<HttpPeer>> {
        let (route, target) = ctx.target.as_ref().ok_or_else(|| Error::new(ErrorType::InternalError))?;
        let head = session.req_header();
        let read_timeout = self.upstream_read_timeout(route, target, &head.headers);
        Ok(Box::new(match target {
            Target::App => app_peer::peer(&self.0.pool, route, read_timeout, self.0.write_timeout),
            Target::Node { address, .. } => {
                let tls = self.0.peer_tls.clone().map(|tls| NodeTlsConnector::new(tls, head));
                node_peer::peer(*address, tls, route, read_timeout, self.0.write_timeout)
            }
        }))
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        upstream: &mut RequestHeader,
        ctx: &mut RequestContext,
    ) -> Result<()> {
        let (Some((route, target)), Some(request_id)) = (&ctx.target, &ctx.request_id) else {
            return Ok(());
        };
        let source = request_source(session, &ctx.provenance);
        let forwarded =
            self.forwarded_headers(session.req_header(), source, request_id).for_target(route, target);
        rewrite_request(upstream, &forwarded)?;
        if let Some(path_and_query) = upstream.uri.path_and_query().cloned() {
            // The upstream gets the origin form of the request target, whatever form the client sent.
            upstream.set_uri(path_and_query.into());
        }
        Ok(())
    }

    /// Works around Pingora's issue 935: if the last chunk of an HTTP/2 upload is empty, Pingora would end the chunked
    /// body to the upstream twice, and the app would read the second end as the next request on that connection.
    async fn request_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        _ctx: &mut RequestContext,
    ) -> Result<()> {
        if end_of_stream && body.as_ref().is_some_and(Bytes::is_empty) {
            *body = None;
        }
        Ok(())
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut RequestContext,
    ) -> Result<()> {
        let is_stream = is_event_stream(&response.headers);
        let client = ctx.permit.as_ref().and_then(|permit| permit.client);
        match self.0.limits.begin_response(client, &response.headers, is_stream) {
            Ok(permit) => ctx.response_permit = Some(permit),
            Err(refusal) => {
                ctx.refusal = Some(refusal);
                return Err(Error::new(ErrorType::InternalError));
            }
        }
        let links = ctx
            .target
            .as_ref()
            .map_or_else(Vec::new, |(route, target)| self.replaced_links(&response.headers, route, target));
        rewrite_response(response, links)?;
        if is_stream {
            ctx.in_flight.mark_as_stream();
        }
        if let Some(request_id) = &ctx.request_id {
            response.insert_header(RequestId::HEADER, request_id.to_header_value())?;
        }
        let is_http_10 = session.req_header().version == Version::HTTP_10;
        if is_http_10 && response.remove_header(&header::TRANSFER_ENCODING).is_some() {
            // An HTTP/1.0 client cannot read chunks: the end of the connection is the end of the body.
            session.set_keepalive(None);
        }
        if session.is_process_shutting_down() {
            session.set_keepalive(None);
        }
        Ok(())
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &Error,
        ctx: &mut RequestContext,
    ) -> FailToProxy {
        use ErrorType::{ConnectTimedout, ReadTimedout, WriteTimedout};
        let is_local = ctx.target.as_ref().is_none_or(|(_, target)| matches!(target, Target::App));
        let refusal = ctx.refusal.take();
        let api_error = refusal.unwrap_or_else(|| match (error.esource(), error.etype()) {
            // A node that accepts no connection is gone, as an app that refuses one is.
            (ErrorSource::Upstream, ConnectTimedout) if !is_local => ApiError::AppUnreachable,
            (ErrorSource::Upstream, ConnectTimedout | ReadTimedout | WriteTimedout) => ApiError::AppTimeout,
            (ErrorSource::Upstream, _) => ApiError::AppUnreachable,
            (ErrorSource::Downstream, ReadTimedout) => ApiError::Timeout,
            (ErrorSource::Downstream, _) => ApiError::MalformedHead,
            _ => ApiError::Internal("PROXY_ERROR"),
        });
        if session.response_written().is_none() {
            // Pingora closes the connection after an error, so the response must say so.
            session.set_keepalive(None);
            let request_id =
                ctx.request_id.clone().unwrap_or_else(|| RequestId::of(&session.req_header().headers));
            let response = self.error_response(&api_error, session.req_header(), &request_id);
            // A failure is ignored: the client is gone.
            let _ = api_bridge::send(session, response).await;
        }
        FailToProxy { error_code: api_error.status().as_u16(), can_reuse_downstream: false }
    }

    async fn logging(&self, session: &mut Session, _error: Option<&Error>, ctx: &mut RequestContext) {
        let Some(request_id) = ctx.request_id.as_ref().filter(|_| !ctx.is_logged_by_api) else { return };
        self.0.metrics.record_request(RequestRecord {
            id: request_id.as_str(),
            host: ctx.host,
            method: &session.req_header().method,
            path: INSTANCE_PATH_PATTERN,
            status: session.response_written().map_or(0, |head| head.status.as_u16()),
            took: ctx.start.elapsed(),
        });
    }
}

/// Returns the source of a request: its connection, and its provenance.
fn request_source<'a>(session: &Session, provenance: &'a Provenance) -> RequestSource<'a> {
    let peer = session
        .client_addr()
        .and_then(|address| address.as_inet())
        .map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |address| address.ip());
    let is_secure = session.digest().is_some_and(|digest| digest.ssl_digest.is_some());
    RequestSource { peer, is_secure, provenance }
}
