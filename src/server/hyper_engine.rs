//! Hyper as an engine: HTTP/1 connections that began with a request for the API, or that become a WebSocket tunnel.

use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, Version, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use pingora_core::protocols::{GetSocketDigest, Ssl};
use tokio::time::timeout;

use super::http1_guard::{ExchangeSignal, GuardedConnection, MAX_HEAD_BYTES};
use super::pingora_engine::PingoraEngine;
use super::pingora_pipe::PingoraPipe;
use super::shutdown::StopSignal;
use crate::api::{Api, ApiError, Body, MAX_BODY};
use crate::proxy::{HandshakeBody, Proxy};
use crate::request::{Destination, RequestId};

/// What answers on the connections that hyper serves.
pub(super) struct HyperEngine {
    api: Arc<Api>,
    proxy: Proxy,
    pingora: Arc<PingoraEngine>,
    read_timeout: Duration,
    stop: StopSignal,
}

/// What the requests of one connection share.
struct HyperConnection {
    engine: Arc<HyperEngine>,
    peer: IpAddr,
    is_secure: bool,
    signal: ExchangeSignal,
    pipe: PingoraPipe,
}

impl HyperEngine {
    /// Sets the engine up. `read_timeout` bounds how long a client may take to send the body of a request for the API.
    pub(super) fn new(
        api: Arc<Api>,
        proxy: Proxy,
        pingora: Arc<PingoraEngine>,
        read_timeout: Duration,
        stop: StopSignal,
    ) -> Self {
        Self { api, proxy, pingora, read_timeout, stop }
    }

    /// Serves a connection to its end.
    pub(super) async fn serve(self: &Arc<Self>, stream: GuardedConnection) {
        let mut stop = self.stop.clone();
        let ssl = stream.get_ssl_digest();
        let connection = Arc::new(HyperConnection {
            peer: stream.peer_ip(),
            is_secure: ssl.is_some(),
            signal: stream.exchange_signal(),
            pipe: PingoraPipe::new(self.pingora.clone(), stream.get_socket_digest(), ssl),
            engine: self.clone(),
        });
        let service = service_fn(move |request| {
            let connection = connection.clone();
            async move { Ok::<_, Infallible>(connection.respond(request).await) }
        });
        // Hyper gets no timer: the guard has all deadlines.
        let serving = http1::Builder::new()
            .max_buf_size(2 * MAX_HEAD_BYTES)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        let mut serving = pin!(serving);
        tokio::select! {
            // How a connection ends is the client's decision. A failed request is reported in its response.
            _ = serving.as_mut() => {}
            () = stop.requested() => {
                serving.as_mut().graceful_shutdown();
                let _ = serving.await;
            }
        }
    }
}

impl HyperConnection {
    /// Responds to one request, whatever its host.
    async fn respond(&self, request: Request<Incoming>) -> Response<ExchangeBody> {
        let proxy = &self.engine.proxy;
        let version = request.version();
        let response = match proxy.hosts().destination_of_head(version, request.uri(), request.headers()) {
            Destination::Api => self.respond_api(request).await.map(BodySource::Local),
            Destination::Instance(_) if is_websocket_handshake(&request) => {
                let tunnels = self.engine.stop.tunnels();
                let response = proxy.tunnel_websocket(request, self.peer, self.is_secure, tunnels).await;
                if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                    // Before hyper writes the 101: the bytes that the client sends after it are no HTTP any more.
                    self.signal.start_tunnel();
                }
                response.map(|body| match body {
                    HandshakeBody::App(body) => BodySource::App(body),
                    HandshakeBody::Local(body) => BodySource::Local(body),
                })
            }
            // Pingora answers for every other host, also for one that is unknown.
            Destination::Instance(_) | Destination::Unknown | Destination::Invalid => {
                let id = RequestId::of(request.headers());
                match self.pipe.send(request).await {
                    Ok(response) => response.map(BodySource::App),
                    Err(error) => aborted_response(&error, &id).map(BodySource::Local),
                }
            }
        };
        let mut response = response.map(|source| ExchangeBody { source, signal: self.signal.clone() });
        if version == Version::HTTP_10 && response.body().size_hint().exact().is_none() {
            // The end of the connection is the end of the body. Hyper would say that it keeps the connection.
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    async fn respond_api(&self, request: Request<Incoming>) -> Response<Body> {
        let _in_flight = self.engine.proxy.in_flight().begin();
        let (mut parts, body) = request.into_parts();
        self.engine.proxy.verify_hop_header(&mut parts);
        // Held until the request was handled, since the handler has the body.
        let has_body = !body.is_end_stream();
        let buffer = has_body.then(|| self.engine.proxy.reserve_body(&parts));
        let body = match &buffer {
            None => Ok(Bytes::new()),
            Some(None) => Err(ApiError::TooManyConnections),
            Some(Some(_)) => self.read_body(body).await,
        };
        let is_refused = body.is_err();
        let mut response = self.engine.api.handle(&parts, body, self.peer, self.is_secure).await;
        // The sender of a response that assigns an instance must take the delivery out of the body and report its
        // progress: the claim is undone if the delivery is dropped with the body.
        if let Some(delivery) = response.body_mut().take_delivery() {
            self.signal.track_delivery(delivery);
        }
        if is_refused {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    async fn read_body(&self, body: Incoming) -> Result<Bytes, ApiError> {
        match timeout(self.engine.read_timeout, Limited::new(body, MAX_BODY).collect()).await {
            Err(_) => Err(ApiError::Timeout),
            Ok(Ok(whole)) => Ok(whole.to_bytes()),
            Ok(Err(error)) if error.is::<LengthLimitError>() => Err(ApiError::TooLarge),
            Ok(Err(_)) => Err(ApiError::MalformedBody),
        }
    }
}

/// Whether a request is the handshake of a WebSocket. HTTP/1.0 knows no upgrade (RFC 9110, section 7.8).
fn is_websocket_handshake(request: &Request<Incoming>) -> bool {
    let has_token = |name, token: &str| {
        let values = request.headers().get_all(name).iter();
        values
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .any(|part| part.trim().eq_ignore_ascii_case(token))
    };
    request.method() == http::Method::GET
        && request.version() == Version::HTTP_11
        && has_token(header::UPGRADE, "websocket")
        && has_token(header::CONNECTION, "upgrade")
}

/// Returns the response to an exchange that ended before Pingora responded. The client ended it if its body broke off
/// or broke a rule of HTTP; else Pingora ended it.
fn aborted_response(error: &hyper::Error, id: &RequestId) -> Response<Body> {
    let failure = if error.is_user() { ApiError::MalformedBody } else { ApiError::AppUnreachable };
    let mut response = failure.to_response(id);
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

/// Where the body of a response comes from.
enum BodySource {
    Local(Body),
    App(Incoming),
}

/// The body of a response. When hyper drops it the exchange is over, and the guard may look for the next head.
struct ExchangeBody {
    source: BodySource,
    signal: ExchangeSignal,
}

impl Drop for ExchangeBody {
    fn drop(&mut self) {
        if self.is_end_stream() {
            self.signal.mark_response_taken();
        }
        self.signal.finish_exchange();
    }
}

impl hyper::body::Body for ExchangeBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut self.source {
            BodySource::Local(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
            BodySource::App(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            BodySource::Local(body) => body.is_end_stream(),
            BodySource::App(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            BodySource::Local(body) => body.size_hint(),
            BodySource::App(body) => body.size_hint(),
        }
    }
}
