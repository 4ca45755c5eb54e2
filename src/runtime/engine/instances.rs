//! The instances of this runtime.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::instance::InstanceId;
use crate::runtime::Exit;

/// Instances that ended by themselves whose last output is kept.
const KEPT_OUTPUTS: usize = 16;

/// An instance, from the call of `start` until no resource of it remains.
#[derive(Debug, Default)]
pub(super) struct EngineInstance {
    /// Held by the operation that changes the instance: start, stop, or the handling of an exit.
    pub(super) operation_lock: tokio::sync::Mutex<()>,
    /// The engine's id of its container; `None` before the engine has answered.
    container: Mutex<Option<String>>,
    /// Number of its network namespace; 0 while it has none.
    pub(super) namespace: AtomicU32,
    /// Number of its first process on this host; 0 while it is not known.
    pub(super) pid: AtomicU32,
    /// Whether the server is ending it.
    is_being_ended: AtomicBool,
}

impl EngineInstance {
    /// Returns the engine's id of its container.
    pub(super) fn container(&self) -> Option<String> {
        self.container.lock().clone()
    }

    /// Records the engine's id of its container.
    pub(super) fn set_container(&self, container: String) {
        *self.container.lock() = Some(container);
    }

    /// Marks the instance as ended by the server: its exit is not reported.
    pub(super) fn begin_end(&self) {
        self.is_being_ended.store(true, Ordering::Release);
    }

    /// Returns whether the server is ending it.
    pub(super) fn is_ending(&self) -> bool {
        self.is_being_ended.load(Ordering::Acquire)
    }
}

/// All instances, and the receiver of their exits.
#[derive(Debug, Default)]
pub(super) struct Instances {
    running: Mutex<HashMap<InstanceId, Arc<EngineInstance>>>,
    /// Whether another process has them.
    is_handed_over: AtomicBool,
    exit_listener: Mutex<Option<mpsc::UnboundedSender<Exit>>>,
    /// The last output of instances that ended by themselves, until they are stopped; the oldest is dropped first. With
    /// the container goes what the engine has of it, and who hears of the exit asks for it only then.
    last_outputs: Mutex<VecDeque<(InstanceId, Bytes)>>,
}

impl Instances {
    /// Forgets all instances. They run on, and another process has them.
    pub(super) fn forget_all(&self) {
        let mut running = self.running.lock();
        self.is_handed_over.store(true, Ordering::Release);
        running.clear();
    }

    /// Returns whether what the node has of an instance is left over: no instance has this id. Once another process has
    /// the instances, nothing is.
    pub(super) fn is_unknown(&self, id: &InstanceId) -> bool {
        let running = self.running.lock();
        !self.is_handed_over.load(Ordering::Acquire) && !running.contains_key(id)
    }

    /// Adds an instance; `None` if the id exists.
    pub(super) fn insert(&self, id: &InstanceId) -> Option<Arc<EngineInstance>> {
        let mut running = self.running.lock();
        if running.contains_key(id) {
            return None;
        }
        let instance = Arc::<EngineInstance>::default();
        running.insert(id.clone(), instance.clone());
        Some(instance)
    }

    pub(super) fn get(&self, id: &InstanceId) -> Option<Arc<EngineInstance>> {
        self.running.lock().get(id).cloned()
    }

    pub(super) fn ids(&self) -> Vec<InstanceId> {
        self.running.lock().keys().cloned().collect()
    }

    /// Returns all instances as they are now.
    pub(super) fn all(&self) -> Vec<(InstanceId, Arc<EngineInstance>)> {
        self.running.lock().iter().map(|(id, instance)| (id.clone(), instance.clone())).collect()
    }

    /// Returns the instance that has a container.
    pub(super) fn find(&self, container: &str) -> Option<(InstanceId, Arc<EngineInstance>)> {
        let has_it = |instance: &EngineInstance| instance.container.lock().as_deref() == Some(container);
        self.all().into_iter().find(|(_, instance)| has_it(instance))
    }

    /// Keeps the last output of an instance that ended by itself.
    pub(super) fn keep_output(&self, id: &InstanceId, output: Bytes) {
        let mut kept = self.last_outputs.lock();
        if kept.len() >= KEPT_OUTPUTS {
            kept.pop_front();
        }
        kept.push_back((id.clone(), output));
    }

    /// Returns the last output of an instance that ended by itself and was not stopped since.
    pub(super) fn last_output(&self, id: &InstanceId) -> Option<Bytes> {
        self.last_outputs.lock().iter().find(|(ended, _)| ended == id).map(|(_, output)| output.clone())
    }

    /// Forgets the last output of an instance.
    pub(super) fn forget_output(&self, id: &InstanceId) {
        self.last_outputs.lock().retain(|(ended, _)| ended != id);
    }

    /// Returns a receiver of all exits from now on, in place of the previous receiver.
    pub(super) fn subscribe_exits(&self) -> mpsc::UnboundedReceiver<Exit> {
        let (sender, exits) = mpsc::unbounded_channel();
        *self.exit_listener.lock() = Some(sender);
        exits
    }

    /// Sends an exit to the receiver.
    pub(super) fn report_exit(&self, id: &InstanceId, cause: String) {
        if let Some(exit_listener) = &*self.exit_listener.lock() {
            // A receiver that is gone needs no report.
            let _ = exit_listener.send(Exit { id: id.clone(), cause });
        }
    }

    /// Removes an instance, unless another one has its id by now.
    pub(super) fn remove(&self, id: &InstanceId, instance: &Arc<EngineInstance>) {
        let mut running = self.running.lock();
        if running.get(id).is_some_and(|current| Arc::ptr_eq(current, instance)) {
            running.remove(id);
        }
    }
}
