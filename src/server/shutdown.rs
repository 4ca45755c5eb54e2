//! Signals, and the order in which a server stops.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::pool::Pool;
use crate::request::InFlightRequests;
use crate::telemetry::task;

/// The exit status after a second signal.
const SECOND_SIGNAL_STATUS: i32 = 130;

/// How often a server that shuts down checks whether its requests have ended.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The signals that the server answers.
pub(super) struct ProcessSignals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl ProcessSignals {
    /// Replaces the system's default reactions to the signals.
    ///
    /// # Errors
    /// The system refuses a handler.
    pub(super) fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for SIGTERM or SIGINT, and calls `reload` for each SIGHUP until then. After that a second SIGTERM or
    /// SIGINT ends the process at once, and the instances of its runtime with it.
    pub(super) async fn wait(mut self, reload: impl Fn()) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => break,
                _ = self.interrupt.recv() => break,
                _ = self.hang_up.recv() => reload(),
            }
        }
        tracing::info!("shutdown started; a second signal ends the process at once");
        task::spawn("second signal", async move {
            tokio::select! {
                _ = self.terminate.recv() => {}
                _ = self.interrupt.recv() => {}
            }
            tracing::warn!("process ended by second signal");
            std::process::exit(SECOND_SIGNAL_STATUS);
        });
    }
}

/// The shutdown of the server, as a connection sees it.
#[derive(Clone)]
pub(super) struct StopSignal {
    is_stopping: watch::Receiver<bool>,
    tunnels: CancellationToken,
}

impl StopSignal {
    /// Combines the two stages of a shutdown: once `is_stopping` is true no further request begins; once `tunnels` is
    /// cancelled tunnels and streams end.
    pub(super) fn new(is_stopping: watch::Receiver<bool>, tunnels: CancellationToken) -> Self {
        Self { is_stopping, tunnels }
    }

    /// Waits until no further request may begin.
    pub(super) async fn requested(&mut self) {
        // Err: the sender was dropped, and the server with it.
        let _ = self.is_stopping.wait_for(|is_stopping| *is_stopping).await;
    }

    /// Returns the first stage in the form that Pingora takes: true once no further request may begin.
    pub(super) fn receiver(&self) -> &watch::Receiver<bool> {
        &self.is_stopping
    }

    /// Returns the token that is cancelled when tunnels must end.
    pub(super) fn tunnels(&self) -> CancellationToken {
        self.tunnels.clone()
    }
}

/// Everything that ends in a shutdown, in this order.
pub(super) struct ShutdownSequence {
    /// Ends the listener, and lets no further request begin on the open connections.
    pub(super) stop_requests: watch::Sender<bool>,
    /// Ends tunnels and streams of events, which would never end by themselves.
    pub(super) tunnels: CancellationToken,
    /// The connections, whose requests in flight are waited for.
    pub(super) connections: TaskTracker,
    /// Counts the streams of an app's events among those requests: a stream ends when the app does, and not before.
    pub(super) in_flight: InFlightRequests,
    /// The longest wait for the requests in flight.
    pub(super) grace: Duration,
}

impl ShutdownSequence {
    /// Shuts the server down, and then lets the pool end its instances.
    pub(super) async fn run(self, pool: &Arc<Pool>) {
        pool.begin_shutdown().await;
        self.stop_requests.send_replace(true);
        self.tunnels.cancel();
        self.connections.close();
        if tokio::time::timeout(self.grace, self.wait_for_requests()).await.is_err() {
            tracing::warn!(
                connections = self.connections.len(),
                "requests cut off after shutdown grace period"
            );
        }
        pool.shut_down().await;
    }

    /// Waits until all connections are closed, or carry nothing but streams of events.
    async fn wait_for_requests(&self) {
        let only_streams = async {
            // On HTTP/1 a stream has its connection for itself. On HTTP/2 there may be more streams than connections,
            // but then the requests beside them are counted.
            while self.in_flight.requests() > 0 || self.connections.len() > self.in_flight.streams() {
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        };
        tokio::select! {
            () = self.connections.wait() => {}
            () = only_streams => {}
        }
    }
}
