//! What the runtimes have in common when they ask the host for something: it may take its time, and it may refuse.

use std::io;

use tokio::sync::oneshot;

use super::RuntimeError;

/// Runs what waits for the host on a thread made for waiting.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) => match e.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Only when the runtime ends, and then nobody is left to resume.
            Err(_) => std::future::pending().await,
        },
    }
}

/// Does what changes the thread that does it, such as its namespaces, on one of its own, which ends with that.
pub(super) async fn apart<T: Send + 'static>(
    name: &'static str,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let (reply, done) = oneshot::channel();
    std::thread::Builder::new().name(name.to_owned()).spawn(move || reply.send(work()))?;
    done.await.unwrap_or_else(|_| Err(io::Error::other(format!("the thread for `{name}` panicked"))))
}

/// Says what was being done when the system refused.
pub(super) trait IoContext<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, RuntimeError>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, RuntimeError> {
        self.map_err(|source| RuntimeError::Io { doing: what(), source })
    }
}
