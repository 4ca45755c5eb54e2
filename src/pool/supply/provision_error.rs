//! Why an instance could not be made.

use super::hooks::HookError;
use super::readiness::ReadinessError;
use crate::runtime::{DatabaseError, RuntimeError};
use crate::store::StoreError;

/// Why an attempt made no instance. Nothing of the attempt remains.
#[derive(Debug, thiserror::Error)]
pub(in crate::pool) enum ProvisionError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    #[error(transparent)]
    Database(#[from] DatabaseError),
    #[error(transparent)]
    NotReady(#[from] ReadinessError),
    #[error(transparent)]
    Hook(#[from] HookError),
    #[error("the app ended before it was ready; its last output: {0}")]
    Died(String),
    #[error("the server is stopping")]
    Stopping,
    #[error("the template has changed meanwhile")]
    Outdated,
    #[error("the instance was started cold and not restored")]
    NotRestored,
}
