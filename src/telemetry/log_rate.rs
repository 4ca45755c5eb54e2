//! A limit on how often one kind of log line is written, for what may happen many times a second.

use std::time::Duration;

use tokio::time::Instant;

/// Shortest time between two log lines of one kind.
pub(crate) const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Admits a log line at most every [`LOG_INTERVAL`], and counts those in between.
#[derive(Debug, Default)]
pub(crate) struct LogRate {
    last_line: Option<Instant>,
    /// Lines that were not admitted since the last one that was.
    unlogged: u64,
}

impl LogRate {
    /// Returns whether a line may be written now: if so, how many were not since the last one.
    pub(crate) fn admit(&mut self) -> Option<u64> {
        let now = Instant::now();
        if self.last_line.is_some_and(|last| now < last + LOG_INTERVAL) {
            self.unlogged += 1;
            return None;
        }
        self.last_line = Some(now);
        Some(std::mem::take(&mut self.unlogged))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_line_is_admitted_at_most_every_ten_seconds_and_the_others_are_counted() {
        let mut rate = LogRate::default();
        assert_eq!([rate.admit(), rate.admit(), rate.admit()], [Some(0), None, None]);
        tokio::time::advance(LOG_INTERVAL).await;
        assert_eq!([rate.admit(), rate.admit()], [Some(2), None]);
    }
}
