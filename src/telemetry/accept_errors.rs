//! The log lines of connections that the kernel does not let the server accept, limited in rate.

use std::io;
use std::time::Duration;

use rustix::io::Errno;
use tokio::time::Instant;

/// Shortest time between two log lines.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Logs errors of `accept`, of which there are twenty a second while the process has no free descriptor.
#[derive(Debug, Default)]
pub(crate) struct AcceptErrors {
    last_line: Option<Instant>,
    /// Errors since the last line.
    unlogged: u64,
}

impl AcceptErrors {
    /// Logs an error, unless one was logged a short time before.
    pub(crate) fn log(&mut self, error: &io::Error) {
        let now = Instant::now();
        if self.last_line.is_some_and(|last| now < last + LOG_INTERVAL) {
            self.unlogged += 1;
            return;
        }
        self.last_line = Some(now);
        let not_logged = std::mem::take(&mut self.unlogged);
        match remedy(error) {
            Some(remedy) => {
                tracing::warn!(%error, not_logged, remedy, "failed to accept connection: limit of open files reached");
            }
            None => tracing::warn!(%error, not_logged, "failed to accept connection"),
        }
    }
}

/// Returns what the operator can do where an error says that no descriptor is free.
fn remedy(error: &io::Error) -> Option<&'static str> {
    match Errno::from_io_error(error)? {
        Errno::MFILE => Some(
            "raise the hard limit of open files (`ulimit -Hn`, LimitNOFILE= of a systemd unit), or lower \
             MAX_CONNECTIONS",
        ),
        Errno::NFILE => {
            Some("raise fs.file-max: all programs of this host together have too many files open")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_line_is_written_at_most_every_ten_seconds_and_counts_the_others() {
        let mut errors = AcceptErrors::default();
        let error = io::Error::from(Errno::MFILE);
        for expected in [0, 1, 2] {
            errors.log(&error);
            assert_eq!(errors.unlogged, expected);
        }
        tokio::time::advance(LOG_INTERVAL).await;
        errors.log(&error);
        assert_eq!(errors.unlogged, 0);
        assert!(remedy(&error).is_some_and(|remedy| remedy.contains("MAX_CONNECTIONS")));
        assert!(remedy(&io::Error::from(Errno::CONNABORTED)).is_none());
    }
}
