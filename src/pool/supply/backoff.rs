//! How long a template pauses after failures.

use std::time::Duration;

use tokio::time::Instant;

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// The failures in a row, and the pause that follows from them: it doubles from one second up to a maximum.
#[derive(Debug)]
pub(in crate::pool) struct Backoff {
    max_pause: Duration,
    failures: u32,
    until: Option<Instant>,
    why: Option<String>,
}

impl Default for Backoff {
    /// Returns a back-off that pauses for at most one minute.
    fn default() -> Self {
        Self::up_to(MAX_PAUSE)
    }
}

impl Backoff {
    /// Returns a back-off without failures.
    pub(in crate::pool) const fn up_to(max_pause: Duration) -> Self {
        Self { max_pause, failures: 0, until: None, why: None }
    }

    /// Counts a failure. A failure during a pause does not prolong it: attempts that ran side by side count once.
    pub(in crate::pool) fn record_failure(&mut self, now: Instant, why: String) {
        self.why = Some(why);
        if self.remaining(now).is_none() {
            let pause = FIRST_PAUSE.saturating_mul(1 << self.failures.min(16)).min(self.max_pause);
            self.failures = self.failures.saturating_add(1);
            self.until = Some(now + pause);
        }
    }

    /// Forgets all failures.
    pub(in crate::pool) fn reset(&mut self) {
        *self = Self::up_to(self.max_pause);
    }

    /// Returns the time until the next attempt may begin; `None` when it may begin now.
    pub(in crate::pool) fn remaining(&self, now: Instant) -> Option<Duration> {
        self.until.and_then(|until| until.checked_duration_since(now)).filter(|left| !left.is_zero())
    }

    /// Returns why the last attempt failed; `None` after a reset.
    pub(in crate::pool) fn why(&self) -> Option<&str> {
        self.why.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pauses_double_up_to_a_minute_and_a_success_ends_them() {
        let mut backoff = Backoff::default();
        let mut pauses = Vec::new();
        for _ in 0..9 {
            backoff.record_failure(Instant::now(), "no".into());
            let pause = backoff.remaining(Instant::now()).unwrap();
            pauses.push(pause.as_secs());
            tokio::time::advance(pause).await;
            assert_eq!(backoff.remaining(Instant::now()), None);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        backoff.reset();
        assert_eq!(backoff.why(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_that_fail_side_by_side_count_once() {
        let mut backoff = Backoff::default();
        for _ in 0..4 {
            backoff.record_failure(Instant::now(), "no".into());
        }
        assert_eq!(backoff.remaining(Instant::now()), Some(FIRST_PAUSE));
    }
}
