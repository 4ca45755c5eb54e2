//! Signals, and how the server stops.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::pool::Pool;
use crate::request::InFlightRequests;

/// The exit status after a second signal.
const AT_ONCE: i32 = 130;
/// How often a server that stops looks whether it may.
const LOOK: Duration = Duration::from_millis(20);

/// The signals that we answer.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    /// Takes them over from the system's defaults.
    pub(super) fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// Waits to be told to stop, calling `reload` for each SIGHUP on the way. From then on a second signal ends the
    /// process at once: the runtime's instances end with it.
    pub(super) async fn wait(mut self, reload: impl Fn()) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => break,
                _ = self.interrupt.recv() => break,
                _ = self.hang_up.recv() => reload(),
            }
        }
        tracing::info!("stopping; a second signal ends at once");
        crate::telemetry::task::spawn("second signal", async move {
            tokio::select! {
                _ = self.terminate.recv() => {}
                _ = self.interrupt.recv() => {}
            }
            tracing::warn!("ended at once");
            std::process::exit(AT_ONCE);
        });
    }
}

/// Everything that must end, in this order.
pub(super) struct Stopping {
    /// No new connections, no further requests on those that there are.
    pub(super) begin: watch::Sender<bool>,
    /// Tunnels and streams of events, which would never end by themselves.
    pub(super) cut: CancellationToken,
    /// Requests in flight on these connections.
    pub(super) connections: TaskTracker,
    /// Which of those requests are streams of an app's events: they end when the app does, and not before.
    pub(super) under_way: InFlightRequests,
    /// The longest that the requests in flight are waited for.
    pub(super) grace: Duration,
}

impl Stopping {
    /// Stops the server; then the pool stops what it runs.
    pub(super) async fn run(self, pool: &Arc<Pool>) {
        pool.close().await;
        self.begin.send_replace(true);
        self.cut.cancel();
        self.connections.close();
        if tokio::time::timeout(self.grace, self.finished()).await.is_err() {
            tracing::warn!(connections = self.connections.len(), "some requests were cut off");
        }
        pool.drain().await;
    }

    /// Done when what is left of the connections carries nothing but streams of events.
    async fn finished(&self) {
        let only_streams = async {
            // On HTTP/1 a stream has its connection for itself. On HTTP/2 there may be more streams than connections,
            // but then the requests beside them are counted.
            while self.under_way.requests() > 0 || self.connections.len() > self.under_way.streams() {
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::select! {
            () = self.connections.wait() => {}
            () = only_streams => {}
        }
    }
}
