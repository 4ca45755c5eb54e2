//! The last output of an instance, as the engine keeps it.

use bollard::query_parameters::LogsOptions;
use bytes::Bytes;
use futures_util::{Stream, TryStreamExt};
use tokio::time::{Duration, timeout};

use super::inner::Inner;
use super::instances::EngineInstance;
use crate::runtime::output_log::OutputLog;

/// Output returned of each instance, in bytes.
const OUTPUT_LOG_BYTES: usize = 256 * 1024;
/// Most lines that the engine is asked for.
const OUTPUT_LINES: &str = "5000";
/// Longest time for reading them.
const READ_DEADLINE: Duration = Duration::from_secs(10);

impl Inner {
    /// Returns the last output of an instance; empty while it has no container or the engine does not answer.
    pub(super) async fn output(&self, instance: &EngineInstance) -> Bytes {
        let Some(container) = instance.container() else { return Bytes::new() };
        let options =
            LogsOptions { stdout: true, stderr: true, tail: OUTPUT_LINES.to_owned(), ..Default::default() };
        let log = OutputLog::new(OUTPUT_LOG_BYTES);
        let read = timeout(READ_DEADLINE, keep(&log, self.docker.logs(&container, Some(options)))).await;
        if !matches!(read, Ok(Ok(()))) {
            tracing::debug!(container, "failed to read the output of an instance to its end");
        }
        log.bytes()
    }
}

/// Keeps the end of a stream of output.
pub(super) async fn keep(
    log: &OutputLog,
    output: impl Stream<Item = Result<bollard::container::LogOutput, bollard::errors::Error>>,
) -> Result<(), bollard::errors::Error> {
    let mut output = std::pin::pin!(output);
    while let Some(part) = output.try_next().await? {
        log.push(&part.into_bytes());
    }
    Ok(())
}
