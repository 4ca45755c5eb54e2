//! A runtime whose instances are entries in a list, and which fails on demand.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};

use tokio::net::TcpStream;

use crate::instance::{Endpoint, InstanceId};
use crate::runtime::{
    CheckpointStatus, ExecCommand, ExecOutput, Exit, HostMemory, MemoryReport, MemoryUse, Runtime,
    RuntimeError, StartMethod, StartRequest, Started,
};
use crate::template::App;

/// How one start fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StartFault {
    /// The app cannot be started.
    Fail,
    /// The host has no resources left.
    Exhausted,
    /// The instance runs, but `start` never returns.
    Hang,
}

#[derive(Default)]
pub(crate) struct TestRuntime {
    /// The running instances, in the order of their starts.
    running: Mutex<Vec<InstanceId>>,
    listener: Mutex<Option<mpsc::UnboundedSender<Exit>>>,
    app: Option<SocketAddr>,
    /// How long a start takes, and a stop.
    takes: Duration,
    pub(super) next_start: Mutex<Option<StartFault>>,
    /// The number of next starts that fail.
    pub(super) failing_starts: AtomicUsize,
    /// The number of next stops that fail.
    pub(super) failing_stops: AtomicUsize,
    pub(super) starts: AtomicUsize,
    /// The instances that yield.
    pub(super) yielding: Mutex<Vec<InstanceId>>,
    /// The method of each start that succeeded.
    pub(super) methods: Mutex<Vec<StartMethod>>,
    /// How much longer a cold start takes than a restore.
    pub(super) cold_takes: Mutex<Duration>,
    /// Whether it makes checkpoints.
    pub(super) bakes: AtomicBool,
    /// The revisions with a checkpoint, in the order of the bakes.
    pub(super) baked: Mutex<Vec<u64>>,
    /// The number of next restored instances whose apps do not answer.
    pub(super) broken_restores: AtomicUsize,
    /// The number of next bakes that fail.
    pub(super) failing_bakes: AtomicUsize,
    pub(super) bake_attempts: AtomicUsize,
    /// Whether the next bake never returns.
    pub(super) bake_hangs: AtomicBool,
    /// The exit status of each command from now on; `Some(None)` for commands that time out.
    pub(super) exec_status: Mutex<Option<Option<u32>>>,
    /// Whether the next command never returns.
    pub(super) exec_hangs: AtomicBool,
    /// The commands that were run, each with its instance.
    pub(super) ran: Mutex<Vec<(InstanceId, Vec<String>)>>,
    /// The host whose memory is reported; `None` where it cannot be measured.
    pub(super) host: Mutex<Option<TestHost>>,
    /// Notified when a start, a bake or a command hangs.
    pub(super) hanging: Notify,
    addresses: AtomicU32,
}

/// The memory of a host, in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct TestHost {
    pub(super) total: u64,
    /// What other processes use.
    pub(super) others: u64,
    /// What each instance takes.
    pub(super) each: u64,
}

/// A port on which no app listens.
const NO_APP: u16 = 1;

/// Takes one from a count. Returns false when it is zero.
fn take_one(count: &AtomicUsize) -> bool {
    count.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok()
}

impl TestRuntime {
    /// Creates a runtime all of whose apps listen at `app`; without it the instances have no apps. A start and a stop
    /// take `takes`.
    pub(crate) fn new(app: Option<SocketAddr>, takes: Duration) -> Self {
        Self { app, takes, ..Self::default() }
    }

    pub(super) fn running(&self) -> Vec<InstanceId> {
        self.running.lock().clone()
    }

    fn end(&self, id: &InstanceId) -> bool {
        let mut running = self.running.lock();
        let before = running.len();
        running.retain(|other| other != id);
        running.len() < before
    }

    /// Ends the app of an instance as if it had died. Returns false when it does not run.
    pub(super) fn die(&self, id: &InstanceId) -> bool {
        let died = self.end(id);
        if died && let Some(listener) = &*self.listener.lock() {
            let _ = listener.send(Exit { id: id.clone(), cause: "signal 9".to_owned() });
        }
        died
    }
}

