//! A client's TCP connection with the traits that Pingora requires of a connection.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use async_trait::async_trait;
use bytes::Bytes;
use pingora_core::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest,
    UniqueID, UniqueIDType, raw_connect::ProxyDigest,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, Interest, ReadBuf};
use tokio::net::TcpStream;

/// A connection in the clear. Unlike one of Pingora's own type it can be taken apart ([`into_parts`](Self::into_parts)).
#[derive(Debug)]
pub(super) struct ClientSocket {
    inner: TcpStream,
    digest: Arc<SocketDigest>,
    /// What another process read of it. It is read first.
    unread: Bytes,
}

impl ClientSocket {
    /// Wraps a connection that a client has made.
    pub(super) fn new(inner: TcpStream) -> Self {
        let digest = SocketDigest::from_raw_fd(inner.as_raw_fd());
        // Read now: once the connection is closed the descriptor may belong to another socket.
        digest.peer_addr();
        Self { inner, digest: Arc::new(digest), unread: Bytes::new() }
    }

    /// Returns the connection with bytes that were read of it already, and are to be read again before all others.
    pub(super) fn with_unread(mut self, first: Bytes) -> Self {
        self.unread = match self.unread.is_empty() {
            true => first,
            false => [first, self.unread].concat().into(),
        };
        self
    }

    /// Returns the address of the client; `None` if it had left when the connection was wrapped.
    pub(super) fn peer(&self) -> Option<IpAddr> {
        Some(self.digest.peer_addr()?.as_inet()?.ip().to_canonical())
    }

    /// Takes the connection apart: returns its open descriptor, and what was read of it and is to be read again.
    ///
    /// # Errors
    /// The system refuses to stop watching it.
    pub(super) fn into_parts(self) -> io::Result<(OwnedFd, Bytes)> {
        Ok((self.inner.into_std()?.into(), self.unread))
    }

    /// Ready when the kernel takes more of a response at once.
    pub(super) fn poll_room(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            // This knows only what the last write found, which the kernel may have taken as the last one.
            ready!(self.inner.poll_write_ready(cx))?;
            let asked = self.inner.try_io(Interest::WRITABLE, || {
                match poll(&mut [PollFd::new(&self.inner, PollFlags::OUT)], Some(&Timespec::default()))? {
                    0 => Err(io::ErrorKind::WouldBlock.into()),
                    // Also if the connection is broken: the next write returns the error.
                    _ => Ok(()),
                }
            });
            match asked {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                outcome => return Poll::Ready(outcome),
            }
        }
    }
}

impl AsFd for ClientSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}

impl AsyncRead for ClientSocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.unread.is_empty() {
            return Pin::new(&mut self.inner).poll_read(cx, buf);
        }
        let taken = self.unread.len().min(buf.remaining());
        buf.put_slice(&self.unread.split_to(taken));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ClientSocket {
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
impl Shutdown for ClientSocket {
    async fn shutdown(&mut self) {
        // An error means that the client left.
        let _ = AsyncWriteExt::shutdown(&mut self.inner).await;
    }
}

impl UniqueID for ClientSocket {
    fn id(&self) -> UniqueIDType {
        self.inner.as_raw_fd()
    }
}

impl Ssl for ClientSocket {}

impl GetTimingDigest for ClientSocket {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for ClientSocket {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl GetSocketDigest for ClientSocket {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        Some(self.digest.clone())
    }
}

impl Peek for ClientSocket {}
