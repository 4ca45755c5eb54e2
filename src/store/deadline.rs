//! The deadline of a call to the store.

use std::time::Duration;

use super::StoreError;

/// Longest time for a usual call; after that the caller treats the store as unavailable.
pub const CALL_DEADLINE: Duration = Duration::from_secs(1);

/// Bounds a call to the store.
///
/// # Errors
/// [`StoreError::Unavailable`] when `deadline` passes, else the error of the call.
pub async fn within<T>(
    deadline: Duration,
    call: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    match tokio::time::timeout(deadline, call).await {
        Ok(result) => result,
        Err(_) => Err(StoreError::Unavailable(format!("no answer within {deadline:?}"))),
    }
}
