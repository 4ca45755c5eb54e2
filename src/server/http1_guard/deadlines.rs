//! The timers of a guarded connection.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::time::{Instant, Sleep};

/// One timer that is moved from deadline to deadline, so that a connection allocates it once.
#[derive(Default)]
pub(super) struct DeadlineTimer(Option<Pin<Box<Sleep>>>);

impl DeadlineTimer {
    /// Ready once `until` has come.
    pub(super) fn poll_until(&mut self, cx: &mut Context<'_>, until: Instant) -> Poll<()> {
        let sleep = self.0.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        if sleep.deadline() != until {
            sleep.as_mut().reset(until);
        }
        sleep.as_mut().poll(cx)
    }
}

/// The deadlines of the write half.
#[derive(Default)]
pub(super) struct WriteDeadlines {
    /// Since when the client has taken none of the bytes that wait for it.
    pub(super) stalled_since: Option<Instant>,
    /// Until when the guard waits for the client at the end: for its acknowledgement, or for it to stop sending.
    pub(super) linger_until: Option<Instant>,
    /// When to ask the kernel again whether the client acknowledged its response.
    pub(super) next_ack_poll: Option<Instant>,
    pub(super) timer: DeadlineTimer,
}
