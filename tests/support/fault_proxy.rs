//! A TCP proxy in front of a server that injects every fault that a connection can have.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use try_it_now::telemetry::task::spawn;

/// The fault that is injected.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Fault {
    /// None: everything is forwarded.
    None,
    /// New connections are closed at once.
    Refuse,
    /// Connections are accepted, and no byte is forwarded.
    Silent,
    /// Requests are forwarded after this delay.
    Delay(Duration),
    /// The next request is dropped and its connection is reset. Then the fault is cleared.
    LoseRequest,
    /// The next answer is dropped and its connection is reset. Then the fault is cleared.
    LoseAnswer,
    /// Every answer is dropped and its connection is reset.
    LoseAnswers,
}

struct State {
    fault: Mutex<Fault>,
    reset_connections: Mutex<CancellationToken>,
    connection_count: AtomicUsize,
    server: (String, u16),
}

/// A running proxy. It ends with the runtime of the test.
pub(crate) struct FaultProxy {
    pub(crate) address: SocketAddr,
    state: Arc<State>,
}

impl FaultProxy {
    /// Starts a proxy to this server.
    pub(crate) async fn to(server: (String, u16)) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            fault: Mutex::new(Fault::None),
            reset_connections: Mutex::default(),
            connection_count: AtomicUsize::new(0),
            server,
        });
        let (proxy, accepting) = (Self { address, state: state.clone() }, state);
        spawn("fault proxy", async move {
            while let Ok((client, _)) = listener.accept().await {
                spawn("connection", forward(client, accepting.clone()));
            }
        });
        proxy
    }

    /// Injects this fault from now on, into open connections too.
    pub(crate) fn set(&self, fault: Fault) {
        *self.state.fault.lock() = fault;
    }

    /// Returns how many connections were accepted so far.
    pub(crate) fn connection_count(&self) -> usize {
        self.state.connection_count.load(Ordering::Relaxed)
    }

    /// Resets all connections.
    pub(crate) fn reset_connections(&self) {
        std::mem::take(&mut *self.state.reset_connections.lock()).cancel();
    }
}

async fn forward(client: TcpStream, state: Arc<State>) {
    let reset_connections = state.reset_connections.lock().clone();
    state.connection_count.fetch_add(1, Ordering::Relaxed);
    // Makes every close a reset.
    client.set_zero_linger().unwrap();
    client.set_nodelay(true).unwrap();
    if *state.fault.lock() == Fault::Refuse {
        return;
    }
    let Ok(server) = TcpStream::connect((state.server.0.as_str(), state.server.1)).await else { return };
    server.set_nodelay(true).unwrap();
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    tokio::select! {
        () = reset_connections.cancelled() => {}
        () = forward_requests(from_client, to_server, &state) => {}
        () = forward_answers(from_server, to_client, &state) => {}
    }
}

async fn forward_requests(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, state: &State) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        let fault = *state.fault.lock();
        match fault {
            Fault::LoseRequest => return state.clear_fault(),
            Fault::Silent => continue,
            Fault::Delay(time) => tokio::time::sleep(time).await,
            _ => {}
        }
        if to.write_all(&buffer[..n]).await.is_err() {
            return;
        }
    }
}

async fn forward_answers(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, state: &State) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        let fault = *state.fault.lock();
        match fault {
            Fault::LoseAnswer => return state.clear_fault(),
            Fault::LoseAnswers => return,
            Fault::Silent => continue,
            _ => {}
        }
        if to.write_all(&buffer[..n]).await.is_err() {
            return;
        }
    }
}

impl State {
    fn clear_fault(&self) {
        *self.fault.lock() = Fault::None;
    }
}
