//! WebSockets: a handshake in HTTP, then bytes in both directions.
//!
//! Pingora 0.9 cannot carry them: after a 101 it ends the connection if the app speaks first (its issue 946). So hyper
//! performs the handshake on both sides. Then bytes are copied until one side ends, the lease's deadline is reached, or
//! the server shuts down.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Request, Response, StatusCode, Version, header};
use http_body_util::Empty;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::client::conn::http1;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Proxy;
use super::app_peer::APP_CONNECT_TIMEOUT;
use super::head_changes::rewrite_handshake_response;
use super::headers::rewrite_handshake;
use super::request_permit::RequestPermit;
use super::routes::Route;
use super::service::INSTANCE_PATH_PATTERN;
use super::target::Target;
use crate::api::{ApiError, Body};
use crate::clock::Clock;
use crate::cluster::{self, HOP_HEADER};
use crate::request::{Destination, RequestContext, RequestId, authority};
use crate::telemetry::{HostKind, RequestRecord};

/// What the tunnels of a server share.
#[derive(Debug, Clone, Default)]
pub struct Tunnels {
    /// Cancelled when all tunnels must end.
    pub end: CancellationToken,
    /// Counts the open ones.
    pub open: TaskTracker,
}

/// The body of the response to a handshake.
pub enum HandshakeBody {
    /// The body of the app's response.
    App(Incoming),
    /// The body of an error response of this program.
    Local(Body),
}

impl Proxy {
    /// Answers a WebSocket handshake. If the response is a 101, a task copies bytes once the engine has sent it; any
    /// other response ends the connection. `tunnels` counts and ends it.
    pub async fn tunnel_websocket(
        &self,
        mut request: Request<Incoming>,
        context: &RequestContext<'_>,
        tunnels: Tunnels,
    ) -> Response<HandshakeBody> {
        let request_id = &context.id;
        let client = hyper::upgrade::on(&mut request);
        let (mut head, _) = request.into_parts();
        head.headers.remove(HOP_HEADER);
        let mut response = match self.open_tunnel(&head, context, client, tunnels).await {
            Ok(response) => response,
            Err(error) => self.error_response(&error, &head, request_id).map(HandshakeBody::Local),
        };
        response.headers_mut().insert(RequestId::HEADER, request_id.to_header_value());
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        self.0.metrics.record_request(RequestRecord {
            id: request_id.as_str(),
            host: HostKind::Instance,
            method: &head.method,
            path: INSTANCE_PATH_PATTERN,
            status: response.status().as_u16(),
            took: context.start.elapsed(),
        });
        response
    }

    /// Forwards the handshake to the upstream and returns its response. If that is a 101, starts the tunnel.
    async fn open_tunnel(
        &self,
        head: &Parts,
        context: &RequestContext<'_>,
        client: OnUpgrade,
        tunnels: Tunnels,
    ) -> Result<Response<HandshakeBody>, ApiError> {
        let Destination::Instance(label) = &context.destination else {
            return Err(ApiError::MalformedHead);
        };
        let (route, target) = self.resolve_target(label, context).await?;
        let permit = Arc::new(self.begin_request(&route, context)?);
        let path_and_query = head.uri.path_and_query().map_or("/", |path| path.as_str());
        let mut handshake = Request::new(Empty::<Bytes>::new());
        *handshake.uri_mut() = path_and_query.parse().map_err(|_| ApiError::MalformedHead)?;
        *handshake.version_mut() = Version::HTTP_11;
        *handshake.headers_mut() = head.headers.clone();
        let forwarded = self.forwarded_headers(head, context).for_target(&route, &target, &self.0.clock);
        rewrite_handshake(handshake.headers_mut(), &forwarded);

        let response_timeout =
            self.upstream_read_timeout(&route, &target, &head.headers).unwrap_or(APP_CONNECT_TIMEOUT);
        let upstream = self.connect_upstream(head, &route, &target).await?;
        let mut response =
            send_handshake(upstream, &route, permit.clone(), handshake, response_timeout).await?;
        let is_switching = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        let links = self.replaced_links(response.headers(), &route, &target);
        rewrite_handshake_response(response.headers_mut(), is_switching, links);
        if is_switching {
            let upstream = hyper::upgrade::on(&mut response);
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
            let clock = self.0.clock.clone();
            let open = tunnels.open.clone();
            let tunnel = async move {
                let _permit = permit;
                tokio::select! {
                    () = copy_both_ways(client, upstream) => {}
                    () = route.ended() => {}
                    () = wait_for_deadline(&route, &clock) => {}
                    () = tunnels.end.cancelled() => {}
                }
            };
            crate::telemetry::task::spawn("websocket tunnel", open.track_future(tunnel));
        }
        Ok(response.map(HandshakeBody::App))
    }

