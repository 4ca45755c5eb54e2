//! Accepts connections, up to a maximum.

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

use super::dispatch::Dispatcher;
use super::shutdown::StopSignal;
use super::tls::ServerTls;
use super::wire_format::encode_response;
use crate::api::ApiError;
use crate::request::RequestId;
use crate::telemetry::task;

/// Pause after the kernel refused to accept, for example because the process has no free descriptor.
const ACCEPT_RETRY_INTERVAL: Duration = Duration::from_millis(50);
/// Longest time to send the response 503 to a client beyond the maximum.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);

/// What the connections of a listener share.
pub(super) struct ListenerContext {
    /// Serves each connection.
    pub(super) dispatcher: Arc<Dispatcher>,
    /// Terminates TLS. Without it connections are in the clear.
    pub(super) tls: Option<Arc<ServerTls>>,
    /// Most connections at a time. A further one gets the response 503 and is closed.
    pub(super) max_connections: usize,
    /// Tracks every open connection.
    pub(super) connections: TaskTracker,
}

/// Accepts connections until the server shuts down.
pub(super) async fn run(context: ListenerContext, listener: TcpListener, mut stop: StopSignal) {
    let slots = Arc::new(Semaphore::new(context.max_connections));
    let context = Arc::new(context);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.requested() => return context.dispatcher.close().await,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "failed to accept connection");
                tokio::time::sleep(ACCEPT_RETRY_INTERVAL).await;
                continue;
            }
        };
        match slots.clone().try_acquire_owned() {
            Ok(slot) => {
                let connections = context.connections.clone();
                let context = context.clone();
                let serving = async move {
                    // An error here means that the client left at once, which is not worth a log line.
                    let _ = serve_connection(&context, stream).await;
                    drop(slot);
                };
                task::spawn("connection", connections.track_future(serving));
            }
            Err(_) => {
                task::spawn("refuse connection", refuse_connection(stream));
            }
        }
    }
}

async fn serve_connection(context: &ListenerContext, stream: TcpStream) -> io::Result<()> {
    // Responses are written whole. To hold back their last packet would only cost time.
    stream.set_nodelay(true)?;
    let digest = SocketDigest::from_raw_fd(stream.as_raw_fd());
    // Read now: once the connection is closed the descriptor may belong to another socket.
    digest.peer_addr();
    let mut stream = L4Stream::from(stream);
    stream.set_socket_digest(digest);
    let stream: Stream = match &context.tls {
        None => Box::new(stream),
        Some(tls) => match tls.accept(Box::new(stream)).await {
            Some(stream) => Box::new(stream),
            None => return Ok(()),
        },
    };
    context.dispatcher.clone().serve(stream).await;
    Ok(())
}

/// Sends the response 503 to a client beyond the maximum, and closes its connection.
async fn refuse_connection(mut stream: TcpStream) {
    let id = RequestId::of(&http::HeaderMap::new());
    let mut response = ApiError::TooManyConnections.to_response(&id);
    response.headers_mut().insert(http::header::CONNECTION, http::HeaderValue::from_static("close"));
    let send = async {
        stream.write_all(&encode_response(response)).await?;
        stream.shutdown().await
    };
    // The connection is closed in any case, so a client that does not read only loses the response.
    let _ = tokio::time::timeout(REFUSAL_TIMEOUT, send).await;
}
