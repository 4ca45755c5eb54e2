//! Signs that the data in Valkey is damaged: single keys are lost, or have other types or unreadable values.
//!
//! No script fails on data that this program wrote, and no answer is malformed. So each such failure begins a recovery,
//! see [`super::recovery`].

use std::sync::Arc;

use parking_lot::Mutex;
use redis::{ErrorKind, RedisError};
use tokio::sync::Notify;

use crate::store::StoreError;

/// What was found to be wrong, until the recovery task takes it.
#[derive(Debug, Default)]
pub(super) struct DamageReport {
    found: Mutex<Option<String>>,
    /// Wakes the recovery task before its next check is due.
    pub(super) wake_recovery: Notify,
}

impl DamageReport {
    /// Notes what is wrong, and wakes the recovery task.
    pub(super) fn note(&self, what: &str) {
        self.found.lock().get_or_insert_with(|| what.to_owned());
        self.wake_recovery.notify_one();
    }

    /// Notes what is wrong, and returns the error of a call whose answer cannot be believed because of it.
    pub(super) fn refuse(&self, what: &str) -> StoreError {
        self.note(what);
        StoreError::Unavailable(format!("its data is damaged and being restored: {what}"))
    }

    /// Notes an error if only damaged data explains it.
    pub(super) fn note_error(&self, error: &RedisError) {
        if is_sign_of_damage(error) {
            self.note(&error.to_string());
        }
    }

    /// Notes an answer that no script gives, and returns its error.
    pub(super) fn malformed(&self) -> StoreError {
        self.note("an answer is not in this program's format");
        malformed()
    }

    /// Returns what was found, and forgets it.
    pub(super) fn take(&self) -> Option<String> {
        self.found.lock().take()
    }
}

/// A shared report of damage.
pub(super) type SharedDamageReport = Arc<DamageReport>;

/// Returns the error for an answer that no script of this program gives.
pub(super) fn malformed() -> StoreError {
    StoreError::Unavailable(
        "its data is not in this program's format; make sure that no other program uses the same keys"
            .to_owned(),
    )
}

fn is_sign_of_damage(error: &RedisError) -> bool {
    match error.kind() {
        ErrorKind::Parse | ErrorKind::UnexpectedReturnType => true,
        _ => match error.code() {
            Some("WRONGTYPE") => true,
            // The text of Valkey for an error of the script itself, or of a command in it.
            Some("ERR") => error.detail().is_some_and(|text| text.contains("script")),
            _ => false,
        },
    }
}