    /// Opens a connection to the app, or to the node that runs it.
    async fn connect_upstream(
        &self,
        head: &Parts,
        route: &Route,
        target: &Target,
    ) -> Result<Box<dyn Io>, ApiError> {
        let Target::Node { address, .. } = target else {
            let stream = timeout(APP_CONNECT_TIMEOUT, self.0.instances.connect(route.endpoint()))
                .await
                .map_err(|_| ApiError::AppTimeout)?
                .map_err(|_| ApiError::AppUnreachable)?;
            // Small frames must not wait for each other. A failure costs only speed.
            let _ = stream.set_nodelay(true);
            return Ok(Box::new(stream));
        };
        let stream = cluster::connect(*address).await.map_err(|_| ApiError::AppUnreachable)?;
        let Some(tls) = &self.0.peer_tls else { return Ok(Box::new(stream)) };
        let host = authority(&head.uri, &head.headers).ok_or(ApiError::MalformedHead)?;
        Ok(Box::new(tls.handshake(stream, host).await.map_err(|_| ApiError::AppUnreachable)?))
    }
}

/// A connection to the upstream, with or without TLS.
trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// Sends the handshake on a new connection and returns the upstream's response.
async fn send_handshake(
    upstream: Box<dyn Io>,
    route: &Arc<Route>,
    permit: Arc<RequestPermit>,
    handshake: Request<Empty<Bytes>>,
    response_timeout: Duration,
) -> Result<Response<Incoming>, ApiError> {
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(upstream)).await.map_err(|_| ApiError::AppUnreachable)?;
    let ended = route.clone();
    crate::telemetry::task::spawn("websocket handshake", async move {
        // The body of a declined handshake may have no end.
        let _permit = permit;
        tokio::select! {
            // Its error reaches the client as the response's error.
            _ = connection.with_upgrades() => {}
            () = ended.ended() => {}
        }
    });
    timeout(response_timeout, sender.send_request(handshake))
        .await
        .map_err(|_| ApiError::AppTimeout)?
        .map_err(|_| ApiError::AppUnreachable)
}

/// Copies bytes both ways until both directions have ended, or one has failed. The end of one direction is forwarded.
async fn copy_both_ways(client: OnUpgrade, upstream: OnUpgrade) {
    let (Ok(client), Ok(upstream)) = tokio::join!(client, upstream) else { return };
    let (mut client, mut upstream): (TokioIo<Upgraded>, TokioIo<Upgraded>) =
        (TokioIo::new(client), TokioIo::new(upstream));
    // An error is the usual end: a tab was closed.
    let _ = tokio::io::copy_bidirectional(&mut client, &mut upstream).await;
}

/// Longest wait until the deadline is looked at again: the timer stands still while the host is suspended.
const MAX_DEADLINE_WAIT: Duration = Duration::from_secs(10);

/// Waits for the route's deadline, including extensions of the lease that come meanwhile.
async fn wait_for_deadline(route: &Route, clock: &Clock) {
    loop {
        let remaining = route.deadline().since(clock.now());
        if remaining.is_zero() {
            return;
        }
        tokio::time::sleep(remaining.min(MAX_DEADLINE_WAIT)).await;
    }
}

impl hyper::body::Body for HandshakeBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            HandshakeBody::App(body) => Pin::new(body).poll_frame(cx),
            HandshakeBody::Local(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            HandshakeBody::App(body) => body.is_end_stream(),
            HandshakeBody::Local(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            HandshakeBody::App(body) => body.size_hint(),
            HandshakeBody::Local(body) => body.size_hint(),
        }
    }
}
