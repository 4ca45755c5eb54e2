//! How long a template that fails to warm is left alone.

use std::time::Duration;

use tokio::time::Instant;

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);

/// Doubles from one second to one minute with each failure in a row; a success forgets them.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
    until: Option<Instant>,
    why: Option<String>,
}

impl Backoff {
    /// Counts a failure. Failures of attempts that ran side by side count once.
    pub(crate) fn failed(&mut self, now: Instant, why: String) {
        self.why = Some(why);
        if self.remaining(now).is_none() {
            let pause = FIRST.saturating_mul(1 << self.failures.min(6)).min(LONGEST);
            self.failures = self.failures.saturating_add(1);
            self.until = Some(now + pause);
        }
    }

    /// Forgets all failures.
    pub(crate) fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// Time until the next attempt, `None` when it may be made now.
    pub(crate) fn remaining(&self, now: Instant) -> Option<Duration> {
        self.until.and_then(|until| until.checked_duration_since(now)).filter(|left| !left.is_zero())
    }

    /// Why the last attempt failed, until one succeeds.
    pub(crate) fn why(&self) -> Option<&str> {
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
            backoff.failed(Instant::now(), "no".into());
            let pause = backoff.remaining(Instant::now()).unwrap();
            pauses.push(pause.as_secs());
            tokio::time::advance(pause).await;
            assert_eq!(backoff.remaining(Instant::now()), None);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        backoff.succeeded();
        assert_eq!(backoff.why(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_that_fail_side_by_side_count_once() {
        let mut backoff = Backoff::default();
        for _ in 0..4 {
            backoff.failed(Instant::now(), "no".into());
        }
        assert_eq!(backoff.remaining(Instant::now()), Some(FIRST));
    }
}
