//! Which engine answers on a connection.
//!
//! The first head decides: a request for the API (or a WebSocket's handshake) starts hyper, everything else
//! Pingora, and HTTP/2 is always Pingora's. That is only about speed. Each engine decides anew for each request, on
//! its own parse, with the same rule ([`Hosts::side`](crate::request::Hosts::side)): hyper passes a foreign request
//! through a pipe to Pingora, and Pingora runs the API's handler.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pingora_core::apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream, ServerApp};
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::http::v2::server::default_h2_options;
use pingora_core::protocols::{ALPN, GetSocketDigest as _, Stream};
use pingora_core::server::configuration::ServerConf;
use pingora_proxy::{HttpProxy, http_proxy};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::http1_guard::head::{MAX_HEAD, Refusal};
use super::http1_guard::{GuardedConnection, HeadInfo, Limits, Next};
use super::hyper_connection;
use crate::api::{Api, Body, REFUSED_PATH};
use crate::proxy::Proxy;
use crate::request::Destination;

/// Idle connections to apps that are kept, over all instances.
const UPSTREAM_POOL: usize = 4096;
/// How often a request is sent again when a kept connection turns out to be closed.
const RETRIES: usize = 2;

/// The server's wish to stop, as a connection sees it.
#[derive(Clone)]
pub struct Stop {
    stopping: watch::Receiver<bool>,
    cut: CancellationToken,
}

impl Stop {
    /// The first stage is `stopping` turning true: finish what is in flight. The second is `cut`.
    pub fn new(stopping: watch::Receiver<bool>, cut: CancellationToken) -> Self {
        Self { stopping, cut }
    }

    /// Done when no further request should be begun.
    pub async fn stopping(&mut self) {
        // Err: the sender is gone, and so is the server.
        let _ = self.stopping.wait_for(|stopping| *stopping).await;
    }

    /// Cancelled when tunnels must end.
    pub fn cut(&self) -> CancellationToken {
        self.cut.clone()
    }
}

/// Both engines, and the choice between them.
pub struct Dispatch {
    pub(super) api: Arc<Api>,
    pub(super) proxy: Proxy,
    pub(super) read_timeout: Duration,
    pingora: Arc<HttpProxy<Proxy>>,
    limits: Limits,
    stop: Stop,
}

impl Dispatch {
    /// Sets both engines up.
    pub fn new(api: Arc<Api>, proxy: Proxy, limits: Limits, read_timeout: Duration, stop: Stop) -> Arc<Self> {
        let conf = ServerConf {
            max_retries: RETRIES,
            upstream_keepalive_pool_size: UPSTREAM_POOL,
            ..ServerConf::default()
        };
        let mut pingora = http_proxy(&Arc::new(conf), proxy.clone());
        let mut options = HttpServerOptions::default();
        options.h2c = true;
        options.h2_idle_timeout = Some(limits.idle);
        pingora.server_options = Some(options);
        let mut h2 = default_h2_options();
        h2.max_header_list_size(MAX_HEAD as u32);
        pingora.h2_options = Some(h2);
        Arc::new(Self { api, proxy, read_timeout, pingora: Arc::new(pingora), limits, stop })
    }

    /// Tells Pingora that the server stops, so that each last answer says that its connection closes.
    pub async fn close(&self) {
        self.pingora.http_cleanup().await;
    }

    /// Serves one connection to its end. Its TLS, if any, is behind it.
    pub async fn serve(self: Arc<Self>, stream: Stream) {
        if stream.selected_alpn_proto() == Some(ALPN::H2) {
            self.pingora.process_new(stream, &self.stop.stopping).await;
            return;
        }
        let encrypted = stream.get_ssl_digest().is_some();
        let mut stream = GuardedConnection::new(stream, self.limits);
        match self.next_head(&mut stream).await {
            Next::Head(head) if self.begins_with_hyper(&head) => self.hyper(stream).await,
            Next::Head(_) => self.pingora(stream).await,
            // Over TLS, HTTP/2 is agreed on by ALPN or not spoken.
            Next::Http2 if !encrypted => {
                self.pingora.process_new(Box::new(stream), &self.stop.stopping).await;
            }
            Next::Refused(refusal) => self.refuse(stream, &refusal).await,
            Next::Http2 | Next::Closed => {}
        }
    }

