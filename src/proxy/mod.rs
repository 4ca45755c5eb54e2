//! An instance's traffic: Pingora's phases in the order in which a request passes through them.
//!
//! `early` nothing; `request_filter` finds the route and the way to it, or answers by itself; `upstream_peer` names the connection;
//! `upstream_request_filter` writes the head that the app sees; `request_body_filter` mends an empty last piece;
//! `response_filter` cleans the head that the visitor sees; `fail_to_proxy` answers when the app did not;
//! `logging` counts. WebSockets do not pass here: see [`Proxy::tunnel`].

mod api_bridge;
mod app_peer;
mod error_page;
mod headers;
mod node_peer;
mod resolve_route;
/// Which host leads where: the table that the proxy reads without a lock.
pub mod routes;
mod target;
mod websocket;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Version, header};
use pingora_core::modules::http::HttpModules;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, ErrorSource, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, Session};
use tokio::time::Instant;

pub use websocket::TunnelBody;

use crate::api::{Api, ApiError};
use crate::cluster::{Directory, HOP, PeerTls, Provenance};
use crate::config::TrustedProxies;
use crate::pool::Pool;
use crate::request::{Destination, Hosts, InFlightGuard, InFlightRequests, RequestId};
use crate::telemetry::{HostKind, Metrics, RequestLine};
use headers::Sender;
use routes::{Route, RouteTable};
use target::Target;

/// Most header fields of a request. The guard counts them on HTTP/1; on HTTP/2 we do.
const MAX_FIELDS: usize = 100;

/// What the proxy stands on.
pub struct ProxyParts {
    /// Whose host a request names.
    pub hosts: Arc<Hosts>,
    /// Answers requests for the API that come on a connection that Pingora holds.
    pub api: Arc<Api>,
    /// The way to each instance.
    pub routes: Arc<RouteTable>,
    /// Asked for hosts that the table does not know.
    pub pool: Arc<Pool>,
    /// The way to the servers that run other instances than ours.
    pub directory: Arc<Directory>,
    /// With TLS on the port of the servers, what speaks it to them.
    pub secure: Option<PeerTls>,
    /// Where numbers go.
    pub metrics: Arc<Metrics>,
    /// Whose forwarded headers are believed.
    pub trusted: TrustedProxies,
    /// How long a client may be silent in the middle of its request.
    pub read_timeout: Duration,
    /// How long a client may leave an answer unread.
    pub write_timeout: Duration,
    /// What a stop has to wait for.
    pub under_way: InFlightRequests,
}

/// The proxy; all clones are one.
#[derive(Clone)]
pub struct Proxy(Arc<ProxyParts>);

/// What is known of one request on its way.
#[derive(Debug)]
pub struct Context {
    start: Instant,
    id: Option<RequestId>,
    host: HostKind,
    arrival: Provenance,
    target: Option<(Arc<Route>, Target)>,
    /// The API counts its requests itself.
    counted: bool,
    passage: InFlightGuard,
}

impl Proxy {
    /// A proxy over its parts.
    pub fn new(parts: ProxyParts) -> Self {
        Self(Arc::new(parts))
    }

    /// Whose host a request names.
    pub fn hosts(&self) -> &Hosts {
        &self.0.hosts
    }

    /// What a stop has to wait for.
    pub fn under_way(&self) -> &InFlightRequests {
        &self.0.under_way
    }
}

#[async_trait]
impl ProxyHttp for Proxy {
    type CTX = Context;

    fn new_ctx(&self) -> Context {
        Context {
            start: Instant::now(),
            id: None,
            host: HostKind::Unknown,
            arrival: Provenance::FromOutside,
            target: None,
            counted: false,
            passage: self.0.under_way.begin(),
        }
    }

    /// None: the default one would compress answers that an app sent plain.
    fn init_downstream_modules(&self, _modules: &mut HttpModules) {}

    async fn request_filter(&self, session: &mut Session, ctx: &mut Context) -> Result<bool> {
        session.set_read_timeout(Some(self.0.read_timeout));
        session.set_write_timeout(Some(self.0.write_timeout));
        let head = session.req_header_mut();
        ctx.arrival = self.arrival(&head.uri, &head.headers);
        if ctx.arrival != Provenance::FromOutside {
            head.remove_header(&HOP);
        }
        let head = session.req_header();
        let id = RequestId::of(&head.headers);
        ctx.id = Some(id.clone());
        let refusal = match self.0.hosts.side(&head.uri, &head.headers) {
            _ if head.headers.len() > MAX_FIELDS => ApiError::HeadersTooLarge,
            Destination::Api => {
                ctx.counted = true;
                return self.answer_api(session, &ctx.arrival).await.map(|()| true);
            }
            Destination::Instance(label) => {
                ctx.host = HostKind::Instance;
                match self.target(&label, &ctx.arrival).await {
                    Ok(target) => {
                        ctx.target = Some(target);
                        return Ok(false);
                    }
                    Err(error) => error,
                }
            }
            Destination::Unknown => ApiError::Misdirected,
            Destination::Bad => ApiError::MalformedHead,
        };
        let answer = self.failure(&refusal, session.req_header(), &id);
        api_bridge::send(session, answer).await.map(|()| true)
    }

