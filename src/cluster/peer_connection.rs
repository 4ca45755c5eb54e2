//! A connection to another server, in the clear.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

/// Longest time until a connection stands. The server is near, and what takes longer is one that is gone.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How often the system asks on a silent connection whether the other end is still there. A machine that is gone says
/// nothing, and a stream of events may be silent for as long as it likes.
pub const KEEPALIVE: Duration = Duration::from_secs(5);
/// How often it asks before it gives up.
pub const KEEPALIVE_PROBES: u32 = 3;

/// Connects to another server.
///
/// # Errors
/// Nobody answers there, or not in time.
pub async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    use rustix::net::sockopt;
    let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await??;
    // What fails here costs speed, or makes a dead connection last longer.
    let _ = stream.set_nodelay(true);
    let _ = sockopt::set_tcp_keepidle(&stream, KEEPALIVE);
    let _ = sockopt::set_tcp_keepintvl(&stream, KEEPALIVE);
    let _ = sockopt::set_tcp_keepcnt(&stream, KEEPALIVE_PROBES);
    let _ = sockopt::set_tcp_user_timeout(&stream, KEEPALIVE.as_millis() as u32 * (KEEPALIVE_PROBES + 1));
    let _ = sockopt::set_socket_keepalive(&stream, true);
    Ok(stream)
}
