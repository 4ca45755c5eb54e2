//! The choice of the engine that answers on a connection.
//!
//! The first head decides: a request for the API, or the handshake of a WebSocket, starts hyper. Any other request
//! starts Pingora, and HTTP/2 always does. The choice only saves time. Each engine decides again for each request, on
//! its own parse, with one rule ([`Hosts::destination`](crate::request::Hosts::destination)): hyper passes a request
//! for an instance through a pipe to Pingora, and Pingora calls the API's handler.
//!
//! **Trap: Pingora 0.9 closes a WebSocket after the 101 if the app speaks first (issue 946).** So handshakes go to
//! hyper, also on a connection on which Pingora has served requests.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pingora_core::protocols::{ALPN, Stream};
use tokio::io::AsyncWriteExt as _;

use super::http1_guard::{ClientTimeouts, GuardedConnection, HeadInfo, NextHead, Refusal};
use super::hyper_engine::HyperEngine;
use super::pingora_engine::PingoraEngine;
use super::shutdown::StopSignal;
use super::wire_format::encode_response;
use crate::api::{Api, REFUSED_PATH};
use crate::proxy::Proxy;
use crate::request::Destination;

/// Both engines, and the choice between them.
pub(super) struct Dispatcher {
    api: Arc<Api>,
    proxy: Proxy,
    hyper: Arc<HyperEngine>,
    pingora: Arc<PingoraEngine>,
    timeouts: ClientTimeouts,
    stop: StopSignal,
}

impl Dispatcher {
    /// Sets both engines up. `read_timeout` bounds how long a client may take to send the body of a request for the
    /// API.
    pub(super) fn new(
        api: Arc<Api>,
        proxy: Proxy,
        timeouts: ClientTimeouts,
        read_timeout: Duration,
        stop: StopSignal,
    ) -> Arc<Self> {
        let pingora = Arc::new(PingoraEngine::new(proxy.clone(), timeouts, stop.clone()));
        let hyper = HyperEngine::new(api.clone(), proxy.clone(), pingora.clone(), read_timeout, stop.clone());
        Arc::new(Self { api, proxy, hyper: Arc::new(hyper), pingora, timeouts, stop })
    }

    /// Announces the shutdown to Pingora, so that each last response says that its connection closes.
    pub(super) async fn close(&self) {
        self.pingora.close().await;
    }

    /// Serves one connection to its end. TLS, if any, is terminated before.
    pub(super) async fn serve(self: Arc<Self>, stream: Stream) {
        if stream.selected_alpn_proto() == Some(ALPN::H2) {
            self.pingora.serve_http2(stream).await;
            return;
        }
        let is_encrypted = stream.get_ssl_digest().is_some();
        let mut stream = GuardedConnection::new(stream, self.timeouts);
        match self.next_head(&mut stream).await {
            NextHead::Head(head) if self.begins_with_hyper(&head) => self.hyper.serve(stream).await,
            NextHead::Head(_) => self.serve_with_pingora(stream).await,
            // Over TLS, HTTP/2 is agreed on by ALPN or not spoken.
            NextHead::Http2 if !is_encrypted => self.pingora.serve_http2(Box::new(stream)).await,
            NextHead::Refused(refusal) => self.refuse(stream, &refusal).await,
            NextHead::Http2 | NextHead::Closed => stream.close().await,
        }
    }

    /// Chooses the first engine. It is a hint: the result of a request does not depend on the engine that begins.
    fn begins_with_hyper(&self, info: &HeadInfo) -> bool {
        needs_hyper(info)
            || info.host.is_empty()
            || self.proxy.hosts().destination_of(&info.host) == Destination::Api
    }

    /// Serves one request after another. Between two of them the guard waits for the next head: one that only hyper can
    /// serve moves the connection to hyper for good, and a refused head ends it.
    async fn serve_with_pingora(&self, mut stream: GuardedConnection) {
        loop {
            let Some(kept) = self.pingora.serve_exchange(stream).await else { return };
            stream = kept;
            match self.next_head(&mut stream).await {
                NextHead::Head(info) if needs_hyper(&info) => {
                    return self.hyper.serve(stream).await;
                }
                NextHead::Head(_) => {}
                NextHead::Refused(refusal) => return self.refuse(stream, &refusal).await,
                NextHead::Http2 | NextHead::Closed => return stream.close().await,
            }
        }
    }

    /// Waits for the next head, or until the server shuts down.
    async fn next_head(&self, stream: &mut GuardedConnection) -> NextHead {
        let mut stop = self.stop.clone();
        tokio::select! {
            biased;
            next = stream.next_head() => next,
            () = stop.requested() => NextHead::Closed,
        }
    }

    /// Answers a head that no engine may see, with the text of the API's error handler.
    async fn refuse(&self, mut stream: GuardedConnection, refusal: &Refusal) {
        let peer = stream.peer_ip();
        let target = format!("{REFUSED_PATH}{}", refusal.status());
        let Ok(request) = http::Request::get(target).body(()) else { return };
        let response = self.api.handle(&request.into_parts().0, Ok(Bytes::new()), peer, false).await;
        let bytes = encode_response(response);
        if stream.write_all(&bytes).await.is_ok() && stream.flush().await.is_ok() {
            stream.linger().await;
        }
    }
}

/// Whether Pingora cannot serve a request: the handshake of a WebSocket, or one whose host is in its target, from where
/// `PingoraPipe` moves it.
fn needs_hyper(info: &HeadInfo) -> bool {
    info.head.is_websocket_upgrade || info.head.needs_host_of_target
}
