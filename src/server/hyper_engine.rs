//! Hyper as an engine: requests of HTTP/1 for the API, and the handshakes of WebSockets.

use std::convert::Infallible;
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
use tokio::time::timeout;

use super::handover::Passing;
use super::http1_guard::{ExchangeSignal, GuardedConnection, MAX_HEAD_BYTES};
use super::shutdown::StopSignal;
use crate::api::{Api, ApiError, Body, MAX_BODY};
use crate::cluster::HOP_HEADER;
use crate::proxy::{HandshakeBody, Proxy};
use crate::request::{Destination, Peer, RequestContext};

/// What answers on the connections that hyper serves.
pub(super) struct HyperEngine {
    api: Arc<Api>,
    proxy: Proxy,
    read_timeout: Duration,
    stop: StopSignal,
    passing: Passing,
}

/// What the requests of one connection share.
struct HyperConnection {
    engine: Arc<HyperEngine>,
    peer: Peer,
    signal: ExchangeSignal,
}

impl HyperEngine {
    /// Sets the engine up. `read_timeout` bounds how long a client may take to send the body of a request for the API.
    pub(super) fn new(
        api: Arc<Api>,
        proxy: Proxy,
        read_timeout: Duration,
        stop: StopSignal,
        passing: Passing,
    ) -> Self {
        Self { api, proxy, read_timeout, stop, passing }
    }

    /// Serves requests for the API on a connection that was lent for them. Returns the connection if it stays open, which
    /// it does between two requests when connections pass to another process.
    pub(super) async fn serve_api(self: &Arc<Self>, stream: GuardedConnection) -> Option<GuardedConnection> {
        let (connection, signal) = (self.connection(&stream), stream.exchange_signal());
        let service = service_fn(move |request| {
            let connection = connection.clone();
            async move { Ok::<_, Infallible>(connection.answer_api(request).await) }
        });
        let mut serving = builder().serve_connection(TokioIo::new(stream), service);
        let (mut stop, mut is_recalled) = (self.stop.clone(), false);
        let ended = loop {
            tokio::select! {
                // Read first: hyper would end without a look at the head that is there.
                biased;
                ended = &mut serving => break ended,
                () = self.passing.begun_for_api(), if !is_recalled => {
                    is_recalled = true;
                    signal.recall();
                }
                () = stop.requested() => {
                    Pin::new(&mut serving).graceful_shutdown();
                    break (&mut serving).await;
                }
            }
        };
        // How a connection ends is the client's decision. A failed request is reported in its response.
        ended.ok()?;
        let stream = serving.into_parts().io.into_inner();
        stream.is_released().then_some(stream)
    }

    /// Serves the handshake of a WebSocket, and the tunnel that it may begin, to the end of the connection.
    pub(super) async fn serve_websocket(self: &Arc<Self>, stream: GuardedConnection) {
        let connection = self.connection(&stream);
        let service = service_fn(move |request| {
            let connection = connection.clone();
            async move { Ok::<_, Infallible>(connection.answer_handshake(request).await) }
        });
        let serving = builder().serve_connection(TokioIo::new(stream), service).with_upgrades();
        let mut serving = pin!(serving);
        let mut stop = self.stop.clone();
        tokio::select! {
            // Read first: hyper would end without a look at the head that is there.
            biased;
            _ = serving.as_mut() => {}
            () = stop.requested() => {
                serving.as_mut().graceful_shutdown();
                let _ = serving.await;
            }
        }
    }

    fn connection(self: &Arc<Self>, stream: &GuardedConnection) -> Arc<HyperConnection> {
        Arc::new(HyperConnection {
            engine: self.clone(),
            peer: stream.peer(),
            signal: stream.exchange_signal(),
        })
    }
}

/// Returns hyper's settings. Hyper gets no timer: the guard has all deadlines.
fn builder() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder.max_buf_size(2 * MAX_HEAD_BYTES);
    builder
}

impl HyperConnection {
    async fn answer_api(&self, request: Request<Incoming>) -> Response<ExchangeBody> {
        let version = request.version();
        let context = self.context(&request);
        let response = match context.destination {
            Destination::Api => self.respond_api(request, &context).await,
            _ => misdirected(&context),
        };
        let mut response = self.with_signal(response.map(BodySource::Local));
        if version == Version::HTTP_10 && response.body().size_hint().exact().is_none() {
            // The end of the connection is the end of the body. Hyper would say that it keeps the connection.
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    async fn answer_handshake(&self, request: Request<Incoming>) -> Response<ExchangeBody> {
        let context = self.context(&request);
        if !matches!(context.destination, Destination::Instance(_)) || !is_websocket_handshake(&request) {
            return self.with_signal(misdirected(&context).map(BodySource::Local));
        }
        let tunnels = self.engine.stop.tunnels();
        let response = self.engine.proxy.tunnel_websocket(request, &context, tunnels).await;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            // Before hyper writes the 101: the bytes that the client sends after it are no HTTP any more.
            self.signal.start_tunnel();
        }
        self.with_signal(response.map(|body| match body {
            HandshakeBody::App(body) => BodySource::App(body),
            HandshakeBody::Local(body) => BodySource::Local(body),
        }))
    }

    fn context(&self, request: &Request<Incoming>) -> RequestContext<'static> {
        let proxy = &self.engine.proxy;
        let (uri, headers) = (request.uri(), request.headers());
        let destination = proxy.hosts().destination_of_head(request.version(), uri, headers).into_owned();
        proxy.context(destination, self.peer, headers)
    }

    /// Lets the guard know when hyper is done with the body of a response.
    fn with_signal(&self, response: Response<BodySource>) -> Response<ExchangeBody> {
        response.map(|source| ExchangeBody { source, signal: self.signal.clone() })
    }

    async fn respond_api(&self, request: Request<Incoming>, context: &RequestContext<'_>) -> Response<Body> {
        let _in_flight = self.engine.proxy.in_flight().begin();
        let (mut parts, body) = request.into_parts();
        parts.headers.remove(HOP_HEADER);
        // Held until the request was handled, since the handler has the body.
        let has_body = !body.is_end_stream();
        let buffer = has_body.then(|| self.engine.proxy.reserve_body(&parts));
        let body = match &buffer {
            None => Ok(Bytes::new()),
            Some(None) => Err(ApiError::TooManyConnections),
            Some(Some(_)) => self.read_body(body).await,
        };
        let is_refused = body.is_err();
        let mut response = self.engine.api.handle(&parts, body, context).await;
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

/// Returns the response to a request that this engine reads in another way than the guard.
fn misdirected(context: &RequestContext<'_>) -> Response<Body> {
    let mut response = ApiError::Misdirected.to_response(&context.id);
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
