//! Unencrypted connections to a peer.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

/// Longest time to establish a connection. Peers are near: a peer that takes longer is gone.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Time between two TCP keepalive probes on an idle connection. A machine that is gone does not close its connections,
/// and a stream of events may be idle for any time.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// Unanswered keepalive probes after which the system closes a connection.
pub const KEEPALIVE_PROBES: u32 = 3;

/// Connects to a peer, with the keepalive of this module.
///
/// # Errors
/// The connection is refused, or takes longer than [`CONNECT_TIMEOUT`].
pub async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    use rustix::net::sockopt;
    let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await??;
    // Failures are ignored: they cost speed, or a dead connection lasts longer.
    let _ = stream.set_nodelay(true);
    let _ = sockopt::set_tcp_keepidle(&stream, KEEPALIVE_INTERVAL);
    let _ = sockopt::set_tcp_keepintvl(&stream, KEEPALIVE_INTERVAL);
    let _ = sockopt::set_tcp_keepcnt(&stream, KEEPALIVE_PROBES);
    let _ = sockopt::set_tcp_user_timeout(
        &stream,
        KEEPALIVE_INTERVAL.as_millis() as u32 * (KEEPALIVE_PROBES + 1),
    );
    let _ = sockopt::set_socket_keepalive(&stream, true);
    Ok(stream)
}
