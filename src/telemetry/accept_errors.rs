//! The log lines of connections that the kernel does not let the server accept, limited in rate.

use std::io;

use rustix::io::Errno;

use super::log_rate::LogRate;

/// Logs errors of `accept`, of which there are twenty a second while the process has no free descriptor.
#[derive(Debug, Default)]
pub(crate) struct AcceptErrors {
    rate: LogRate,
}

impl AcceptErrors {
    /// Logs an error, unless one was logged a short time before.
    pub(crate) fn log(&mut self, error: &io::Error) {
        let Some(not_logged) = self.rate.admit() else { return };
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

    #[test]
    fn only_an_error_of_a_limit_has_a_remedy() {
        let remedy_for = |error| remedy(&io::Error::from(error));
        assert!(remedy_for(Errno::MFILE).is_some_and(|remedy| remedy.contains("MAX_CONNECTIONS")));
        assert!(remedy_for(Errno::NFILE).is_some_and(|remedy| remedy.contains("fs.file-max")));
        assert_eq!(remedy_for(Errno::CONNABORTED), None);
    }
}
