//! The other traits that Pingora requires of a connection, delegated to the connection inside the guard.

use std::fmt;
use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::tls::SslDigest;
use pingora_core::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest,
    UniqueID, UniqueIDType,
};

use super::connection::GuardedConnection;
use super::read_state::ReadState;

impl fmt::Debug for GuardedConnection {
    /// Leaves out the buffered bytes: they hold secrets, and Pingora prints its streams.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuardedConnection")
            .field("inner", &self.inner)
            .field("state", &self.state)
            .field("buffered", &self.reader.buf.len())
            .field("eof", &self.reader.is_eof)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Shutdown for GuardedConnection {
    async fn shutdown(&mut self) {
        // Named in full: the method of that name on `AsyncWriteExt` leaves out what the stream adds.
        Shutdown::shutdown(&mut *self.inner).await;
    }
}

impl UniqueID for GuardedConnection {
    fn id(&self) -> UniqueIDType {
        self.inner.id()
    }
}

impl Ssl for GuardedConnection {
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.inner.get_ssl_digest()
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.inner.selected_alpn_proto()
    }
}

impl GetTimingDigest for GuardedConnection {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.inner.get_timing_digest()
    }

    fn get_read_pending_time(&self) -> std::time::Duration {
        self.inner.get_read_pending_time()
    }

    fn get_write_pending_time(&self) -> std::time::Duration {
        self.inner.get_write_pending_time()
    }
}

impl GetProxyDigest for GuardedConnection {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.inner.get_proxy_digest()
    }

    fn set_proxy_digest(&mut self, digest: ProxyDigest) {
        self.inner.set_proxy_digest(digest);
    }
}

impl GetSocketDigest for GuardedConnection {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.inner.get_socket_digest()
    }

    fn set_socket_digest(&mut self, digest: SocketDigest) {
        self.inner.set_socket_digest(digest);
    }
}

#[async_trait]
impl Peek for GuardedConnection {
    /// Fills `out` with the first unread bytes of a tunnel, and waits until there are enough. Guarded bytes are not
    /// shown: `out` is filled with zeros, which are no preface of HTTP/2, so that the caller concludes HTTP/1.
    async fn try_peek(&mut self, out: &mut [u8]) -> io::Result<bool> {
        if !matches!(self.state, ReadState::Tunnel) {
            out.fill(0);
            return Ok(true);
        }
        while self.reader.buf.len() < out.len() {
            let room = out.len() - self.reader.buf.len();
            let (reader, inner) = (&mut self.reader, &mut self.inner);
            if std::future::poll_fn(|cx| reader.poll_fill(inner, cx, room)).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        out.copy_from_slice(&self.reader.buf[..out.len()]);
        Ok(true)
    }
}
