//! The way from hyper's side to Pingora's: an instance's request that comes on a connection that hyper holds.
//!
//! Such a connection began with a request for the API. Where a load balancer mixes hosts on it, the foreign
//! request goes, parsed and written anew, through memory to Pingora, which sees the real client's addresses.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use async_trait::async_trait;
use http::{Request, Response, Version};
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

use super::dispatch::Dispatch;

/// Bytes that may be on their way in each direction.
const CAPACITY: usize = 64 * 1024;

/// One connection's way to Pingora, made when first needed.
pub(super) struct Pipe {
    dispatch: Arc<Dispatch>,
    socket: Option<Arc<SocketDigest>>,
    ssl: Option<Arc<SslDigest>>,
    idle: Mutex<Option<SendRequest<Incoming>>>,
}

impl Pipe {
    pub(super) fn new(
        dispatch: Arc<Dispatch>,
        socket: Option<Arc<SocketDigest>>,
        ssl: Option<Arc<SslDigest>>,
    ) -> Self {
        Self { dispatch, socket, ssl, idle: Mutex::new(None) }
    }

    /// Lets Pingora answer. An error means that the exchange was broken off on the way.
    pub(super) async fn send(&self, mut request: Request<Incoming>) -> hyper::Result<Response<Incoming>> {
        *request.version_mut() = Version::HTTP_11;
        let mut kept = self.idle.lock().take();
        let is_ready = match &mut kept {
            Some(sender) => sender.ready().await.is_ok(),
            None => false,
        };
        let mut sender = match kept {
            Some(sender) if is_ready => sender,
            _ => self.open().await?,
        };
        let answer = sender.send_request(request).await;
        *self.idle.lock() = Some(sender);
        answer
    }

    async fn open(&self) -> hyper::Result<SendRequest<Incoming>> {
        let (ours, theirs) = tokio::io::duplex(CAPACITY);
        let end = End { inner: theirs, socket: self.socket.clone(), ssl: self.ssl.clone() };
        let dispatch = self.dispatch.clone();
        crate::telemetry::task::spawn("pipe to pingora", async move {
            // Not as a whole connection: with HTTP/2 in the clear allowed, Pingora would take one without `Peek` for it.
            dispatch.serve_piped(ServerSession::new_http1(Box::new(end))).await;
        });
        let (mut sender, connection) = http1::handshake(TokioIo::new(ours)).await?;
        crate::telemetry::task::spawn("pipe from hyper", async move {
            // Its error is the error of the request that was on its way.
            let _ = connection.await;
        });
        sender.ready().await?;
        Ok(sender)
    }
}

/// Pingora's end of the pipe, with the addresses of the client's own connection.
#[derive(Debug)]
struct End {
    inner: DuplexStream,
    socket: Option<Arc<SocketDigest>>,
    ssl: Option<Arc<SslDigest>>,
}

impl AsyncRead for End {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for End {
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

#[async_trait]
impl Shutdown for End {
    async fn shutdown(&mut self) {
        // The other end is ours and needs no goodbye.
        let _ = tokio::io::AsyncWriteExt::shutdown(&mut self.inner).await;
    }
}

impl UniqueID for End {
    fn id(&self) -> UniqueIDType {
        // No connection to anywhere has this id, and downstream ids are never compared.
        -1
    }
}

impl Ssl for End {
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.ssl.clone()
    }
}

impl GetTimingDigest for End {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for End {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl GetSocketDigest for End {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.socket.clone()
    }
}

impl Peek for End {}
