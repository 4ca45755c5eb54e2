//! What this node keeps of one template's checkpoints.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::backoff::Backoff;

/// Longest pause between two attempts to bake. Each takes as much as several starts.
const MAX_PAUSE: Duration = Duration::from_secs(10 * 60);

/// Restored instances that do not become ready, one after another, before their checkpoint is discarded.
const MAX_FAILED_RESTORES: u32 = 3;

/// The progress of one template's checkpoints.
#[derive(Debug)]
pub(in crate::pool) struct BakeState {
    is_baking: AtomicBool,
    /// The failures since a restored instance became ready: bakes that failed, and checkpoints that were of no use.
    backoff: Mutex<Backoff>,
    /// Restored instances that did not become ready since the last that did.
    failed_restores: AtomicU32,
    /// The revision for which the runtime reported last that there is nothing to bake.
    settled_revision: Mutex<Option<u64>>,
}

impl Default for BakeState {
    fn default() -> Self {
        Self {
            is_baking: AtomicBool::default(),
            backoff: Mutex::new(Backoff::up_to(MAX_PAUSE)),
            failed_restores: AtomicU32::default(),
            settled_revision: Mutex::default(),
        }
    }
}

impl BakeState {
    /// Returns whether there was nothing to bake for this revision when the runtime was last asked.
    pub(super) fn is_settled(&self, revision: u64) -> bool {
        *self.settled_revision.lock() == Some(revision)
    }

    /// Notes the revision for which there is nothing to bake; `None` when there is.
    pub(super) fn set_settled(&self, revision: Option<u64>) {
        *self.settled_revision.lock() = revision;
    }

    /// Marks a bake as begun. Returns false when one is in progress.
    pub(super) fn try_begin(&self) -> bool {
        !self.is_baking.swap(true, Ordering::AcqRel)
    }

    /// Marks the bake as ended.
    pub(super) fn end(&self) {
        self.is_baking.store(false, Ordering::Release);
    }

    /// Returns the time until another bake may begin after a failed one; `None` when it may begin now.
    pub(in crate::pool) fn pause(&self) -> Option<Duration> {
        self.backoff.lock().remaining(Instant::now())
    }

    /// Returns whether the last bake failed.
    pub(super) fn has_failed(&self) -> bool {
        self.backoff.lock().why().is_some()
    }

    /// Notes that a bake failed, or that its checkpoint was of no use. Returns whether it is the first failure, which
    /// is logged as an error.
    pub(super) fn record_failure(&self, why: String) -> bool {
        let mut backoff = self.backoff.lock();
        let is_first = backoff.why().is_none();
        backoff.record_failure(Instant::now(), why);
        is_first
    }

    /// Notes that a restored instance did not become ready. Returns whether its checkpoint is to be discarded.
    pub(super) fn record_failed_restore(&self) -> bool {
        let failed = self.failed_restores.fetch_add(1, Ordering::AcqRel) + 1;
        // Of several attempts at the same time one discards it; if that fails, a later one does.
        failed.is_multiple_of(MAX_FAILED_RESTORES)
    }

    /// Forgets the failures: a restored instance is ready, or a new revision may have mended what made the old one
    /// fail.
    pub(in crate::pool) fn reset(&self) {
        self.failed_restores.store(0, Ordering::Release);
        self.backoff.lock().reset();
    }

    /// Notes that there is a new checkpoint, of which no restore has failed.
    pub(super) fn begin_checkpoint(&self) {
        self.failed_restores.store(0, Ordering::Release);
    }
}
