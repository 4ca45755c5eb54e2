//! New connections.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use pingora_core::protocols::l4::stream::Stream as L4Stream;
use pingora_core::protocols::{GetSocketDigest, SocketDigest, Stream};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use super::dispatch::{Dispatch, Stop, on_the_wire};
use super::tls::Tls;
use crate::api::ApiError;
use crate::request::RequestId;

/// Pause after the system refused to accept, for example because no descriptor was left.
const PAUSE: Duration = Duration::from_millis(50);
/// Longest time to tell a client that there are too many.
const TELL: Duration = Duration::from_secs(1);

/// What a listener's connections share.
pub struct ListenerContext {
    /// Where they lead.
    pub dispatch: Arc<Dispatch>,
    /// With TLS, its certificate.
    pub tls: Option<Arc<Tls>>,
    /// Most connections at a time; one more is told 503 and closed.
    pub max_connections: usize,
    /// Every connection that lives.
    pub connections: TaskTracker,
}

/// Accepts until the server is to stop.
pub async fn run(front: ListenerContext, listener: TcpListener, mut stop: Stop) {
    let places = Arc::new(Semaphore::new(front.max_connections));
    let front = Arc::new(front);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.stopping() => return front.dispatch.close().await,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection was not accepted");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        match places.clone().try_acquire_owned() {
            Ok(place) => {
                let connections = front.connections.clone();
                let front = front.clone();
                let serving = async move {
                    // A client that left at once is no news.
                    let _ = serve(&front, stream).await;
                    drop(place);
                };
                crate::telemetry::task::spawn("connection", connections.track_future(serving));
            }
            Err(_) => {
                crate::telemetry::task::spawn("too many connections", turn_away(stream));
            }
        }
    }
}

async fn serve(front: &ListenerContext, stream: TcpStream) -> io::Result<()> {
    // Answers are written whole; holding back their last packet only costs time.
    stream.set_nodelay(true)?;
    let digest = SocketDigest::from_raw_fd(stream.as_raw_fd());
    // Asked for now, since the descriptor may be another's once the connection is gone.
    digest.peer_addr();
    let mut stream = L4Stream::from(stream);
    stream.set_socket_digest(digest);
    let stream: Stream = match &front.tls {
        None => Box::new(stream),
        Some(tls) => match tls.accept(Box::new(stream)).await {
            Some(stream) => Box::new(stream),
            None => return Ok(()),
        },
    };
    front.dispatch.clone().serve(stream).await;
    Ok(())
}

/// Tells a client that there are too many.
async fn turn_away(mut stream: TcpStream) {
    let id = RequestId::of(&http::HeaderMap::new());
    let mut answer = ApiError::TooManyConnections.answer(&id);
    answer.headers_mut().insert(http::header::CONNECTION, http::HeaderValue::from_static("close"));
    let tell = async {
        stream.write_all(&on_the_wire(answer)).await?;
        stream.shutdown().await
    };
    // One that does not listen need not be told.
    let _ = tokio::time::timeout(TELL, tell).await;
}