    /// A hint only: what the engines do does not depend on who begins.
    fn begins_with_hyper(&self, info: &HeadInfo) -> bool {
        info.head.upgrade || self.proxy.hosts().side_of(&info.host) == Destination::Api
    }

    async fn hyper(self: &Arc<Self>, stream: GuardedConnection) {
        let peer = peer_of(&stream);
        hyper_connection::serve(self.clone(), stream, peer, self.stop.clone()).await;
    }

    /// One request after another. Between two of them the connection is ours: a WebSocket's handshake moves it to
    /// hyper for good, a refused head ends it.
    async fn pingora(self: &Arc<Self>, mut stream: GuardedConnection) {
        loop {
            let mut session = ServerSession::new_http1(Box::new(stream));
            session.set_keepalive(Some(self.limits.idle.as_secs()));
            let reused = self.pingora.process_new_http(session, &self.stop.stopping).await;
            let Some((kept, _)) = reused.map(ReusedHttpStream::consume) else { return };
            let Ok(guard) = kept.into_any().downcast::<GuardedConnection>() else { return };
            stream = *guard;
            match self.next_head(&mut stream).await {
                Next::Head(info) if info.head.upgrade => return self.hyper(stream).await,
                Next::Head(_) => {}
                Next::Refused(refusal) => return self.refuse(stream, &refusal).await,
                Next::Http2 | Next::Closed => return,
            }
        }
    }

    /// Serves what comes through a pipe, which carries requests that hyper has parsed.
    pub(super) async fn serve_piped(&self, mut session: ServerSession) {
        loop {
            session.set_keepalive(Some(self.limits.idle.as_secs()));
            let reused = self.pingora.process_new_http(session, &self.stop.stopping).await;
            let Some((kept, settings)) = reused.map(ReusedHttpStream::consume) else { return };
            session = ServerSession::new_http1(kept);
            if let Some(settings) = settings {
                settings.apply_to_session(&mut session);
            }
        }
    }

    /// The next head, or none when the server is to stop.
    async fn next_head(&self, stream: &mut GuardedConnection) -> Next {
        let mut stop = self.stop.clone();
        tokio::select! {
            biased;
            next = stream.next_head() => next,
            () = stop.stopping() => Next::Closed,
        }
    }

    /// Answers a head that no engine may see, as the API's error handler words it.
    async fn refuse(&self, mut stream: GuardedConnection, refusal: &Refusal) {
        let peer = peer_of(&stream);
        let target = format!("{REFUSED_PATH}{}", refusal.status());
        let Ok(request) = http::Request::get(target).body(()) else { return };
        let answer = self.api.handle(&request.into_parts().0, Ok(Bytes::new()), peer, false).await;
        let bytes = on_the_wire(answer);
        if stream.write_all(&bytes).await.is_ok() && stream.flush().await.is_ok() {
            stream.linger().await;
        }
    }
}

fn peer_of(stream: &GuardedConnection) -> IpAddr {
    stream
        .get_socket_digest()
        .and_then(|digest| digest.peer_addr().and_then(|address| address.as_inet().copied()))
        .map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |address| address.ip())
}

/// A whole answer as bytes, the last on its connection.
pub(super) fn on_the_wire(answer: http::Response<Body>) -> Vec<u8> {
    let (head, body) = answer.into_parts();
    let body = match body {
        // No answer that is sent so hands out an instance.
        Body::Full(bytes) | Body::Handing(bytes, _) => bytes.unwrap_or_default(),
        Body::Stream(_) => Bytes::new(),
    };
    let mut bytes = format!("HTTP/1.1 {}\r\n", head.status).into_bytes();
    for (name, value) in &head.headers {
        bytes.extend_from_slice(name.as_str().as_bytes());
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(format!("content-length: {}\r\n\r\n", body.len()).as_bytes());
    bytes.extend_from_slice(&body);
    bytes
}
