//! Pingora's phases, in the order in which a request passes through them.
//!
//! ```text
//! Pingora has parsed a head
//!   │
//! new_ctx                   counts the request as in flight
//!   │
//! request_filter            sets the client's timeouts, removes the hop header, finds destination, route and target
//!   ├─ API over HTTP/2 ───► api_bridge runs Api::handle, which writes the log line, and sends its response ─► end
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
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Method, StatusCode, Version, header};
use pingora_core::modules::http::HttpModules;
use pingora_core::protocols::Digest;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, Session};

use super::head_changes::rewrite_response;
use super::headers::{field_count, is_event_stream, rewrite_request};
use super::node_peer::NodeTlsConnector;
use super::request_permit::{RequestPermit, ResponsePermit, content_length};
use super::routes::Route;
use super::service::INSTANCE_PATH_PATTERN;
use super::silence::{SilenceWatch, is_stream};
use super::target::Target;
use super::{Proxy, api_bridge, app_peer, exchange_error, node_peer};
use crate::api::ApiError;
use crate::cluster::HOP_HEADER;
use crate::request::{Destination, InFlightGuard, Peer, RequestContext, RequestId};
use crate::telemetry::{HostKind, RequestRecord};

/// Maximum number of header fields of a request. The HTTP/1 guard counts them on HTTP/1, this file on HTTP/2.
const MAX_FIELDS: usize = 100;

/// The usual methods. An app decides about each method but CONNECT.
const INSTANCE_METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

/// What the phases of one request share.
#[derive(Debug)]
pub struct Phases {
    /// `None` until the head was read.
    context: Option<RequestContext<'static>>,
    host: HostKind,
    target: Option<(Arc<Route>, Target)>,
    permit: Option<RequestPermit>,
    response_permit: Option<ResponsePermit>,
    /// Ends the upstream connection if the upstream is silent; `None` outside of [`watched`](super::watched).
    watch: Option<Arc<SilenceWatch>>,
    /// Whether the end of the upstream's connection is the end of its answer.
    ends_with_connection: bool,
    /// Why this program refuses to send the app's response.
    refusal: Option<ApiError>,
    /// Whether [`Api::handle`](crate::api::Api::handle) counts the request, so that the phase `logging` must not.
    is_logged_by_api: bool,
    in_flight: InFlightGuard,
}

#[async_trait]
impl ProxyHttp for Proxy {
    type CTX = Phases;

    fn new_ctx(&self) -> Phases {
        Phases {
            context: None,
            host: HostKind::Unknown,
            target: None,
            permit: None,
            response_permit: None,
            watch: SilenceWatch::current(),
            ends_with_connection: false,
            refusal: None,
            is_logged_by_api: false,
            in_flight: self.0.in_flight.begin(),
        }
    }

    /// Adds no module: Pingora's default one would compress responses that an app sent uncompressed.
    fn init_downstream_modules(&self, _modules: &mut HttpModules) {}

