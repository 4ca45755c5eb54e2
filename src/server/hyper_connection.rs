//! Hyper's side: connections over HTTP/1 that began with a request for the API, or that become a tunnel.

use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::time::timeout;

use super::dispatch::{Dispatch, Stop};
use super::http1_guard::head::MAX_HEAD;
use super::http1_guard::{ExchangeSignal, GuardedConnection};
use super::pingora_pipe::Pipe;
use crate::api::{ApiError, Body, MAX_BODY};
use crate::proxy::TunnelBody;
use crate::request::{Destination, RequestId};

/// What a connection's requests share.
struct Connection {
    dispatch: Arc<Dispatch>,
    peer: IpAddr,
    secure: bool,
    turn: ExchangeSignal,
    pipe: Pipe,
    stop: Stop,
}

/// Serves a connection to its end.
pub(super) async fn serve(dispatch: Arc<Dispatch>, stream: GuardedConnection, peer: IpAddr, mut stop: Stop) {
    use pingora_core::protocols::{GetSocketDigest, Ssl};
    let ssl = stream.get_ssl_digest();
    let connection = Arc::new(Connection {
        peer,
        secure: ssl.is_some(),
        turn: stream.turn(),
        pipe: Pipe::new(dispatch.clone(), stream.get_socket_digest(), ssl),
        stop: stop.clone(),
        dispatch,
    });
    let service = service_fn(move |request| {
        let connection = connection.clone();
        async move { Ok::<_, Infallible>(connection.answer(request).await) }
    });
    // No timer: the guard below has all deadlines.
    let serving = http1::Builder::new()
        .max_buf_size(2 * MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut serving = pin!(serving);
    tokio::select! {
        // How a connection ends is the client's affair; what went wrong in a request was told in its answer.
        _ = serving.as_mut() => {}
        () = stop.stopping() => {
            serving.as_mut().graceful_shutdown();
            let _ = serving.await;
        }
    }
}

impl Connection {
    async fn answer(&self, request: Request<Incoming>) -> Response<Outgoing> {
        let dispatch = &self.dispatch;
        let side = dispatch.proxy.hosts().side(request.uri(), request.headers());
        let answer = match side {
            Destination::Api => self.api(request).await.map(Kind::Own),
            Destination::Instance(_) if wants_websocket(&request) => {
                let answer = dispatch.proxy.tunnel(request, self.peer, self.secure, self.stop.cut()).await;
                if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
                    // Before hyper writes the 101: what the client sends after it is no HTTP any more.
                    self.turn.tunnel();
                }
                answer.map(|body| match body {
                    TunnelBody::App(body) => Kind::App(body),
                    TunnelBody::Own(body) => Kind::Own(body),
                })
            }
            // Pingora answers for every other host, also for those that are nobody's.
            Destination::Instance(_) | Destination::Unknown | Destination::Bad => {
                let id = RequestId::of(request.headers());
                match self.pipe.send(request).await {
                    Ok(answer) => answer.map(Kind::App),
                    Err(error) => broken_off(&error, &id).map(Kind::Own),
                }
            }
        };
        answer.map(|kind| Outgoing { kind, turn: self.turn.clone() })
    }

    async fn api(&self, request: Request<Incoming>) -> Response<Body> {
        let _under_way = self.dispatch.proxy.under_way().begin();
        let (mut parts, body) = request.into_parts();
        self.dispatch.proxy.judge_api(&mut parts);
        let body = if body.is_end_stream() { Ok(Bytes::new()) } else { self.read(body).await };
        let refused = body.is_err();
        let mut answer = self.dispatch.api.handle(&parts, body, self.peer, self.secure).await;
        if let Some(delivery) = answer.body_mut().take_delivery() {
            self.turn.hands_out(delivery);
        }
        if refused {
            answer.headers_mut().insert(header::CONNECTION, http::HeaderValue::from_static("close"));
        }
        answer
    }

    async fn read(&self, body: Incoming) -> Result<Bytes, ApiError> {
        match timeout(self.dispatch.read_timeout, Limited::new(body, MAX_BODY).collect()).await {
            Err(_) => Err(ApiError::Timeout),
            Ok(Ok(whole)) => Ok(whole.to_bytes()),
            Ok(Err(error)) if error.is::<LengthLimitError>() => Err(ApiError::TooLarge),
            Ok(Err(_)) => Err(ApiError::MalformedHead),
        }
    }
}

/// The guard lets nothing through that asks for an upgrade but a well-formed WebSocket handshake.
fn wants_websocket(request: &Request<Incoming>) -> bool {
    let names = |name, token: &str| {
        let values = request.headers().get_all(name).iter();
        values
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .any(|part| part.trim().eq_ignore_ascii_case(token))
    };
    request.method() == http::Method::GET
        && names(header::UPGRADE, "websocket")
        && names(header::CONNECTION, "upgrade")
}

/// The answer to an exchange that ended before Pingora answered: by the client, whose body broke off or broke a rule
/// of HTTP, else by Pingora.
fn broken_off(error: &hyper::Error, id: &RequestId) -> Response<Body> {
    let failure = if error.is_user() { ApiError::MalformedHead } else { ApiError::Unreachable };
    let mut answer = failure.answer(id);
    answer.headers_mut().insert(header::CONNECTION, http::HeaderValue::from_static("close"));
    answer
}

enum Kind {
    Own(Body),
    App(Incoming),
}

/// The body of an answer. When hyper lets go of it the exchange is over, and the guard may look for the next head.
struct Outgoing {
    kind: Kind,
    turn: ExchangeSignal,
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        if self.is_end_stream() {
            self.turn.taken();
        }
        self.turn.next();
    }
}

impl hyper::body::Body for Outgoing {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut self.kind {
            Kind::Own(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
            Kind::App(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Own(body) => body.is_end_stream(),
            Kind::App(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Own(body) => body.size_hint(),
            Kind::App(body) => body.size_hint(),
        }
    }
}
