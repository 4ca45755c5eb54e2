//! Carries an instance's request from a connection that hyper serves to Pingora.
//!
//! Such a connection began with a request for the API. If a load balancer mixes hosts on it, the request for an
//! instance goes, parsed and written anew, through memory to Pingora. Pingora sees the addresses of the real client.
//!
//! **Trap: while h2c is on, Pingora takes a connection without a usable `Peek` for HTTP/2.** So a pipe is given to
//! Pingora as a session, never as a connection.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use async_trait::async_trait;
use http::{HeaderValue, Request, Response, Version, header};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::tls::SslDigest;
use pingora_core::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest,
    UniqueID, UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};

use super::pingora_engine::PingoraEngine;
use crate::telemetry::task;

/// Bytes that the pipe buffers in each direction.
const PIPE_CAPACITY: usize = 64 * 1024;

/// The pipe of one connection to Pingora, created by the first request that needs it and then reused.
pub(super) struct PingoraPipe {
    pingora: Arc<PingoraEngine>,
    socket: Option<Arc<SocketDigest>>,
    ssl: Option<Arc<SslDigest>>,
    idle: Mutex<Option<SendRequest<Incoming>>>,
}

impl PingoraPipe {
    /// Prepares a pipe for the connection with this socket and TLS session.
    pub(super) fn new(
        pingora: Arc<PingoraEngine>,
        socket: Option<Arc<SocketDigest>>,
        ssl: Option<Arc<SslDigest>>,
    ) -> Self {
        Self { pingora, socket, ssl, idle: Mutex::new(None) }
    }

    /// Sends a request to Pingora and returns its response.
    ///
    /// # Errors
    /// The exchange ended before Pingora responded.
    pub(super) async fn send(&self, mut request: Request<Incoming>) -> hyper::Result<Response<Incoming>> {
        if request.version() == Version::HTTP_10 {
            // The `Expect` of such a client is ignored (RFC 9110, section 10.1.1).
            request.headers_mut().remove(header::EXPECT);
        }
        *request.version_mut() = Version::HTTP_11;
        name_host_once(&mut request);
        let mut idle = self.idle.lock().take();
        let is_ready = match &mut idle {
            Some(sender) => sender.ready().await.is_ok(),
            None => false,
        };
        let mut sender = match idle {
            Some(sender) if is_ready => sender,
            _ => self.open().await?,
        };
        let response = sender.send_request(request).await;
        *self.idle.lock() = Some(sender);
        let mut response = response?;
        if response.headers().get(header::CONNECTION).is_some_and(|value| value == "keep-alive") {
            // It concerns the pipe. Hyper says what holds for the client's connection.
            response.headers_mut().remove(header::CONNECTION);
        }
        Ok(response)
    }

    async fn open(&self) -> hyper::Result<SendRequest<Incoming>> {
        let (hyper_end, pingora_end) = tokio::io::duplex(PIPE_CAPACITY);
        let end = PipeEnd { inner: pingora_end, socket: self.socket.clone(), ssl: self.ssl.clone() };
        let pingora = self.pingora.clone();
        task::spawn("pipe to pingora", async move {
            // As a session, not as a connection, which Pingora would take for HTTP/2.
            pingora.serve_pipe(ServerSession::new_http1(Box::new(end))).await;
        });
        let (mut sender, connection) = http1::handshake(TokioIo::new(hyper_end)).await?;
        task::spawn("pipe from hyper", async move {
            // The request that is sent on this connection returns the same error.
            let _ = connection.await;
        });
        sender.ready().await?;
        Ok(sender)
    }
}

/// Pingora's end of the pipe. It reports the addresses and the TLS session of the client's connection.
#[derive(Debug)]
struct PipeEnd {
    inner: DuplexStream,
    socket: Option<Arc<SocketDigest>>,
    ssl: Option<Arc<SslDigest>>,
}

impl AsyncRead for PipeEnd {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for PipeEnd {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// Moves the authority of the target to `Host`. Pingora refuses a request whose `Host` is another spelling of it.
fn name_host_once(request: &mut Request<Incoming>) {
    let uri = request.uri();
    let host = uri.authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
    let (Some(host), Some(target)) = (host, uri.path_and_query().cloned()) else { return };
    *request.uri_mut() = target.into();
    request.headers_mut().insert(header::HOST, host);
}

#[async_trait]
impl Shutdown for PipeEnd {
    async fn shutdown(&mut self) {
        // The other end is in this process, and notices the end of the pipe without a message.
        let _ = tokio::io::AsyncWriteExt::shutdown(&mut self.inner).await;
    }
}

impl UniqueID for PipeEnd {
    fn id(&self) -> UniqueIDType {
        // No connection has this id, and the ids of downstream connections are never compared.
        -1
    }
}

impl Ssl for PipeEnd {
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.ssl.clone()
    }
}

impl GetTimingDigest for PipeEnd {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for PipeEnd {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl GetSocketDigest for PipeEnd {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.socket.clone()
    }
}

impl Peek for PipeEnd {}
