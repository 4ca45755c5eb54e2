//! Which instances a task of the pools works on, so that no other task touches them meanwhile.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::instance::InstanceId;

/// The locked instances. The death of a locked instance is reported to the task that holds the lock, which handles it.
#[derive(Debug, Default, Clone)]
pub(super) struct InFlight(Arc<Mutex<HashMap<InstanceId, CancellationToken>>>);

/// The lock of one instance. Dropping it unlocks the instance.
#[derive(Debug)]
pub(super) struct InstanceLock {
    in_flight: InFlight,
    id: InstanceId,
    died: CancellationToken,
}

impl InFlight {
    /// Locks an instance. Returns `None` when another task has locked it.
    pub(super) fn lock(&self, id: &InstanceId) -> Option<InstanceLock> {
        let mut locked = self.0.lock();
        if locked.contains_key(id) {
            return None;
        }
        let died = CancellationToken::new();
        locked.insert(id.clone(), died.clone());
        Some(InstanceLock { in_flight: self.clone(), id: id.clone(), died })
    }

    /// Reports the death of an instance to the task that has locked it. Returns false when none has.
    pub(super) fn report_death(&self, id: &InstanceId) -> bool {
        self.0.lock().get(id).map(CancellationToken::cancel).is_some()
    }

    /// Returns all instances that are locked now.
    pub(super) fn locked(&self) -> HashSet<InstanceId> {
        self.0.lock().keys().cloned().collect()
    }
}

impl InstanceLock {
    /// Waits until the death of the instance is reported.
    pub(super) async fn died(&self) {
        self.died.cancelled().await;
    }

    /// Unlocks the instance. Returns whether its death was reported before; the caller must handle that, for the report
    /// is not repeated.
    pub(super) fn unlock(self) -> bool {
        let died = self.died.clone();
        // Unlocked first, and read afterwards: a death that is reported from here on finds no lock, so the task that
        // reports it handles it, and another task may have locked the instance by then.
        drop(self);
        died.is_cancelled()
    }
}

impl Drop for InstanceLock {
    fn drop(&mut self) {
        self.in_flight.0.lock().remove(&self.id);
    }
}
