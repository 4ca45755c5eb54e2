//! Helpers for operations that wait for the host: threads for them, and error context.

use std::io;

use tokio::sync::oneshot;

use super::RuntimeError;

/// Runs blocking work on one of tokio's threads for blocking work. If the work panics, the caller panics.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) => match e.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Happens only while tokio's runtime shuts down, and then no task resumes.
            Err(_) => std::future::pending().await,
        },
    }
}

/// Runs work that changes the state of its thread, such as its namespaces, on a new thread, which ends with the work.
///
/// # Errors
/// The error of the work; or the thread cannot be started, or panicked.
pub(super) async fn on_own_thread<T: Send + 'static>(
    name: &'static str,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let (reply, done) = oneshot::channel();
    std::thread::Builder::new().name(name.to_owned()).spawn(move || reply.send(work()))?;
    done.await.unwrap_or_else(|_| Err(io::Error::other(format!("the thread `{name}` panicked"))))
}

/// Adds the failed operation to an error of the system.
pub(super) trait IoContext<T> {
    /// Turns an IO error into a [`RuntimeError::Io`] with this operation, a verb and its object.
    fn context(self, operation: impl FnOnce() -> String) -> Result<T, RuntimeError>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn context(self, operation: impl FnOnce() -> String) -> Result<T, RuntimeError> {
        self.map_err(|source| RuntimeError::Io { operation: operation(), source })
    }
}
