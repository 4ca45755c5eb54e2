//! A TLS connection with the traits that Pingora requires of a connection.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::tls::SslDigest;
use pingora_core::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, Stream,
    TimingDigest, UniqueID, UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;
use tokio_rustls::server::TlsStream;

/// Length of the text with which each connection of HTTP/2 begins.
const PREFACE_BYTES: usize = 24;

/// An encrypted connection, which Pingora takes for any other.
#[derive(Debug)]
pub(super) struct TlsConnection {
    inner: TlsStream<Stream>,
    alpn: Option<ALPN>,
    digest: Arc<SslDigest>,
    /// Until the preface of HTTP/2 is read.
    preface: Option<PrefaceWait>,
}

/// The wait for the preface of HTTP/2, to which Pingora sets no deadline.
#[derive(Debug)]
struct PrefaceWait {
    missing_bytes: usize,
    deadline: Pin<Box<Sleep>>,
}

impl TlsConnection {
    /// Wraps a connection whose handshake is complete. If it agreed on HTTP/2, its preface must arrive within
    /// `preface_timeout`; then a read fails.
    pub(super) fn new(inner: TlsStream<Stream>, preface_timeout: Duration) -> Self {
        let session = inner.get_ref().1;
        let alpn = match session.alpn_protocol() {
            Some(b"h2") => Some(ALPN::H2),
            Some(b"http/1.1") => Some(ALPN::H1),
            _ => None,
        };
        let version = session.protocol_version().map(|v| format!("{v:?}")).unwrap_or_default();
        let cipher =
            session.negotiated_cipher_suite().map(|c| format!("{:?}", c.suite())).unwrap_or_default();
        let digest = Arc::new(SslDigest::new(cipher, version, None, None, vec![]));
        let preface = (alpn == Some(ALPN::H2)).then(|| PrefaceWait {
            missing_bytes: PREFACE_BYTES,
            deadline: Box::pin(tokio::time::sleep(preface_timeout)),
        });
        Self { inner, alpn, digest, preface }
    }
}

impl AsyncRead for TlsConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(cx, buf);
        if let Some(wait) = &mut self.preface {
            wait.missing_bytes = wait.missing_bytes.saturating_sub(buf.filled().len() - before);
            if wait.missing_bytes == 0 {
                self.preface = None;
            } else if read.is_pending() && wait.deadline.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
        read
    }
}

impl AsyncWrite for TlsConnection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[async_trait]
impl Shutdown for TlsConnection {
    async fn shutdown(&mut self) {
        // An error means that the client left, and then it needs no closing alert.
        let _ = tokio::io::AsyncWriteExt::shutdown(&mut self.inner).await;
    }
}

impl UniqueID for TlsConnection {
    fn id(&self) -> UniqueIDType {
        self.inner.get_ref().0.id()
    }
}

impl Ssl for TlsConnection {
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        Some(self.digest.clone())
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.alpn.clone()
    }
}

impl GetTimingDigest for TlsConnection {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.inner.get_ref().0.get_timing_digest()
    }
}

impl GetProxyDigest for TlsConnection {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl GetSocketDigest for TlsConnection {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.inner.get_ref().0.get_socket_digest()
    }
}

impl Peek for TlsConnection {}
