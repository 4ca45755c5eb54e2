//! A link to a server that a test can break in every way a link breaks.

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

/// What is wrong with the link.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Fault {
    /// Nothing.
    Whole,
    /// New connections are closed at once.
    Refused,
    /// Connections are taken, and nothing comes through.
    Silent,
    /// What is asked arrives so much later.
    Delay(Duration),
    /// The next thing asked never arrives, and its connection is reset. Then the link is whole.
    LoseRequest,
    /// The next answer never arrives, and its connection is reset. Then the link is whole.
    LoseAnswer,
    /// So with every answer from now on.
    LoseAnswers,
}

struct State {
    fault: Mutex<Fault>,
    cut: Mutex<CancellationToken>,
    connections: AtomicUsize,
    server: (String, u16),
}

/// The link. It ends with the runtime of the test.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    state: Arc<State>,
}

impl Proxy {
    pub(crate) async fn to(server: (String, u16)) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            fault: Mutex::new(Fault::Whole),
            cut: Mutex::default(),
            connections: AtomicUsize::new(0),
            server,
        });
        let (proxy, accepting) = (Self { address, state: state.clone() }, state);
        spawn("link", async move {
            while let Ok((client, _)) = listener.accept().await {
                spawn("connection", carry(client, accepting.clone()));
            }
        });
        proxy
    }

    /// From now on.
    pub(crate) fn set(&self, fault: Fault) {
        *self.state.fault.lock() = fault;
    }

    /// How many were made.
    pub(crate) fn connections(&self) -> usize {
        self.state.connections.load(Ordering::Relaxed)
    }

    /// Resets all connections.
    pub(crate) fn cut(&self) {
        std::mem::take(&mut *self.state.cut.lock()).cancel();
    }
}

async fn carry(client: TcpStream, state: Arc<State>) {
    let cut = state.cut.lock().clone();
    state.connections.fetch_add(1, Ordering::Relaxed);
    // Whenever it is closed it is reset.
    client.set_zero_linger().unwrap();
    client.set_nodelay(true).unwrap();
    if *state.fault.lock() == Fault::Refused {
        return;
    }
    let Ok(server) = TcpStream::connect((state.server.0.as_str(), state.server.1)).await else { return };
    server.set_nodelay(true).unwrap();
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    tokio::select! {
        () = cut.cancelled() => {}
        () = ask(from_client, to_server, &state) => {}
        () = answer(from_server, to_client, &state) => {}
    }
}

async fn ask(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, state: &State) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        let fault = *state.fault.lock();
        match fault {
            Fault::LoseRequest => return state.mended(),
            Fault::Silent => continue,
            Fault::Delay(time) => tokio::time::sleep(time).await,
            _ => {}
        }
        if to.write_all(&buffer[..n]).await.is_err() {
            return;
        }
    }
}

async fn answer(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, state: &State) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        let fault = *state.fault.lock();
        match fault {
            Fault::LoseAnswer => return state.mended(),
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
    fn mended(&self) {
        *self.fault.lock() = Fault::Whole;
    }
}
