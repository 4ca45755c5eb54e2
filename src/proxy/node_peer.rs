//! The upstream connection to the node that runs an instance's app.
//!
//! Pingora keeps a connection only if it has a file descriptor. A TLS connection made here has none, so it is never
//! kept: each request over TLS to another node costs a handshake, which resumes a session.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use pingora_core::connectors::l4::Connect;
use pingora_core::protocols::TcpKeepalive;
use pingora_core::protocols::l4::socket::SocketAddr as PeerAddress;
use pingora_core::protocols::l4::stream::Stream;
use pingora_core::protocols::l4::virt::{VirtualSockOpt, VirtualSocket, VirtualSocketStream};
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, ErrorType, Result};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::app_peer;
use super::routes::Route;
use super::silence::SilenceWatch;
use crate::cluster::{CONNECT_TIMEOUT, KEEPALIVE_INTERVAL, KEEPALIVE_PROBES, PeerTls, connect};
use crate::request::authority;

/// Longest time to establish a connection with its TLS handshake.
const TLS_CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Returns how Pingora reaches the node that runs the app of a route. Each instance has connections of its own to that
/// node too, so that no byte on a connection can belong to the visitor of another instance. `read_timeout` is how long
/// the node may be silent.
pub(super) fn peer(
    address: SocketAddr,
    tls: Option<NodeTlsConnector>,
    route: &Route,
    read_timeout: Option<Duration>,
    write_timeout: Duration,
) -> HttpPeer {
    let mut peer = HttpPeer::new(address, false, String::new());
    app_peer::set_common_options(&mut peer, route, read_timeout, write_timeout);
    peer.options.connection_timeout = Some(CONNECT_TIMEOUT);
    peer.options.total_connection_timeout =
        Some(if tls.is_some() { TLS_CONNECT_TIMEOUT } else { CONNECT_TIMEOUT });
    peer.options.tcp_keepalive = Some(TcpKeepalive {
        idle: KEEPALIVE_INTERVAL,
        interval: KEEPALIVE_INTERVAL,
        count: KEEPALIVE_PROBES as usize,
        user_timeout: KEEPALIVE_INTERVAL * (KEEPALIVE_PROBES + 1),
    });
    if let Some(tls) = tls {
        peer.options.custom_l4 = Some(Arc::new(tls));
    }
    peer
}

/// Connects to another node through TLS, which Pingora is built without.
pub(super) struct NodeTlsConnector {
    tls: PeerTls,
    /// Ends the connection if the node is silent.
    watch: Option<Arc<SilenceWatch>>,
    /// The host of the request, for which the node's certificate must be valid.
    host: String,
}

impl NodeTlsConnector {
    /// Creates a connector for a request with this head.
    pub(super) fn new(tls: PeerTls, head: &http::request::Parts, watch: Option<Arc<SilenceWatch>>) -> Self {
        Self { tls, watch, host: authority(&head.uri, &head.headers).unwrap_or_default().to_owned() }
    }
}

impl fmt::Debug for NodeTlsConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("NodeTlsConnector").field(&self.host).finish()
    }
}

#[async_trait]
impl Connect for NodeTlsConnector {
    async fn connect(&self, address: &PeerAddress) -> Result<Stream> {
        let failed =
            |error| Error::because(ErrorType::ConnectError, "cannot connect to node", error).into_up();
        let address = *address.as_inet().ok_or_else(|| Error::new_up(ErrorType::ConnectError))?;
        let stream = connect(address).await.map_err(failed)?;
        let stream = self.tls.handshake(stream, &self.host).await.inspect_err(|error| {
            tracing::warn!(%address, %error, "TLS handshake with node failed");
        });
        Ok(VirtualSocketStream::new(Box::new(TlsSocket {
            stream: stream.map_err(failed)?,
            watch: self.watch.clone(),
        }))
        .into())
    }
}

/// A TLS connection as Pingora sees it.
#[derive(Debug)]
struct TlsSocket {
    stream: TlsStream<TcpStream>,
    watch: Option<Arc<SilenceWatch>>,
}

impl VirtualSocket for TlsSocket {
    /// Does nothing: [`connect`] has set all options.
    fn set_socket_option(&self, _: VirtualSockOpt) -> io::Result<()> {
        Ok(())
    }
}

impl AsyncRead for TlsSocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        let Some(watch) = &self.watch else { return read };
        watch.set_read_pending(read.is_pending());
        if read.is_pending() && watch.is_expired() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        read
    }
}

impl AsyncWrite for TlsSocket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
