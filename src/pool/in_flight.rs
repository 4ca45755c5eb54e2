//! Which instances a task of ours is working on, so that no other touches them meanwhile.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::instance::InstanceId;

/// The instances in hand. One that dies there is left to whoever holds it.
#[derive(Debug, Default, Clone)]
pub(crate) struct InFlight(Arc<Mutex<HashMap<InstanceId, CancellationToken>>>);

/// The hold on one instance; dropping it lets go.
#[derive(Debug)]
pub(crate) struct InstanceLock {
    hands: InFlight,
    id: InstanceId,
    died: CancellationToken,
}

impl InFlight {
    /// Takes hold of an instance; `None` when somebody else has it.
    pub(crate) fn take(&self, id: &InstanceId) -> Option<InstanceLock> {
        let mut held = self.0.lock();
        if held.contains_key(id) {
            return None;
        }
        let died = CancellationToken::new();
        held.insert(id.clone(), died.clone());
        Some(InstanceLock { hands: self.clone(), id: id.clone(), died })
    }

    /// Tells the holder of an instance that it died. False when nobody holds it.
    pub(crate) fn died(&self, id: &InstanceId) -> bool {
        self.0.lock().get(id).map(CancellationToken::cancel).is_some()
    }

    /// All that is held now.
    pub(crate) fn held(&self) -> HashSet<InstanceId> {
        self.0.lock().keys().cloned().collect()
    }
}

impl InstanceLock {
    /// Done when the instance died while held.
    pub(crate) async fn died(&self) {
        self.died.cancelled().await;
    }

    /// Lets go. True when it had died before: nobody else will be told.
    pub(crate) fn let_go(self) -> bool {
        let died = self.died.clone();
        // Removed first, and once: a death from here on finds nobody and is handled by the one who reports it, and
        // the next to take hold may already have done so.
        drop(self);
        died.is_cancelled()
    }
}

impl Drop for InstanceLock {
    fn drop(&mut self) {
        self.hands.0.lock().remove(&self.id);
    }
}
