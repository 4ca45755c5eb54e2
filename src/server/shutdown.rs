//! Signals, and the order in which a server stops.

use std::io;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::handover::PassedConnections;
use crate::api::Api;
use crate::pool::Pool;
use crate::proxy::Tunnels;
use crate::request::InFlightRequests;
use crate::telemetry::task;

/// The exit status after a second signal.
const SECOND_SIGNAL_STATUS: i32 = 130;

/// How often a server that shuts down checks whether its requests have ended.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// How long the clients of accepted connections have to send their first request before a handover.
const FIRST_HEAD_TIMEOUT: Duration = Duration::from_secs(3);

/// How long the API goes on to answer on connections that cannot pass, once they are closing: a request that an HTTP/2
/// client sends before it has read that its connection closes is answered, too.
const GOODBYE_TIMEOUT: Duration = Duration::from_millis(200);

/// How much longer than an acquire waits the requests for the API may take before a handover.
const API_MARGIN: Duration = Duration::from_secs(1);

/// The signals that the server answers.
pub(super) struct ProcessSignals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
    replace: Signal,
}

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// SIGTERM or SIGINT: the server is to end.
    Stop,
    /// SIGUSR2: another process is to take its place.
    Replace,
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
            replace: signal(SignalKind::user_defined2())?,
        })
    }

    /// Waits for a signal that ends this process, and calls `reload` for each SIGHUP until then.
    pub(super) async fn wait(&mut self, reload: impl Fn()) -> Wanted {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return Wanted::Stop,
                _ = self.interrupt.recv() => return Wanted::Stop,
                _ = self.replace.recv() => return Wanted::Replace,
                _ = self.hang_up.recv() => reload(),
            }
        }
    }

    /// From now on SIGTERM or SIGINT ends the process at once, and the instances of its runtime with it.
    pub(super) fn end_at_next(mut self) {
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

/// Lets no further request begin on the open connections: on those of HTTP/2, which cannot pass to another process, and
/// on all.
#[derive(Debug)]
pub(super) struct RequestStop {
    http2: watch::Sender<bool>,
    all: watch::Sender<bool>,
}

impl RequestStop {
    /// Returns what stops the requests, and what the connections see of it and of the end of `tunnels`.
    pub(super) fn new(tunnels: Tunnels) -> (Self, StopSignal) {
        let ((http2, is_stopping_http2), (all, is_stopping)) = (watch::channel(false), watch::channel(false));
        (Self { http2, all }, StopSignal { is_stopping, is_stopping_http2, tunnels })
    }

    fn stop_http2(&self) {
        self.http2.send_replace(true);
    }

    fn stop_all(&self) {
        self.stop_http2();
        self.all.send_replace(true);
    }
}

/// The shutdown of the server, as a connection sees it: first no further request begins, then tunnels and streams end.
#[derive(Clone)]
pub(super) struct StopSignal {
    is_stopping: watch::Receiver<bool>,
    is_stopping_http2: watch::Receiver<bool>,
    tunnels: Tunnels,
}

impl StopSignal {
    /// Waits until no further request may begin.
    pub(super) async fn requested(&mut self) {
        // Err: the sender was dropped, and the server with it.
        let _ = self.is_stopping.wait_for(|is_stopping| *is_stopping).await;
    }

    /// Returns the first stage in the form that Pingora takes: true once no further request may begin.
    pub(super) fn receiver(&self) -> &watch::Receiver<bool> {
        &self.is_stopping
    }

    /// Like [`receiver`](Self::receiver), for a connection of HTTP/2.
    pub(super) fn http2_receiver(&self) -> &watch::Receiver<bool> {
        &self.is_stopping_http2
    }

    /// Returns what tunnels share.
    pub(super) fn tunnels(&self) -> Tunnels {
        self.tunnels.clone()
    }
}

/// Everything that ends in a shutdown, in this order.
pub(super) struct ShutdownSequence {
    /// Cancelled to accept no further connection.
    pub(super) listener_closed: CancellationToken,
    /// The connections that have sent no head yet.
    pub(super) fresh: TaskTracker,
    /// The connections that pass to another process.
    pub(super) passed: PassedConnections,
    pub(super) request_stop: RequestStop,
    /// Ends tunnels and the API's streams of events, which would never end by themselves.
    pub(super) tunnels: Tunnels,
    /// Ends only the API's streams of events.
    pub(super) event_streams: CancellationToken,
    /// The connections, whose requests in flight are waited for.
    pub(super) connections: TaskTracker,
    /// Counts the streams of an app's events among those requests: a stream ends when the app does, and not before.
    pub(super) in_flight: InFlightRequests,
    /// How long an acquire may wait for an instance.
    pub(super) acquire_timeout: Duration,
    /// The longest wait for the requests in flight.
    pub(super) grace: Duration,
}

impl ShutdownSequence {
    /// Shuts the server down, and then lets the pool end its instances.
    pub(super) async fn run(self, pool: &Pool) {
        pool.begin_shutdown().await;
        self.listener_closed.cancel();
        self.request_stop.stop_all();
        self.tunnels.end.cancel();
        self.connections.close();
        if tokio::time::timeout(self.grace, self.wait_for_requests()).await.is_err() {
            tracing::warn!(
                connections = self.connections.len(),
                "requests cut off after shutdown grace period"
            );
        }
        pool.shut_down().await;
    }

    /// Lets another process take the place of this one: `free_node` is called once this process does nothing for the node
    /// any more, and returns when the other one serves, with the socket on which that takes connections. Requests in
    /// flight and tunnels continue here.
    ///
    /// To free the node may take as long as an acquire waits, and as long as instances that have ended take to be removed.
    /// Meanwhile requests for the API wait for the other process, and those for instances are answered here. With TLS all
    /// wait: one connection carries both, and it cannot pass.
    ///
    /// # Errors
    /// That of `free_node`.
    pub(super) async fn hand_over(
        self,
        api: &Api,
        pool: &Pool,
        free_node: impl Future<Output = io::Result<UnixStream>>,
    ) -> io::Result<()> {
        self.passed.begin_for_api();
        self.event_streams.cancel();
        if !self.passed.can_pass() {
            self.close_connections().await;
        }
        self.request_stop.stop_http2();
        let _ = tokio::time::timeout(GOODBYE_TIMEOUT, self.connections.wait()).await;
        api.finish(self.acquire_timeout + API_MARGIN).await;
        pool.hand_over().await;
        if self.passed.can_pass() {
            self.close_connections().await;
        }
        let socket = free_node.await?;
        let Self { connections, tunnels, passed, grace, .. } = self;
        // However long tunnels and streams take.
        let all_ended = async {
            connections.wait().await;
            tunnels.open.close();
            tunnels.open.wait().await;
        };
        let carried = async {
            if tokio::time::timeout(grace, all_ended).await.is_err() {
                let open = connections.len();
                tracing::info!(connections = open, "requests and tunnels cut off after the handover");
            }
        };
        passed.send_until(socket, carried).await?;
        tunnels.end.cancel();
        Ok(())
    }

    /// Accepts no further connection, and lets those that are open pass to another process or close.
    async fn close_connections(&self) {
        self.listener_closed.cancel();
        self.passed.begin();
        // The others that cannot pass: their clients expect an answer.
        self.fresh.close();
        let _ = tokio::time::timeout(FIRST_HEAD_TIMEOUT, self.fresh.wait()).await;
        self.request_stop.stop_all();
        self.connections.close();
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
