//! Why a step of the store was not done.

use crate::instance::{ExtendRefused, TransitionRefused};

/// Why a step of the store was not done.
///
/// Nothing changed, with one exception: after `Unavailable` the step may have been done and only its answer lost. Each
/// step may then be repeated without harm: a claim gets its instance again, a sweep continues, and `insert`, `offer`,
/// `release`, `retire` and `fail` report that nothing remains to do (`Exists`, `Refused`, `Unknown`). Only `extend`
/// would be done and charged twice; the limits of the lease and of its visitor still hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The store did not answer within its deadline, or its answer cannot be used.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// The store has no such instance, or no longer has it.
    #[error("no such instance")]
    Unknown,
    /// The rules do not allow the step from the instance's present state; another step came first.
    #[error(transparent)]
    Refused(#[from] TransitionRefused),
    /// The lease could not be extended.
    #[error(transparent)]
    NotExtended(#[from] ExtendRefused),
    /// An instance with that id exists.
    #[error("that instance exists already")]
    Exists,
}
