//! What this node keeps of one template's checkpoints.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::backoff::Backoff;

/// The progress of one template's checkpoints.
#[derive(Debug, Default)]
pub(in crate::pool) struct BakeState {
    is_baking: AtomicBool,
    backoff: Mutex<Backoff>,
    /// The revision for which the runtime reported last that there is nothing to bake.
    settled_revision: Mutex<Option<u64>>,
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

    /// Notes that a bake failed.
    pub(super) fn record_failure(&self, why: String) {
        self.backoff.lock().record_failure(Instant::now(), why);
    }

    /// Forgets the failures: a bake succeeded, or a new revision may have mended what made the old one fail.
    pub(in crate::pool) fn reset_backoff(&self) {
        self.backoff.lock().reset();
    }
}
