//! The loop of one connection, and the choice of the engine that answers each request.
//!
//! The guard owns an HTTP/1 connection between two messages. Each checked head goes to the engine that it belongs to, and
//! the engine gives the connection back:
//!
//! | head | engine |
//! |---|---|
//! | for the API | hyper, until a head comes that is not for the API; in a handover the other process |
//! | for the API's `/health`, in a handover | hyper, for one exchange |
//! | for an instance of this node | the forwarder, if the server has one, for one exchange |
//! | for any other host | Pingora, for one exchange |
//! | the handshake of a WebSocket for an instance | hyper, to the end of the connection |
//! | refused by the guard | none: the API's error, and the end of the connection |
//!
//! HTTP/2 goes to Pingora, to the end of the connection. Each engine decides again about each request, on its own parse,
//! with one rule ([`Hosts::destination`](crate::request::Hosts::destination)), and answers 421 where the two differ.
//!
//! **Trap: Pingora 0.9 closes a WebSocket after the 101 if the app speaks first (issue 946).** So handshakes go to
//! hyper.

use std::sync::Arc;
use std::time::Duration;

use pingora_core::protocols::{ALPN, Stream};
use tokio::io::AsyncWriteExt as _;

use super::client_socket::ClientSocket;
use super::forwarder::{Forwarder, LazyTimer, Outcome};
use super::handover::Passing;
use super::http1_guard::head::Framing;
use super::http1_guard::{
    ClientTimeouts, GuardedConnection, HeadFilter, HeadInfo, NextHead, Refusal, RefusalKind,
};
use super::hyper_engine::HyperEngine;
use super::pingora_engine::PingoraEngine;
use super::shutdown::StopSignal;
use super::wire_format::encode_response;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::api::{Api, ApiError};
use crate::config::Http1Engine;
use crate::proxy::Proxy;
use crate::request::Destination;
use crate::telemetry::task;

/// All engines, and the choice between them.
pub(super) struct Dispatcher {
    api: Arc<Api>,
    proxy: Proxy,
    hyper: Arc<HyperEngine>,
    pingora: Arc<PingoraEngine>,
    /// Passes the heads that are for the API.
    api_heads: HeadFilter,
    /// Carries HTTP/1 to the instances of this node; `None` where Pingora does.
    forwarder: Option<Forwarder>,
    timeouts: ClientTimeouts,
    stop: StopSignal,
    passing: Passing,
}

impl Dispatcher {
    /// Sets the engines up. `read_timeout` bounds how long a client may take to send the body of a request for the
    /// API.
    pub(super) fn new(
        api: Arc<Api>,
        proxy: Proxy,
        timeouts: ClientTimeouts,
        read_timeout: Duration,
        (stop, passing): (StopSignal, Passing),
        http1_engine: Http1Engine,
    ) -> Arc<Self> {
        let pingora = Arc::new(PingoraEngine::new(proxy.clone(), timeouts, stop.clone()));
        let hyper = HyperEngine::new(api.clone(), proxy.clone(), read_timeout, stop.clone(), passing.clone());
        let forwarder = (http1_engine == Http1Engine::Forwarder).then(|| {
            task::spawn("idle app sockets", proxy.clone().sweep_idle_sockets());
            Forwarder::new(proxy.clone(), stop.clone())
        });
        let routing = proxy.clone();
        let api_heads: HeadFilter =
            Arc::new(move |host| routing.hosts().destination_of_http1(host) == Destination::Api);
        let hyper = Arc::new(hyper);
        Arc::new(Self { api, proxy, hyper, pingora, api_heads, forwarder, timeouts, stop, passing })
    }

    /// Announces the shutdown to Pingora, so that each last response says that its connection closes.
    pub(super) async fn close(&self) {
        self.pingora.close().await;
    }

    /// Serves one connection to its end. TLS, if any, is terminated before. `fresh` is dropped when its first
    /// request has begun.
    pub(super) async fn serve(self: Arc<Self>, stream: Stream, fresh: TaskTrackerToken) {
        if stream.selected_alpn_proto() == Some(ALPN::H2) {
            drop(fresh);
            self.pingora.serve_http2(stream).await;
            return;
        }
        let is_encrypted = stream.get_ssl_digest().is_some();
        let mut stream = GuardedConnection::new(stream, self.timeouts);
        let first = self.next_head(&mut stream).await;
        // Boxed, so that a connection that waits for its first head takes little memory.
        Box::pin(self.serve_messages(stream, first, is_encrypted, fresh)).await;
    }

