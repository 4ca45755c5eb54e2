//! Accepts connections, up to a maximum of all and of each client.

use std::collections::HashSet;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use pingora_core::protocols::Stream;
use rustix::net::sockopt;
use socket2::SockRef;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::client_connections::{ConnectionMaxima, ConnectionSlots};
use super::client_socket::ClientSocket;
use super::descriptors::MAX_REFUSALS;
use super::dispatch::Dispatcher;
use super::shutdown::StopSignal;
use super::tls::ServerTls;
use super::wire_format::encode_response;
use crate::api::ApiError;
use crate::cluster::Directory;
use crate::config::TrustedProxies;
use crate::request::RequestId;
use crate::telemetry::accept_errors::AcceptErrors;
use crate::telemetry::{Metrics, task};

/// Pause after the kernel refused to accept, for example because the process has no free descriptor.
const ACCEPT_RETRY_INTERVAL: Duration = Duration::from_millis(50);
/// Longest time to send the response 503 to a client beyond the maximum.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);
/// Time without a packet after which the system asks a client whether it is still there, and between two such probes.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// Unanswered probes after which the system closes a connection. A client that vanished frees its slot in two minutes.
const KEEPALIVE_PROBES: u32 = 4;

/// About how many bytes the kernel takes of a response beyond what the client's window lets it send. Its send buffer may
/// grow to megabytes, and what a client leaves there that does not read stays. What is on the way to the client does not
/// count, so a long way needs no more.
const MAX_UNSENT: u32 = 32 * 1024;

/// What the connections of a listener share.
pub(super) struct ListenerContext {
    /// Serves each connection.
    pub(super) dispatcher: Arc<Dispatcher>,
    /// Terminates TLS. Without it connections are in the clear.
    pub(super) tls: Option<Arc<ServerTls>>,
    /// Most connections at a time. A further one gets the response 503 and is closed.
    pub(super) maxima: ConnectionMaxima,
    /// Peers that connect for many clients, so that the maximum of one client does not hold for them.
    pub(super) trusted_proxies: TrustedProxies,
    /// The other nodes, which connect for many clients too.
    pub(super) directory: Arc<Directory>,
    /// Counts refused connections.
    pub(super) metrics: Arc<Metrics>,
    /// Tracks every open connection.
    pub(super) connections: TaskTracker,
    /// Tracks the connections that have sent no head yet.
    pub(super) fresh: TaskTracker,
    /// Cancelled when no further connection is accepted.
    pub(super) closed: CancellationToken,
}

/// Accepts connections until the listener is closed, and takes those that come from the process before this one.
pub(super) async fn run(
    context: ListenerContext,
    listener: TcpListener,
    mut passed: mpsc::UnboundedReceiver<ClientSocket>,
    stop: StopSignal,
) {
    enable_keepalive(&listener);
    let slots = ConnectionSlots::new(context.maxima);
    let refusals = Arc::new(Semaphore::new(MAX_REFUSALS));
    let nodes = Arc::new(ArcSwap::from_pointee(HashSet::new()));
    task::spawn("addresses of nodes", follow_nodes(context.directory.clone(), nodes.clone(), stop));
    // A connection that is being accepted counts as fresh before it has a token of its own.
    let _accepting = context.fresh.token();
    let context = Arc::new(context);
    let mut errors = AcceptErrors::default();
    loop {
        let accepted = tokio::select! {
            // First, so that none is left when the listener is closed.
            biased;
            Some(stream) = passed.recv() => Ok(stream),
            accepted = listener.accept() => accepted.map(|(stream, _)| ClientSocket::new(stream)),
            () = context.closed.cancelled() => return context.dispatcher.close().await,
        };
        let stream = match accepted {
            Ok(stream) => stream,
            Err(error) => {
                errors.log(&error);
                tokio::time::sleep(ACCEPT_RETRY_INTERVAL).await;
                continue;
            }
        };
        let Some(peer) = stream.peer() else { continue };
        let is_proxy = context.trusted_proxies.contains(peer) || nodes.load().contains(&peer);
        match slots.take(peer, is_proxy) {
            Ok(slot) => {
                let (connections, fresh) = (context.connections.clone(), context.fresh.token());
                let context = context.clone();
                let serving = async move {
                    // An error here means that the client left at once, which is not worth a log line.
                    let _ = serve_connection(&context, stream, fresh).await;
                    drop(slot);
                };
                task::spawn("connection", connections.track_future(serving));
            }
            Err(reason) => {
                context.metrics.record_refused_connection(reason);
                // A client that speaks TLS could not read the response. Beyond the maximum of refusals the connection
                // is closed at once: a client that connects in a loop must not use up descriptors.
                if context.tls.is_none()
                    && let Ok(refusal) = refusals.clone().try_acquire_owned()
                {
                    task::spawn("refuse connection", async move {
                        refuse_connection(stream).await;
                        drop(refusal);
                    });
                }
            }
        }
    }
}

/// Has the system close connections whose clients vanished. Accepted sockets inherit these options.
fn enable_keepalive(listener: &TcpListener) {
    // Failures are ignored: a dead connection then lasts longer.
    let _ = sockopt::set_socket_keepalive(listener, true);
    let _ = sockopt::set_tcp_keepidle(listener, KEEPALIVE_IDLE);
    let _ = sockopt::set_tcp_keepintvl(listener, KEEPALIVE_INTERVAL);
    let _ = sockopt::set_tcp_keepcnt(listener, KEEPALIVE_PROBES);
}

/// Keeps the addresses of the other nodes up to date until the server shuts down.
async fn follow_nodes(directory: Arc<Directory>, nodes: Arc<ArcSwap<HashSet<IpAddr>>>, mut stop: StopSignal) {
    let mut updates = directory.updates();
    loop {
        nodes.store(Arc::new(directory.peer_addresses().await));
        tokio::select! {
            updated = updates.changed() => if updated.is_err() { return },
            () = stop.requested() => return,
        }
    }
}

async fn serve_connection(
    context: &ListenerContext,
    stream: ClientSocket,
    fresh: TaskTrackerToken,
) -> io::Result<()> {
    // A failure only leaves more in the kernel's buffer.
    let _ = SockRef::from(&stream).set_tcp_notsent_lowat(MAX_UNSENT);
    // Responses are written whole. To hold back their last packet would only cost time.
    sockopt::set_tcp_nodelay(&stream, true)?;
    let stream: Stream = match &context.tls {
        None => Box::new(stream),
        Some(tls) => match Box::pin(tls.accept(Box::new(stream))).await {
            Some(stream) => Box::new(stream),
            None => return Ok(()),
        },
    };
    // Not part of this future, which is as long as the longest future in it, for each connection.
    Box::pin(context.dispatcher.clone().serve(stream, fresh)).await;
    Ok(())
}

/// Sends the response 503 to a client beyond the maximum, and closes its connection.
async fn refuse_connection(mut stream: ClientSocket) {
    let id = RequestId::of(&http::HeaderMap::new());
    let mut response = ApiError::TooManyConnections.to_response(&id);
    response.headers_mut().insert(http::header::CONNECTION, http::HeaderValue::from_static("close"));
    let send = async {
        stream.write_all(&encode_response(response)).await?;
        AsyncWriteExt::shutdown(&mut stream).await
    };
    // The connection is closed in any case, so a client that does not read only loses the response.
    let _ = tokio::time::timeout(REFUSAL_TIMEOUT, send).await;
}
