//! Pingora as an engine: forwards the requests of instances, over HTTP/1 one at a time, over HTTP/2 as a whole.

use std::sync::Arc;

use async_trait::async_trait;
use pingora_core::apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream, ServerApp};
use pingora_core::protocols::Stream;
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::http::v2::server::{H2Options, default_h2_options};
use pingora_core::server::ShutdownWatch;
use pingora_core::server::configuration::ServerConf;
use pingora_proxy::{HttpProxy, http_proxy};

use super::http1_guard::{ClientTimeouts, GuardedConnection, MAX_HEAD_BYTES};
use super::shutdown::StopSignal;
use crate::proxy::{Proxy, watched};

/// Most streams at a time on one HTTP/2 connection: as many as RFC 9113, section 6.5.2, recommends at least.
const MAX_CONCURRENT_STREAMS: u32 = 100;

/// Most bytes of a response that one HTTP/2 stream holds while its client does not read, beyond what its window allows.
const MAX_SEND_BUFFER: usize = 64 * 1024;

/// How often a request is sent again if an idle connection to the app turns out to be closed.
const MAX_RETRIES: usize = 2;

/// Pingora's proxy, each of whose exchanges is watched. It is for connections whose exchanges Pingora begins by itself.
struct WatchedProxy(Arc<HttpProxy<Proxy>>);

#[async_trait]
impl HttpServerApp for WatchedProxy {
    async fn process_new_http(
        self: &Arc<Self>,
        session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        watched(self.0.process_new_http(session, shutdown)).await
    }

    fn h2_options(&self) -> Option<H2Options> {
        self.0.h2_options()
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        self.0.server_options()
    }

    async fn http_cleanup(&self) {
        self.0.http_cleanup().await;
    }
}

/// Pingora's proxy with its settings.
pub(super) struct PingoraEngine {
    proxy: Arc<WatchedProxy>,
    timeouts: ClientTimeouts,
    stop: StopSignal,
}

impl PingoraEngine {
    /// Sets up Pingora in front of `proxy`.
    pub(super) fn new(proxy: Proxy, timeouts: ClientTimeouts, stop: StopSignal) -> Self {
        let conf = ServerConf {
            max_retries: MAX_RETRIES,
            upstream_keepalive_pool_size: proxy.max_idle_upstreams(),
            ..ServerConf::default()
        };
        let mut pingora = http_proxy(&Arc::new(conf), proxy);
        let mut options = HttpServerOptions::default();
        options.h2c = true;
        // Else Pingora answers CONNECT by itself. The proxy refuses it.
        options.allow_connect_method_proxying = true;
        options.h2_idle_timeout = Some(timeouts.idle);
        pingora.server_options = Some(options);
        let mut h2 = default_h2_options();
        h2.max_header_list_size(MAX_HEAD_BYTES as u32);
        h2.max_concurrent_streams(MAX_CONCURRENT_STREAMS);
        h2.max_send_buffer_size(MAX_SEND_BUFFER);
        pingora.h2_options = Some(h2);
        Self { proxy: Arc::new(WatchedProxy(Arc::new(pingora))), timeouts, stop }
    }

    /// Announces the shutdown to Pingora, so that each last response says that its connection closes.
    pub(super) async fn close(&self) {
        self.proxy.http_cleanup().await;
    }

    /// Serves an HTTP/2 connection to its end.
    pub(super) async fn serve_http2(&self, stream: Stream) {
        self.proxy.process_new(stream, self.stop.http2_receiver()).await;
    }

    /// Serves one HTTP/1 exchange, whose head is buffered in the guard. Returns the connection if it stays open.
    pub(super) async fn serve_exchange(&self, stream: GuardedConnection) -> Option<GuardedConnection> {
        let mut session = ServerSession::new_http1(Box::new(stream));
        session.set_keepalive(Some(self.timeouts.idle.as_secs()));
        let exchange = self.proxy.0.process_new_http(session, self.stop.receiver());
        let reused = watched(exchange).await?;
        let (stream, _) = reused.consume();
        stream.into_any().downcast::<GuardedConnection>().ok().map(|guard| *guard)
    }
}
