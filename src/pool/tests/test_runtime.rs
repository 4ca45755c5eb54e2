//! A runtime whose instances are entries in a list, and whose faults are ordered.

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
    CheckpointStatus, Command, ExecOutput, Exit, HostMemory, MemoryReport, MemoryUse, Runtime, RuntimeError,
    StartMethod, StartRequest, Started,
};
use crate::template::App;

/// What becomes of one start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StartFault {
    /// The app cannot be started.
    Fail,
    /// The host has no room.
    Exhausted,
    /// It runs, but `start` never returns.
    Hang,
}

#[derive(Default)]
pub(crate) struct TestRuntime {
    /// In the order of their starts.
    running: Mutex<Vec<InstanceId>>,
    listener: Mutex<Option<mpsc::UnboundedSender<Exit>>>,
    app: Option<SocketAddr>,
    /// How long a start takes, and a stop.
    takes: Duration,
    pub(super) next_start: Mutex<Option<StartFault>>,
    /// So many starts fail.
    pub(super) bad_starts: AtomicUsize,
    /// So many stops fail.
    pub(super) bad_stops: AtomicUsize,
    pub(super) starts: AtomicUsize,
    /// How each start was made that worked.
    pub(super) methods: Mutex<Vec<StartMethod>>,
    /// What a start from nothing takes beyond the others.
    pub(super) cold_takes: Mutex<Duration>,
    /// Whether it makes golden checkpoints.
    pub(super) bakes: AtomicBool,
    /// The revisions that it has one of, in the order of their making.
    pub(super) baked: Mutex<Vec<u64>>,
    /// So many bakes fail.
    pub(super) bad_bakes: AtomicUsize,
    pub(super) bakes_tried: AtomicUsize,
    /// Whether the next bake never returns.
    pub(super) bake_hangs: AtomicBool,
    /// What becomes of the commands from now on; no status is one that took too long.
    pub(super) exec_ends: Mutex<Option<Option<u32>>>,
    /// Whether the next command never returns.
    pub(super) exec_hangs: AtomicBool,
    /// The commands that were run, and in what.
    pub(super) ran: Mutex<Vec<(InstanceId, Vec<String>)>>,
    /// The memory that its instances take; `None` where it cannot be known.
    pub(super) host: Mutex<Option<TestHost>>,
    /// Rung when a start hangs.
    pub(super) hanging: Notify,
    addresses: AtomicU32,
}

/// A host, in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct TestHost {
    pub(super) total: u64,
    /// What others use.
    pub(super) others: u64,
    /// What each instance takes.
    pub(super) each: u64,
}

fn one_less(count: &AtomicUsize) -> bool {
    count.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok()
}

impl TestRuntime {
    /// All of whose apps listen at `app`; without it there are none to ask.
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

    /// The app of an instance ends by itself. False when it does not run.
    pub(super) fn die(&self, id: &InstanceId) -> bool {
        let died = self.end(id);
        if died && let Some(listener) = &*self.listener.lock() {
            let _ = listener.send(Exit { id: id.clone(), how: "signal 9".to_owned() });
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
        })
    }

    fn runs_apps(&self) -> bool {
        self.app.is_some()
    }

    async fn start(&self, order: &StartRequest) -> Result<Started, RuntimeError> {
        self.starts.fetch_add(1, Ordering::SeqCst);
        if one_less(&self.bad_starts) {
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
        self.running.lock().push(order.id.clone());
        if fault == Some(StartFault::Hang) {
            self.hanging.notify_one();
            std::future::pending::<()>().await;
        }
        if !self.takes.is_zero() {
            tokio::time::sleep(self.takes).await;
        }
        let how = match self.checkpoint_status(order.revision, &order.app).await {
            CheckpointStatus::Present => StartMethod::Restored,
            CheckpointStatus::Missing | CheckpointStatus::Never => StartMethod::Cold,
        };
        let cold_takes = *self.cold_takes.lock();
        if how == StartMethod::Cold && !cold_takes.is_zero() {
            tokio::time::sleep(cold_takes).await;
        }
        self.methods.lock().push(how);
        Ok(Started { endpoint, how })
    }

    async fn connect(&self, endpoint: Endpoint) -> std::io::Result<TcpStream> {
        match (endpoint, self.app) {
            (Endpoint::Direct(address), _) => TcpStream::connect(address).await,
            (Endpoint::Sealed { .. }, Some(app)) => TcpStream::connect(app).await,
            (Endpoint::Sealed { .. }, None) => Err(std::io::ErrorKind::Unsupported.into()),
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
        self.bakes_tried.fetch_add(1, Ordering::SeqCst);
        if one_less(&self.bad_bakes) {
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

    async fn exec(&self, order: &StartRequest, command: Command) -> Result<ExecOutput, RuntimeError> {
        assert!(self.running.lock().contains(&order.id));
        assert_eq!(command.env.values().next(), command.words.last());
        if self.exec_hangs.swap(false, Ordering::SeqCst) {
            self.hanging.notify_one();
            std::future::pending::<()>().await;
        }
        let output = Bytes::from(format!("so {}", command.words.join(" ")));
        self.ran.lock().push((order.id.clone(), command.words));
        let status = self.exec_ends.lock().unwrap_or(Some(0));
        Ok(ExecOutput { status, output })
    }

    async fn stop(&self, id: &InstanceId) -> Result<(), RuntimeError> {
        if one_less(&self.bad_stops) {
            let source = std::io::Error::other("it resists");
            return Err(RuntimeError::Io { doing: "stop".to_owned(), source });
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
