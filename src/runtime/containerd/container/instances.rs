//! The running instances of this runtime.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use parking_lot::Mutex;
use tokio::net::unix::pipe::Receiver;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::disk::Disk;
use crate::instance::InstanceId;
use crate::runtime::Exit;
use crate::runtime::containerd::checkpoint::manifest::CheckpointKey;
use crate::runtime::containerd::checkpoint::sharing::MadviseTrace;
use crate::runtime::containerd::host::id_ranges::IdRange;
use crate::runtime::containerd::host::yielding::Yielding;
use crate::runtime::containerd::network::database_port::DatabasePort;
use crate::runtime::containerd::network::egress::EgressLink;
use crate::runtime::output_log::OutputLog;
use crate::telemetry::task;

/// Output kept of each instance, in bytes.
pub(crate) const OUTPUT_LOG_BYTES: usize = 256 * 1024;

/// An instance, from the call of `start` until no resource of it remains.
pub(crate) struct RunningContainer {
    /// Held by the operation that changes the instance: start, stop, bake, or the handling of an exit.
    pub(crate) operation_lock: tokio::sync::Mutex<()>,
    pub(crate) log: Arc<OutputLog>,
    /// Number of its network namespace; 0 before it has one.
    pub(crate) namespace: AtomicU32,
    /// The ids on this host of its user namespace; `None` if it has none.
    pub(crate) ids: Mutex<Option<IdRange>>,
    /// Its link to the internet, if its template has egress.
    pub(crate) egress_link: Mutex<Option<EgressLink>>,
    /// Where its app reaches the database server, if it has a database.
    pub(crate) database_port: Mutex<Option<DatabasePort>>,
    /// Set if it leaves the processors to the others at first.
    pub(crate) yielding: Option<Arc<Yielding>>,
    /// Whether the server is ending it.
    is_being_ended: AtomicBool,
    /// Why the server killed its processes; the cause of its exit.
    pub(crate) end_cause: Mutex<Option<String>>,
    /// Cancelled when the instance is removed; then its output is no longer read.
    pub(crate) removed: CancellationToken,
    /// The checkpoint from which it was restored.
    pub(crate) checkpoint: Mutex<Option<CheckpointKey>>,
    /// The disk that it writes to; `None` before it has one, or if an earlier server started it.
    pub(crate) disk: Mutex<Option<Arc<Disk>>>,
    /// The trace of the memory that it discards, or why there is none; `None` if the instance will not be baked.
    pub(crate) madvise_trace: Mutex<Option<io::Result<MadviseTrace>>>,
}

impl RunningContainer {
    /// Marks the instance as ended by the server: its exit is not reported.
    pub(crate) fn begin_end(&self) {
        self.is_being_ended.store(true, Ordering::Release);
    }

    /// Returns whether the server is ending it.
    pub(crate) fn is_ending(&self) -> bool {
        self.is_being_ended.load(Ordering::Acquire)
    }

    /// Makes its group idle, if it yields and has a group by now.
    pub(super) fn apply_yielding(&self) {
        if let Some(yielding) = &self.yielding {
            yielding.apply();
        }
    }

    /// Reads its output into its log until it is removed.
    pub(crate) fn keep_output(&self, pipe: Receiver) {
        let (log, removed) = (self.log.clone(), self.removed.clone());
        task::spawn("an instance's output", async move {
            tokio::select! {
                () = log.fill_from(pipe) => {}
                () = removed.cancelled() => {}
            }
        });
    }
}

/// All running instances, and the receiver of their exits.
#[derive(Default)]
pub(crate) struct Instances {
    running: Mutex<HashMap<InstanceId, Arc<RunningContainer>>>,
    exit_listener: Mutex<Option<mpsc::UnboundedSender<Exit>>>,
    /// The ports of instances that another process takes over. Their sockets stay open for that process.
    passed_ports: Mutex<Vec<DatabasePort>>,
}

impl Instances {
    /// Adds an instance; `None` if the id exists.
    pub(crate) fn insert(
        &self,
        id: &InstanceId,
        log_limit: usize,
        yielding: Option<Yielding>,
    ) -> Option<Arc<RunningContainer>> {
        let mut running = self.running.lock();
        if running.contains_key(id) {
            return None;
        }
        let instance = Arc::new(RunningContainer {
            operation_lock: tokio::sync::Mutex::default(),
            log: Arc::new(OutputLog::new(log_limit)),
            namespace: AtomicU32::new(0),
            ids: Mutex::default(),
            egress_link: Mutex::default(),
            database_port: Mutex::default(),
            yielding: yielding.map(Arc::new),
            is_being_ended: AtomicBool::new(false),
            end_cause: Mutex::default(),
            removed: CancellationToken::new(),
            checkpoint: Mutex::default(),
            disk: Mutex::default(),
            madvise_trace: Mutex::default(),
        });
        running.insert(id.clone(), instance.clone());
        Some(instance)
    }

    pub(crate) fn get(&self, id: &InstanceId) -> Option<Arc<RunningContainer>> {
        self.running.lock().get(id).cloned()
    }

    /// Returns the checkpoint from which an instance was restored.
    pub(crate) fn checkpoint_of(&self, id: &InstanceId) -> Option<CheckpointKey> {
        self.get(id)?.checkpoint.lock().clone()
    }

    pub(crate) fn ids(&self) -> Vec<InstanceId> {
        self.running.lock().keys().cloned().collect()
    }

    /// Returns the checkpoints on whose snapshots instances are based.
    pub(crate) fn checkpoints_in_use(&self) -> Vec<CheckpointKey> {
        self.running.lock().values().filter_map(|instance| instance.checkpoint.lock().clone()).collect()
    }

    /// Returns a receiver of all exits from now on, in place of the previous receiver.
    pub(crate) fn subscribe_exits(&self) -> mpsc::UnboundedReceiver<Exit> {
        let (sender, exits) = mpsc::unbounded_channel();
        *self.exit_listener.lock() = Some(sender);
        exits
    }

    /// Forgets all instances, and reads their output no more. They run on.
    pub(crate) fn forget_all(&self) {
        let forgotten = std::mem::take(&mut *self.running.lock());
        for instance in forgotten.values() {
            instance.removed.cancel();
            let port = instance.database_port.lock().take();
            self.passed_ports.lock().extend(port.inspect(DatabasePort::pause));
        }
    }

    /// Returns the instance whose container has this name.
    pub(crate) fn find(&self, id: &str) -> Option<(InstanceId, Arc<RunningContainer>)> {
        let running = self.running.lock();
        let found = running.iter().find(|(known, _)| known.as_str() == id);
        found.map(|(known, instance)| (known.clone(), instance.clone()))
    }

    /// Sends an exit to the receiver.
    pub(super) fn report_exit(&self, id: &InstanceId, cause: String) {
        if let Some(exit_listener) = &*self.exit_listener.lock() {
            // A receiver that is gone needs no report.
            let _ = exit_listener.send(Exit { id: id.clone(), cause });
        }
    }

    /// Removes an instance, unless another one has its id by now.
    pub(crate) fn remove(&self, id: &InstanceId, instance: &Arc<RunningContainer>) {
        let mut running = self.running.lock();
        if running.get(id).is_some_and(|current| Arc::ptr_eq(current, instance)) {
            running.remove(id);
        }
    }
}
