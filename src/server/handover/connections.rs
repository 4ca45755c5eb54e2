//! Open connections pass to the new process unless an engine has begun a message on them, so that no client sends a
//! request on a connection that is being closed.
//!
//! They pass from the moment at which the old process stops accepting, and for as long as it carries what was begun: a
//! connection passes when its exchange is over. One with a request for the API, or with the first bytes of HTTP/2, waits
//! for that moment from the beginning of the handover. All wait in the old process until the new one serves. What a
//! client sends meanwhile stays in the socket; what was read of its next message passes with the connection. Connections
//! with TLS have state in this process, and are closed as at a shutdown.
//!
//! A connection is sent as the length of those bytes in four bytes of little endian, which the descriptor comes with, and
//! the bytes.

use std::io;
use std::net::TcpStream as StdTcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::descriptor_message;
use crate::server::client_socket::ClientSocket;
use crate::server::http1_guard::{GuardedConnection, MAX_HEAD_BYTES};

/// Longest time until the new process takes one connection.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);

/// Most bytes that come with a connection: a head, and as many bytes that were read beyond it.
const MAX_UNREAD: usize = 2 * MAX_HEAD_BYTES;

/// Whether connections pass to another process, and the way there.
#[derive(Debug, Clone)]
pub(in crate::server) struct Passing {
    begun_for_api: CancellationToken,
    begun: CancellationToken,
    passed: mpsc::UnboundedSender<ClientSocket>,
}

/// The connections that wait for the new process.
#[derive(Debug)]
pub(in crate::server) struct PassedConnections {
    /// Whether connections can pass: they have no TLS.
    can_pass: bool,
    passing: Passing,
    waiting: mpsc::UnboundedReceiver<ClientSocket>,
}

impl Passing {
    /// Waits until connections pass.
    pub(in crate::server) async fn begun(&self) {
        self.begun.cancelled().await;
    }

    /// Whether connections pass.
    pub(in crate::server) fn has_begun(&self) -> bool {
        self.begun.is_cancelled()
    }

    /// Waits until connections that have a request for the API wait to pass.
    pub(in crate::server) async fn begun_for_api(&self) {
        self.begun_for_api.cancelled().await;
    }

    /// Whether connections that have a request for the API, or the first bytes of HTTP/2, wait to pass.
    pub(in crate::server) fn has_begun_for_api(&self) -> bool {
        self.begun_for_api.is_cancelled()
    }

    /// Passes a connection as soon as connections pass, if it can in this handover. Otherwise returns it, and the caller
    /// closes it.
    pub(in crate::server) async fn pass(&self, mut stream: GuardedConnection) -> Option<GuardedConnection> {
        let can_pass = self.has_begun_for_api() && stream.is_untouched() && stream.is::<ClientSocket>();
        if !can_pass {
            return Some(stream);
        }
        stream.settle_delivery().await;
        // The caller counts it among the open connections meanwhile, so no more of them wait than may be open.
        self.begun().await;
        let (unread, socket) = stream.into_parts();
        if let Ok(socket) = socket.into_any().downcast::<ClientSocket>() {
            // Without a receiver it is closed.
            let _ = self.passed.send(socket.with_unread(unread));
        }
        None
    }
}

impl PassedConnections {
    /// Makes the way to a process that may take the place of this one. With TLS connections cannot pass.
    pub(in crate::server) fn new(can_pass: bool) -> Self {
        let (passed, waiting) = mpsc::unbounded_channel();
        let (begun_for_api, begun) = (CancellationToken::new(), CancellationToken::new());
        Self { can_pass, passing: Passing { begun_for_api, begun, passed }, waiting }
    }

    /// Whether connections can pass.
    pub(in crate::server) fn can_pass(&self) -> bool {
        self.can_pass
    }

    /// Returns what passes a connection.
    pub(in crate::server) fn passing(&self) -> Passing {
        self.passing.clone()
    }

    /// From now on connections that have a request for the API, or the first bytes of HTTP/2, wait to pass.
    pub(in crate::server) fn begin_for_api(&self) {
        self.passing.begun_for_api.cancel();
    }

    /// From now on connections pass.
    pub(in crate::server) fn begin(&self) {
        self.begin_for_api();
        self.passing.begun.cancel();
    }

    /// Sends the connections to the new process, those that wait and those that come before `end`.
    ///
    /// # Errors
    /// The socket cannot be used. A connection that the new process does not take is closed, and logged.
    pub(in crate::server) async fn send_until(
        mut self,
        socket: StdUnixStream,
        end: impl Future<Output = ()>,
    ) -> io::Result<()> {
        let mut socket = into_async(socket)?;
        let (mut end, mut is_over) = (pin!(end), false);
        loop {
            let next = tokio::select! {
                biased;
                next = self.waiting.recv() => next,
                () = &mut end, if !is_over => {
                    is_over = true;
                    // What was passed before is still received.
                    self.waiting.close();
                    continue;
                }
            };
            let Some(connection) = next else { return Ok(()) };
            let sending = tokio::time::timeout(SEND_TIMEOUT, send(&mut socket, connection)).await;
            if let Err(error) = sending.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                tracing::warn!(%error, "failed to pass connections to the other server; they are closed");
                // The other process may have a part of a message, so nothing can follow it.
                drop(socket);
                end.await;
                return Ok(());
            }
        }
    }
}

async fn send(socket: &mut UnixStream, connection: ClientSocket) -> io::Result<()> {
    let (descriptor, unread) = connection.into_parts()?;
    let length = (unread.len() as u32).to_le_bytes();
    socket.async_io(Interest::WRITABLE, || descriptor_message::send(socket, &length, &descriptor)).await?;
    socket.write_all(&unread).await
}

/// Receives connections from the old process until that ends, and gives them to `connections`.
///
/// # Errors
/// The socket cannot be used, or the old process sent something else.
pub(in crate::server) async fn receive(
    socket: StdUnixStream,
    connections: mpsc::UnboundedSender<ClientSocket>,
) -> io::Result<()> {
    let mut socket = into_async(socket)?;
    loop {
        let mut length = [0; size_of::<u32>()];
        let receive = || descriptor_message::receive(&socket, &mut length);
        let (received, descriptor) = socket.async_io(Interest::READABLE, receive).await?;
        if received == 0 {
            return Ok(());
        }
        let unread = u32::from_le_bytes(length) as usize;
        let (true, Some(descriptor), true) = (received == length.len(), descriptor, unread <= MAX_UNREAD)
        else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "no connection, but something else"));
        };
        let mut bytes = vec![0; unread];
        socket.read_exact(&mut bytes).await?;
        if let Ok(stream) = into_connection(descriptor)
            && connections.send(ClientSocket::new(stream).with_unread(Bytes::from(bytes))).is_err()
        {
            return Ok(());
        }
    }
}

fn into_connection(descriptor: OwnedFd) -> io::Result<TcpStream> {
    let stream = StdTcpStream::from(descriptor);
    stream.set_nonblocking(true)?;
    TcpStream::from_std(stream)
}

fn into_async(socket: StdUnixStream) -> io::Result<UnixStream> {
    socket.set_nonblocking(true)?;
    UnixStream::from_std(socket)
}
