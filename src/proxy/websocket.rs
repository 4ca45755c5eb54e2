//! WebSockets: a handshake in HTTP, then bytes both ways.
//!
//! Not by Pingora, whose upgrades die right after the 101 when the app speaks first (its issue 946): hyper carries
//! the handshake on both sides, and then bytes are copied until either side ends, the visitor's time is over, or
//! the server stops.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, Version, header};
use http_body_util::Empty;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::client::conn::http1;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::app_peer::CONNECT_TIMEOUT;
use super::headers::{Sender, host_only_cookies, named_by_connection, rewrite_handshake};
use super::routes::Route;
use super::target::Target;
use super::{INSTANCE_PATH, Proxy};
use crate::api::{ApiError, Body};
use crate::cluster;
use crate::cluster::HOP;
use crate::request::{Destination, RequestId, authority};
use crate::telemetry::{HostKind, RequestLine};

/// The body of the answer to a handshake.
pub enum TunnelBody {
    /// The app's own, when it declined.
    App(Incoming),
    /// Ours.
    Own(Body),
}

impl Proxy {
    /// Answers a request to open a WebSocket. A 101 comes with a task that copies bytes once the engine has sent
    /// it; any other answer ends the connection. `peer` and `secure` tell of the client's connection; `stop` cuts
    /// the tunnel.
    pub async fn tunnel(
        &self,
        mut request: Request<Incoming>,
        peer: IpAddr,
        secure: bool,
        stop: CancellationToken,
    ) -> Response<TunnelBody> {
        let start = Instant::now();
        let id = RequestId::of(request.headers());
        let client = hyper::upgrade::on(&mut request);
        let (mut head, _) = request.into_parts();
        let arrival = self.arrival(&head.uri, &head.headers);
        head.headers.remove(HOP);
        let sender = Sender { peer, secure, arrival: &arrival };
        let mut answer = match self.open(&head, &id, client, sender, stop).await {
            Ok(answer) => answer,
            Err(error) => self.failure(&error, &head, &id).map(TunnelBody::Own),
        };
        answer.headers_mut().insert(RequestId::HEADER, id.value());
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        self.0.metrics.request(RequestLine {
            id: id.as_str(),
            host: HostKind::Instance,
            method: &head.method,
            path: INSTANCE_PATH,
            status: answer.status().as_u16(),
            took: start.elapsed(),
        });
        answer
    }

    async fn open(
        &self,
        head: &http::request::Parts,
        id: &RequestId,
        client: OnUpgrade,
        sender: Sender<'_>,
        stop: CancellationToken,
    ) -> Result<Response<TunnelBody>, ApiError> {
        let Destination::Instance(label) = self.0.hosts.side(&head.uri, &head.headers) else {
            return Err(ApiError::MalformedHead);
        };
        let (route, way) = self.target(&label, sender.arrival).await?;
        let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
        let mut handshake = Request::new(Empty::<Bytes>::new());
        *handshake.uri_mut() = target.parse().map_err(|_| ApiError::MalformedHead)?;
        *handshake.version_mut() = Version::HTTP_11;
        *handshake.headers_mut() = head.headers.clone();
        let lines = self.forwarded(head, sender, id).to(&route, &way);
        rewrite_handshake(handshake.headers_mut(), &lines);

        let patience = self.silence(&route, &way, &head.headers).unwrap_or(CONNECT_TIMEOUT);
        let stream = self.connect(head, &route, &way).await?;
        let mut answer = shake_hands(stream, &route, handshake, patience).await?;
        let cookies = host_only_cookies(answer.headers());
        for name in named_by_connection(answer.headers()) {
            answer.headers_mut().remove(name);
        }
        answer.headers_mut().remove(header::SET_COOKIE);
        for cookie in cookies {
            answer.headers_mut().append(header::SET_COOKIE, cookie);
        }
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
            let app = hyper::upgrade::on(&mut answer);
            answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
            let clock = self.0.pool.clock().clone();
            crate::telemetry::task::spawn("tunnel", async move {
                tokio::select! {
                    () = copy(client, app) => {}
                    () = route.ended() => {}
                    () = past_deadline(&route, &clock) => {}
                    () = stop.cancelled() => {}
                }
            });
        }
        Ok(answer.map(TunnelBody::App))
    }

    /// A new connection to the app, or to the server that runs it.
    async fn connect(
        &self,
        head: &http::request::Parts,
        route: &Route,
        way: &Target,
    ) -> Result<Box<dyn Io>, ApiError> {
        let Target::Node { address, .. } = way else {
            let stream = timeout(CONNECT_TIMEOUT, self.0.pool.connect(route.endpoint()))
                .await
                .map_err(|_| ApiError::Silent)?
                .map_err(|_| ApiError::Unreachable)?;
            // Small frames must not wait for each other; a failure costs speed only.
            let _ = stream.set_nodelay(true);
            return Ok(Box::new(stream));
        };
        let stream = cluster::connect(*address).await.map_err(|_| ApiError::Unreachable)?;
        let Some(secure) = &self.0.secure else { return Ok(Box::new(stream)) };
        let host = authority(&head.uri, &head.headers).ok_or(ApiError::MalformedHead)?;
        Ok(Box::new(secure.handshake(stream, host).await.map_err(|_| ApiError::Unreachable)?))
    }
}

/// What a tunnel leads through.
trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// Sends the handshake on a connection of its own and returns the app's answer.
async fn shake_hands(
    stream: Box<dyn Io>,
    route: &Arc<Route>,
    handshake: Request<Empty<Bytes>>,
    patience: Duration,
) -> Result<Response<Incoming>, ApiError> {
    let (mut send, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|_| ApiError::Unreachable)?;
    let ended = route.clone();
    crate::telemetry::task::spawn("tunnel handshake", async move {
        tokio::select! {
            // Its error is the answer's error.
            _ = connection.with_upgrades() => {}
            () = ended.ended() => {}
        }
    });
    timeout(patience, send.send_request(handshake))
        .await
        .map_err(|_| ApiError::Silent)?
        .map_err(|_| ApiError::Unreachable)
}

/// Copies both ways until both have ended, or one has failed. An end of one direction is passed on.
async fn copy(client: OnUpgrade, app: OnUpgrade) {
    let (Ok(client), Ok(app)) = tokio::join!(client, app) else { return };
    let (mut client, mut app): (TokioIo<Upgraded>, TokioIo<Upgraded>) =
        (TokioIo::new(client), TokioIo::new(app));
    // A broken tunnel is how most of them end: a tab was closed.
    let _ = tokio::io::copy_bidirectional(&mut client, &mut app).await;
}

/// Done at the route's deadline, wherever it has moved by then.
async fn past_deadline(route: &Route, clock: &crate::clock::Clock) {
    loop {
        let left = route.deadline().since(clock.now());
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left).await;
    }
}

impl hyper::body::Body for TunnelBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            TunnelBody::App(body) => Pin::new(body).poll_frame(cx),
            TunnelBody::Own(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            TunnelBody::App(body) => body.is_end_stream(),
            TunnelBody::Own(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            TunnelBody::App(body) => body.size_hint(),
            TunnelBody::Own(body) => body.size_hint(),
        }
    }
}