#[async_trait]
impl Runtime for TestRuntime {
    fn name(&self) -> &'static str {
        "test"
    }

    async fn memory(&self) -> Option<MemoryReport> {
        let (host, running) = ((*self.host.lock())?, self.running());
        let all = running.len() as u64 * host.each;
        let used = MemoryUse { private: host.each, proportional: host.each, charged: host.each };
        Some(MemoryReport {
            instances: running.into_iter().map(|id| (id, used)).collect(),
            shared: Vec::new(),
            host: HostMemory { total: host.total, available: host.total.saturating_sub(host.others + all) },
            room: None,
        })
    }

    fn runs_apps(&self) -> bool {
        self.app.is_some()
    }

    async fn start(&self, request: &StartRequest) -> Result<Started, RuntimeError> {
        self.starts.fetch_add(1, Ordering::SeqCst);
        if take_one(&self.failing_starts) {
            return Err(RuntimeError::Start("bad start".to_owned()));
        }
        let fault = self.next_start.lock().take();
        match fault {
            Some(StartFault::Fail) => return Err(RuntimeError::Start("no such program".to_owned())),
            Some(StartFault::Exhausted) => return Err(RuntimeError::Exhausted("free port")),
            Some(StartFault::Hang) | None => {}
        }
        let n = self.addresses.fetch_add(1, Ordering::SeqCst).to_be_bytes();
        let endpoint = match self.app {
            Some(app) => Endpoint::Sealed { namespace: u32::from_be_bytes(n), port: app.port() },
            None => ([127, n[1], n[2], n[3]], 4000).into(),
        };
        self.running.lock().push(request.id.clone());
        if request.yields {
            self.yielding.lock().push(request.id.clone());
        }
        if fault == Some(StartFault::Hang) {
            self.hanging.notify_one();
            std::future::pending::<()>().await;
        }
        if !self.takes.is_zero() {
            tokio::time::sleep(self.takes).await;
        }
        let method = match self.checkpoint_status(request.revision, &request.app).await {
            CheckpointStatus::Present => StartMethod::Restored,
            CheckpointStatus::Missing | CheckpointStatus::Never => StartMethod::Cold,
        };
        let cold_takes = *self.cold_takes.lock();
        if method == StartMethod::Cold && !cold_takes.is_zero() {
            tokio::time::sleep(cold_takes).await;
        }
        self.methods.lock().push(method);
        let is_broken = method == StartMethod::Restored && take_one(&self.broken_restores);
        let no_app = Endpoint::Sealed { namespace: u32::MAX, port: NO_APP };
        let endpoint = if is_broken { no_app } else { endpoint };
        Ok(Started { endpoint, method })
    }

    async fn end_yielding(&self, id: &InstanceId) -> bool {
        self.yielding.lock().retain(|other| other != id);
        self.running.lock().contains(id)
    }

    async fn connect(&self, endpoint: Endpoint) -> std::io::Result<TcpStream> {
        match (endpoint, self.app) {
            (Endpoint::Sealed { port: NO_APP, .. } | Endpoint::SealedIpv6 { port: NO_APP, .. }, _) => {
                Err(std::io::ErrorKind::ConnectionRefused.into())
            }
            (Endpoint::Direct(address), _) => TcpStream::connect(address).await,
            (Endpoint::Sealed { .. } | Endpoint::SealedIpv6 { .. }, Some(app)) => {
                TcpStream::connect(app).await
            }
            (Endpoint::Sealed { .. } | Endpoint::SealedIpv6 { .. }, None) => {
                Err(std::io::ErrorKind::Unsupported.into())
            }
        }
    }

    async fn checkpoint_status(&self, revision: u64, _: &App) -> CheckpointStatus {
        match self.bakes.load(Ordering::SeqCst) {
            false => CheckpointStatus::Never,
            true if self.baked.lock().contains(&revision) => CheckpointStatus::Present,
            true => CheckpointStatus::Missing,
        }
    }

    async fn bake(&self, id: &InstanceId, revision: u64, _: &App) -> Result<(), RuntimeError> {
        self.bake_attempts.fetch_add(1, Ordering::SeqCst);
        if take_one(&self.failing_bakes) {
            return Err(RuntimeError::Exhausted("disk"));
        }
        if self.bake_hangs.swap(false, Ordering::SeqCst) {
            self.hanging.notify_one();
            std::future::pending::<()>().await;
        }
        if !self.takes.is_zero() {
            tokio::time::sleep(self.takes).await;
        }
        if !self.end(id) {
            return Err(RuntimeError::Start(format!("{id} does not run")));
        }
        self.baked.lock().push(revision);
        Ok(())
    }

    async fn discard_checkpoint(&self, revision: u64, _: &App) -> Result<(), RuntimeError> {
        self.baked.lock().retain(|baked| *baked != revision);
        Ok(())
    }

    async fn exec(&self, request: &StartRequest, command: ExecCommand) -> Result<ExecOutput, RuntimeError> {
        assert!(self.running.lock().contains(&request.id));
        assert_eq!(command.env.get("KEY"), command.argv.last());
        if self.exec_hangs.swap(false, Ordering::SeqCst) {
            self.hanging.notify_one();
            std::future::pending::<()>().await;
        }
        let output = Bytes::from(format!("so {}", command.argv.join(" ")));
        self.ran.lock().push((request.id.clone(), command.argv));
        let status = self.exec_status.lock().unwrap_or(Some(0));
        Ok(ExecOutput { status, output })
    }

    async fn stop(&self, id: &InstanceId) -> Result<(), RuntimeError> {
        if take_one(&self.failing_stops) {
            let source = std::io::Error::other("the stop fails");
            return Err(RuntimeError::Io { operation: "stop".to_owned(), source });
        }
        if !self.takes.is_zero() {
            tokio::time::sleep(self.takes).await;
        }
        self.end(id);
        Ok(())
    }

    async fn list(&self) -> Result<Vec<InstanceId>, RuntimeError> {
        Ok(self.running())
    }

    async fn logs(&self, id: &InstanceId) -> Option<Bytes> {
        self.running().contains(id).then(Bytes::new)
    }

    fn exits(&self) -> mpsc::UnboundedReceiver<Exit> {
        let (listener, exits) = mpsc::unbounded_channel();
        *self.listener.lock() = Some(listener);
        exits
    }
}