    /// Returns `true` when the response has been sent, `false` when the request goes to an upstream.
    async fn request_filter(&self, session: &mut Session, ctx: &mut Phases) -> Result<bool> {
        session.set_read_timeout(Some(self.0.read_timeout));
        session.set_write_timeout(Some(self.0.write_timeout));
        let peer = peer_of(session);
        let head = session.req_header_mut();
        let destination =
            self.0.hosts.destination_of_head(head.version, &head.uri, &head.headers).into_owned();
        let context = self.context(destination, peer, &head.headers);
        let context = &*ctx.context.insert(context);
        head.remove_header(&HOP_HEADER);
        if head.version == Version::HTTP_10 {
            // Such a client must not get a 1xx, and its `Expect` is ignored (RFC 9110, sections 10.1.1 and 15.2).
            head.remove_header(&header::EXPECT);
            session.as_downstream_mut().set_ignore_info_resp(true);
        }
        let head = session.req_header();
        let error = match &context.destination {
            _ if field_count(&head.headers) > MAX_FIELDS => ApiError::HeadersTooLarge,
            _ if head.method == Method::CONNECT => ApiError::MethodNotAllowed(INSTANCE_METHODS),
            // Over HTTP/1 such a request goes to hyper. One that comes here is read in another way than by the guard.
            Destination::Api if !session.as_downstream().is_http2() => ApiError::Misdirected,
            Destination::Api => {
                ctx.is_logged_by_api = true;
                return self.answer_api(session, context).await.map(|()| true);
            }
            Destination::Instance(label) => {
                ctx.host = HostKind::Instance;
                match self.resolve_target(label, context).await {
                    Err(error) => error,
                    Ok(target) => match self.begin_request(&target.0, context) {
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
        let response = self.error_response(&error, session.req_header(), &context.id);
        api_bridge::send(session, response).await.map(|()| true)
    }

    async fn upstream_peer(&self, session: &mut Session, ctx: &mut Phases) -> Result<Box<HttpPeer>> {
        let (route, target) = ctx.target.as_ref().ok_or_else(|| Error::new(ErrorType::InternalError))?;
        let head = session.req_header();
        let read_timeout = match &ctx.watch {
            // It has the deadline.
            Some(_) => None,
            None => self.upstream_read_timeout(route, target, &head.headers),
        };
        Ok(Box::new(match target {
            Target::App => app_peer::peer(&self.0.instances, route, read_timeout, self.0.write_timeout),
            Target::Node { address, .. } => {
                let tls =
                    self.0.peer_tls.clone().map(|tls| NodeTlsConnector::new(tls, head, ctx.watch.clone()));
                node_peer::peer(*address, tls, route, read_timeout, self.0.write_timeout)
            }
        }))
    }

    async fn connected_to_upstream(
        &self,
        session: &mut Session,
        _reused: bool,
        _peer: &HttpPeer,
        descriptor: RawFd,
        _digest: Option<&Digest>,
        ctx: &mut Phases,
    ) -> Result<()> {
        if let (Some(watch), Some((route, target))) = (&ctx.watch, &ctx.target) {
            let headers = &session.req_header().headers;
            watch.begin(descriptor, self.upstream_read_timeout(route, target, headers));
        }
        Ok(())
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        upstream: &mut RequestHeader,
        ctx: &mut Phases,
    ) -> Result<()> {
        let (Some((route, target)), Some(context)) = (&ctx.target, &ctx.context) else {
            return Ok(());
        };
        let forwarded =
            self.forwarded_headers(session.req_header(), context).for_target(route, target, &self.0.clock);
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
        ctx: &mut Phases,
    ) -> Result<()> {
        if let Some(watch) = &ctx.watch {
            watch.restart();
        }
        if end_of_stream && body.as_ref().is_some_and(Bytes::is_empty) {
            *body = None;
        }
        Ok(())
    }

    async fn upstream_response_filter(
        &self,
        _session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Phases,
    ) -> Result<()> {
        if response.status == StatusCode::SWITCHING_PROTOCOLS {
            // No upgrade was forwarded. Pingora would send it to a client of HTTP/1.0.
            return Err(Error::explain(ErrorType::InvalidHTTPHeader, "the app switches protocols").into_up());
        }
        // Pingora frames such an answer anew before the next phase.
        let framing = [header::CONTENT_LENGTH, header::TRANSFER_ENCODING];
        ctx.ends_with_connection = !framing.iter().any(|name| response.headers.contains_key(name));
        Ok(())
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Phases,
    ) -> Result<()> {
        let is_stream = is_stream(&response.headers);
        if let Some(watch) = &ctx.watch {
            if is_stream || !may_have_body(session, response) {
                watch.end();
            } else {
                watch.restart();
            }
        }
        let client = ctx.permit.as_ref().and_then(|permit| permit.client);
        match self.0.limits.begin_response(
            client,
            content_length(&response.headers),
            is_event_stream(&response.headers),
        ) {
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
        if let Some(context) = &ctx.context {
            response.insert_header(RequestId::HEADER, context.id.to_header_value())?;
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

    /// Notices the silence of the upstream where it would look like the end of an answer without a length.
    fn response_body_filter(
        &self,
        _session: &mut Session,
        _body: &mut Option<Bytes>,
        end_of_stream: bool,
        ctx: &mut Phases,
    ) -> Result<Option<Duration>> {
        let Some(watch) = &ctx.watch else { return Ok(None) };
        if !end_of_stream {
            watch.restart();
        } else if watch.is_expired() && ctx.ends_with_connection {
            return Err(Error::new_up(ErrorType::ReadTimedout));
        } else {
            watch.end();
        }
        Ok(None)
    }

    /// Decides whether the request may be sent again on another connection. It may where Pingora would send it again,
    /// unless the upstream got it and was silent.
    fn error_while_proxy(
        &self,
        _peer: &HttpPeer,
        session: &mut Session,
        mut error: Box<Error>,
        ctx: &mut Phases,
        is_reused: bool,
    ) -> Box<Error> {
        if let Some(watch) = &ctx.watch {
            watch.end();
        }
        let is_sent_once = !session.req_header().method.is_idempotent()
            || session.as_ref().retry_buffer_truncated()
            || ctx.is_upstream_silent();
        if is_sent_once {
            error.set_retry(false);
        } else {
            error.retry.decide_reuse(is_reused);
        }
        error
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, ctx: &mut Phases) -> FailToProxy {
        if exchange_error::is_client_gone(error) {
            return FailToProxy { error_code: 0, can_reuse_downstream: false };
        }
        let is_local = ctx.target.as_ref().is_none_or(|(_, target)| matches!(target, Target::App));
        let refusal = ctx.refusal.take().or_else(|| ctx.is_upstream_silent().then_some(ApiError::AppTimeout));
        let api_error = refusal.unwrap_or_else(|| exchange_error::api_error(error, is_local));
        if session.response_written().is_none() {
            // Pingora closes the connection after an error, so the response must say so.
            session.set_keepalive(None);
            let request_id = ctx.context.as_ref().map(|context| context.id.clone());
            let request_id = request_id.unwrap_or_else(|| RequestId::of(&session.req_header().headers));
            let response = self.error_response(&api_error, session.req_header(), &request_id);
            // A failure is ignored: the client is gone.
            let _ = api_bridge::send(session, response).await;
        }
        FailToProxy { error_code: api_error.status().as_u16(), can_reuse_downstream: false }
    }

    async fn logging(&self, session: &mut Session, _error: Option<&Error>, ctx: &mut Phases) {
        let Some(context) = ctx.context.as_ref().filter(|_| !ctx.is_logged_by_api) else { return };
        self.0.metrics.record_request(RequestRecord {
            id: context.id.as_str(),
            host: ctx.host,
            method: &session.req_header().method,
            path: INSTANCE_PATH_PATTERN,
            status: session.response_written().map_or(0, |head| head.status.as_u16()),
            took: context.start.elapsed(),
        });
    }
}

impl Phases {
    fn is_upstream_silent(&self) -> bool {
        self.watch.as_ref().is_some_and(|watch| watch.is_expired())
    }
}

/// Whether a body can follow the head of a response, whose end is then seen.
fn may_have_body(session: &Session, response: &ResponseHeader) -> bool {
    let is_empty =
        response.headers.get(header::CONTENT_LENGTH).is_some_and(|length| length.as_bytes() == b"0");
    response.status.is_informational()
        || session.req_header().method != Method::HEAD
            && ![StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED].contains(&response.status)
            && !is_empty
}

/// Returns the end of the client's connection.
fn peer_of(session: &Session) -> Peer {
    let address = session
        .client_addr()
        .and_then(|address| address.as_inet())
        .map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |address| address.ip());
    let is_secure = session.digest().is_some_and(|digest| digest.ssl_digest.is_some());
    Peer { address, is_secure }
}
