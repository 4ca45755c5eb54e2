//! The connection to another server.

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
use crate::cluster::{CONNECT_TIMEOUT, KEEPALIVE, KEEPALIVE_PROBES, PeerTls, connect};
use crate::request::authority;

/// Longest time until a connection stands, with the handshake of TLS.
const SECURE_TIMEOUT: Duration = Duration::from_secs(3);
/// How Pingora reaches the server that runs the app of a route. Each instance has connections of its own there too, so
/// that no byte on one can ever belong to the visitor of another.
pub(super) fn peer(
    address: SocketAddr,
    door: Option<TlsConnector>,
    route: &Route,
    silence: Option<Duration>,
    write_timeout: Duration,
) -> HttpPeer {
    let mut peer = HttpPeer::new(address, false, String::new());
    app_peer::common(&mut peer, route, silence, write_timeout);
    peer.options.connection_timeout = Some(CONNECT_TIMEOUT);
    peer.options.total_connection_timeout =
        Some(if door.is_some() { SECURE_TIMEOUT } else { CONNECT_TIMEOUT });
    peer.options.tcp_keepalive = Some(TcpKeepalive {
        idle: KEEPALIVE,
        interval: KEEPALIVE,
        count: KEEPALIVE_PROBES as usize,
        user_timeout: KEEPALIVE * (KEEPALIVE_PROBES + 1),
    });
    if let Some(door) = door {
        peer.options.custom_l4 = Some(Arc::new(door));
    }
    peer
}

/// The way through TLS, which Pingora is built without. It keeps none of these connections, since it knows a kept one by
/// its descriptor, and these have none: the price is a handshake a request, a resumed one.
pub(super) struct TlsConnector {
    secure: PeerTls,
    host: String,
}

impl TlsConnector {
    /// For a request with this head.
    pub(super) fn new(secure: PeerTls, head: &http::request::Parts) -> Self {
        Self { secure, host: authority(&head.uri, &head.headers).unwrap_or_default().to_owned() }
    }
}

impl fmt::Debug for TlsConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Door").field(&self.host).finish()
    }
}

#[async_trait]
impl Connect for TlsConnector {
    async fn connect(&self, address: &PeerAddress) -> Result<Stream> {
        let failed = |error| Error::because(ErrorType::ConnectError, "connect to a server", error).into_up();
        let address = *address.as_inet().ok_or_else(|| Error::new_up(ErrorType::ConnectError))?;
        let stream = connect(address).await.map_err(failed)?;
        let stream = self.secure.handshake(stream, &self.host).await.inspect_err(|error| {
            tracing::warn!(%address, %error, "no TLS with another server");
        });
        Ok(VirtualSocketStream::new(Box::new(Encrypted(stream.map_err(failed)?))).into())
    }
}

#[derive(Debug)]
struct Encrypted(TlsStream<TcpStream>);

impl VirtualSocket for Encrypted {
    /// All that is to be set was set when it was made.
    fn set_socket_option(&self, _: VirtualSockOpt) -> io::Result<()> {
        Ok(())
    }
}

impl AsyncRead for Encrypted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Encrypted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