    async fn upstream_peer(&self, session: &mut Session, ctx: &mut Context) -> Result<Box<HttpPeer>> {
        let (route, way) = ctx.target.as_ref().ok_or_else(|| Error::new(ErrorType::InternalError))?;
        let silence = self.silence(route, way, &session.req_header().headers);
        Ok(Box::new(match way {
            Target::Here => app_peer::peer(&self.0.pool, route, silence, self.0.write_timeout),
            Target::Node { address, .. } => {
                let door = self
                    .0
                    .secure
                    .clone()
                    .map(|secure| node_peer::TlsConnector::new(secure, session.req_header()));
                node_peer::peer(*address, door, route, silence, self.0.write_timeout)
            }
        }))
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        upstream: &mut RequestHeader,
        ctx: &mut Context,
    ) -> Result<()> {
        let (Some((route, way)), Some(id)) = (&ctx.target, &ctx.id) else { return Ok(()) };
        let (peer, secure) = client_of(session);
        let sender = Sender { peer, secure, arrival: &ctx.arrival };
        let lines = self.forwarded(session.req_header(), sender, id).to(route, way);
        headers::rewrite_request(upstream, &lines)?;
        if let Some(target) = upstream.uri.path_and_query().cloned() {
            // The app gets the short form of the target, whatever form the visitor sent.
            upstream.set_uri(target.into());
        }
        Ok(())
    }

    /// Cures Pingora's issue 935: an upload over HTTP/2 whose last piece is empty would end its chunked body
    /// twice, and the second end would be read as the next request on that connection.
    async fn request_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        _ctx: &mut Context,
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
        ctx: &mut Context,
    ) -> Result<()> {
        headers::clean_response(response)?;
        if is_event_stream(&response.headers) {
            ctx.passage.becomes_stream();
        }
        if let Some(id) = &ctx.id {
            response.insert_header(RequestId::HEADER, id.value())?;
        }
        let is_old = session.req_header().version == Version::HTTP_10;
        if is_old && response.remove_header(&header::TRANSFER_ENCODING).is_some() {
            // Its client knows no chunks: the end of the connection is the end of the body.
            session.set_keepalive(None);
        }
        if session.is_process_shutting_down() {
            session.set_keepalive(None);
        }
        Ok(())
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, ctx: &mut Context) -> FailToProxy {
        use ErrorType::{ConnectTimedout, ReadTimedout, WriteTimedout};
        let is_here = ctx.target.as_ref().is_none_or(|(_, way)| matches!(way, Target::Here));
        let failure = match (error.esource(), error.etype()) {
            // To a server that cannot be reached there is no connection, as to an app that has ended.
            (ErrorSource::Upstream, ConnectTimedout) if !is_here => ApiError::Unreachable,
            (ErrorSource::Upstream, ConnectTimedout | ReadTimedout | WriteTimedout) => ApiError::Silent,
            (ErrorSource::Upstream, _) => ApiError::Unreachable,
            (ErrorSource::Downstream, ReadTimedout) => ApiError::Timeout,
            (ErrorSource::Downstream, _) => ApiError::MalformedHead,
            _ => ApiError::Internal("PROXY_ERROR"),
        };
        let status = failure.status().as_u16();
        if session.response_written().is_none() {
            // Pingora closes the connection after a failure; say so.
            session.set_keepalive(None);
            let id = ctx.id.clone().unwrap_or_else(|| RequestId::of(&session.req_header().headers));
            let answer = self.failure(&failure, session.req_header(), &id);
            // A client that is gone cannot be told.
            let _ = api_bridge::send(session, answer).await;
        }
        FailToProxy { error_code: status, can_reuse_downstream: false }
    }

    async fn logging(&self, session: &mut Session, _error: Option<&Error>, ctx: &mut Context) {
        let Some(id) = ctx.id.as_ref().filter(|_| !ctx.counted) else { return };
        self.0.metrics.request(RequestLine {
            id: id.as_str(),
            host: ctx.host,
            method: &session.req_header().method,
            path: INSTANCE_PATH,
            status: session.response_written().map_or(0, |head| head.status.as_u16()),
            took: ctx.start.elapsed(),
        });
    }
}

/// The pattern of every path on an instance's host: what lies there is the app's own affair.
const INSTANCE_PATH: &str = "/*";

/// The other end of a session's connection, and whether it is encrypted.
fn client_of(session: &Session) -> (IpAddr, bool) {
    let address = session
        .client_addr()
        .and_then(|address| address.as_inet())
        .map_or(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), |address| address.ip());
    let secure = session.digest().is_some_and(|digest| digest.ssl_digest.is_some());
    (address, secure)
}

/// Whether an answer is a stream of events.
fn is_event_stream(headers: &http::HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("text/event-stream"))
}

/// Whether a request asks for a stream of events, which may be silent for as long as nothing happens.
fn wants_events(headers: &http::HeaderMap) -> bool {
    headers
        .get_all(header::ACCEPT)
        .iter()
        .any(|value| value.to_str().is_ok_and(|value| value.contains("text/event-stream")))
}