    /// Serves one message after another, of which `next` is the first.
    async fn serve_messages(
        &self,
        mut stream: GuardedConnection,
        mut next: NextHead,
        is_encrypted: bool,
        fresh: TaskTrackerToken,
    ) {
        let mut fresh = Some(fresh);
        let mut timer = LazyTimer::default();
        loop {
            let kept = match next {
                NextHead::Head(info) => match self.proxy.hosts().destination_of_http1(&info.host) {
                    Destination::Api => {
                        let pass = self.api.enter();
                        let further_heads = match &pass {
                            Some(_) => self.api_heads.clone(),
                            // Load balancers take a server out that does not answer for a moment.
                            None if asks_for_health(stream.peek_head(), &info) => no_heads(),
                            // Another process answers for the API by now, and gets the head that is here.
                            None => return self.pass_or_close(stream).await,
                        };
                        drop(fresh.take());
                        stream.lend(further_heads);
                        self.hyper.serve_api(stream).await
                    }
                    Destination::Instance(_) if info.head.is_websocket_upgrade => {
                        drop(fresh.take());
                        return self.hyper.serve_websocket(stream).await;
                    }
                    // The proxy has the error for a host that is unknown or malformed.
                    destination => {
                        drop(fresh.take());
                        self.proxy_exchange(stream, &info, destination, &mut timer).await
                    }
                },
                // Over TLS, HTTP/2 is agreed on by ALPN or not spoken.
                NextHead::Http2 if !is_encrypted && !self.passing.has_begun_for_api() => {
                    stream.begin_http2();
                    return self.pingora.serve_http2(Box::new(stream)).await;
                }
                NextHead::Refused(refusal) => return self.refuse(stream, &refusal).await,
                // Its client has left, or the server stops.
                NextHead::Closed if !self.passing.has_begun() => return stream.close().await,
                NextHead::Http2 | NextHead::Closed => return self.pass_or_close(stream).await,
            };
            let Some(kept) = kept else { return };
            stream = kept;
            next = self.next_head(&mut stream).await;
        }
    }

    /// Carries out one exchange with an instance. Returns the connection if it stays open.
    async fn proxy_exchange(
        &self,
        mut stream: GuardedConnection,
        info: &HeadInfo,
        destination: Destination<'_>,
        timer: &mut LazyTimer,
    ) -> Option<GuardedConnection> {
        let outcome = match &self.forwarder {
            Some(forwarder) => forwarder.exchange(&mut stream, info, destination, timer).await,
            None => Outcome::NotMine,
        };
        match outcome {
            Outcome::Kept => Some(stream),
            Outcome::Closed => None,
            Outcome::NotMine => self.pingora.serve_exchange(stream).await,
        }
    }

    /// Waits for the next head, or until the server shuts down or the connection may pass to another process.
    async fn next_head(&self, stream: &mut GuardedConnection) -> NextHead {
        let mut stop = self.stop.clone();
        tokio::select! {
            biased;
            next = stream.next_head() => next,
            () = self.passing.begun(), if stream.is::<ClientSocket>() => NextHead::Closed,
            () = stop.requested() => NextHead::Closed,
        }
    }

    /// Ends a connection here: another process takes it, if one takes connections and no engine has begun its message.
    async fn pass_or_close(&self, stream: GuardedConnection) {
        if let Some(mut stream) = self.passing.pass(stream).await {
            stream.close().await;
        }
    }

    /// Answers a head that no engine may see.
    async fn refuse(&self, mut stream: GuardedConnection, refusal: &Refusal) {
        let error = match refusal.kind() {
            RefusalKind::BadRequest => ApiError::MalformedHead,
            RefusalKind::HeadersTooLarge => ApiError::HeadersTooLarge,
            RefusalKind::Timeout => ApiError::Timeout,
        };
        let bytes = encode_response(self.api.refuse_head(&error));
        if stream.write_all(&bytes).await.is_ok() && stream.flush().await.is_ok() {
            stream.linger().await;
        }
    }
}

/// Returns a filter that no further head passes.
fn no_heads() -> HeadFilter {
    Arc::new(|_| false)
}

/// Whether a head is of a request of `/health` without a body, which is answered at any time.
fn asks_for_health(head: &[u8], info: &HeadInfo) -> bool {
    let is_health =
        [&b"GET /health HTTP/"[..], b"HEAD /health HTTP/"].iter().any(|line| head.starts_with(line));
    is_health && info.head.framing == Framing::None
}
