//! How much of a response that assigns an instance reached the client.
//!
//! The body of the response cannot show it: the engine takes the body long before it writes the response. So the engine
//! reports when it has taken all of the body, and the write half sees the bytes go. Whether the client got bytes that
//! were written after it left only the kernel knows, see [`AckState`].

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::pool::{Delivered, Delivery};
use crate::request::AckState;

/// How long after a response a reset still says something about it. Clients end connections with a reset, too.
const RESET_WINDOW: Duration = Duration::from_secs(1);

/// Tracks one response of a connection at a time, since responses follow one another. Whether there is one is known
/// without the lock.
#[derive(Debug, Default)]
pub(super) struct DeliveryTracker {
    is_tracking: AtomicBool,
    tracked: Mutex<TrackedDelivery>,
}

#[derive(Debug, Default)]
enum TrackedDelivery {
    /// No response, or one that assigns no instance.
    #[default]
    None,
    /// `is_complete` says whether the engine has taken all of the response.
    InProgress { delivery: Delivery, is_complete: bool },
    /// Every byte was given to the kernel at this moment, and nothing was received from the client since.
    Sent(Delivered, Instant),
}

impl DeliveryTracker {
    /// Whether a response is tracked that is not settled yet.
    pub(super) fn is_tracking(&self) -> bool {
        self.is_tracking.load(Ordering::Acquire)
    }

    /// Tracks the response that is made now, which assigns an instance.
    pub(super) fn start(&self, delivery: Delivery) {
        *self.tracked.lock() = TrackedDelivery::InProgress { delivery, is_complete: false };
        self.is_tracking.store(true, Ordering::Release);
    }

    /// Records that the engine has taken all of the response. The engine writes it before it flushes.
    pub(super) fn mark_taken(&self) {
        if let TrackedDelivery::InProgress { is_complete, .. } = &mut *self.tracked.lock() {
            *is_complete = true;
        }
    }

    /// Records that bytes are written now. Call it before the write.
    pub(super) fn mark_attempted(&self) {
        if let TrackedDelivery::InProgress { delivery, .. } = &mut *self.tracked.lock() {
            delivery.mark_attempted();
        }
    }

    /// Records that everything that the engine took was written.
    pub(super) fn mark_flushed(&self) {
        let mut tracked = self.tracked.lock();
        if let TrackedDelivery::InProgress { is_complete: true, .. } = *tracked
            && let TrackedDelivery::InProgress { delivery, .. } = std::mem::take(&mut *tracked)
            && let Some(delivered) = delivery.complete()
        {
            *tracked = TrackedDelivery::Sent(delivered, Instant::now());
        }
    }

    /// Records that the client sent a further message, and so has received a response that was sent. A client that
    /// pipelines sends it earlier, so a response that was not sent yet stays tracked.
    pub(super) fn mark_received(&self) {
        let mut tracked = self.tracked.lock();
        if !matches!(*tracked, TrackedDelivery::InProgress { .. }) {
            *tracked = TrackedDelivery::None;
            self.is_tracking.store(false, Ordering::Release);
        }
    }

    /// Whether all of the response was sent and the client has not confirmed it.
    pub(super) fn is_sent(&self) -> bool {
        self.is_tracking() && matches!(*self.tracked.lock(), TrackedDelivery::Sent(..))
    }

    /// Decides what became of the response, at the end of the connection, when nothing more is received.
    pub(super) fn settle(&self, ack_state: AckState) {
        let tracked = std::mem::take(&mut *self.tracked.lock());
        self.is_tracking.store(false, Ordering::Release);
        match (tracked, ack_state) {
            (TrackedDelivery::Sent(delivered, _), AckState::Refused) => delivered.mark_lost(),
            (TrackedDelivery::Sent(delivered, sent_at), AckState::AcknowledgedThenReset)
                if sent_at.elapsed() < RESET_WINDOW =>
            {
                delivered.mark_doubtful();
            }
            (TrackedDelivery::Sent(delivered, _), AckState::Pending) => delivered.mark_doubtful(),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::delivery_probe::{Outcome, granted};

    fn outcome_after(course: impl FnOnce(&DeliveryTracker)) -> Outcome {
        let (delivery, outcome) = granted();
        let tracker = DeliveryTracker::default();
        assert!(!tracker.is_tracking());
        tracker.start(delivery);
        assert!(tracker.is_tracking());
        course(&tracker);
        drop(tracker);
        outcome()
    }

    #[tokio::test(start_paused = true)]
    async fn a_reset_long_after_the_response_says_nothing_about_it() {
        let (delivery, outcome) = granted();
        let tracker = DeliveryTracker::default();
        tracker.start(delivery);
        tracker.mark_taken();
        tracker.mark_flushed();
        tokio::time::advance(RESET_WINDOW).await;
        tracker.settle(AckState::AcknowledgedThenReset);
        assert_eq!(outcome(), Outcome::CONFIRMED);
    }

    #[test]
    fn what_becomes_of_an_instance_depends_on_how_much_of_the_response_was_sent() {
        assert_eq!(outcome_after(|_| ()), Outcome::CLAIM_UNDONE);
        assert_eq!(
            outcome_after(DeliveryTracker::mark_taken),
            Outcome::CLAIM_UNDONE,
            "taken by the engine and not written"
        );
        assert_eq!(
            outcome_after(DeliveryTracker::mark_flushed),
            Outcome::CLAIM_UNDONE,
            "an earlier response was flushed"
        );
        let half = |it: &DeliveryTracker| {
            it.mark_attempted();
            it.mark_flushed();
        };
        assert_eq!(outcome_after(half), Outcome::RELEASED, "the rest was not written");
        let whole_response = |it: &DeliveryTracker| {
            it.mark_taken();
            it.mark_attempted();
            it.mark_flushed();
        };
        assert_eq!(outcome_after(whole_response), Outcome::CONFIRMED);
        for (ack_state, expected) in [
            (AckState::Acknowledged, Outcome::CONFIRMED),
            (AckState::Pending, Outcome::CONFIRMED_AND_DOUBTFUL),
            (AckState::Refused, Outcome::CONFIRMED_AND_RELEASED),
            (AckState::AcknowledgedThenReset, Outcome::CONFIRMED_AND_DOUBTFUL),
        ] {
            let ended = |it: &DeliveryTracker| {
                whole_response(it);
                assert!(it.is_sent());
                it.settle(ack_state);
                assert!(!it.is_tracking());
            };
            assert_eq!(outcome_after(ended), expected, "{ack_state:?}");
        }
        let pipelined = |it: &DeliveryTracker| {
            it.mark_taken();
            it.mark_received();
            it.mark_attempted();
            it.mark_flushed();
            it.settle(AckState::Acknowledged);
        };
        assert_eq!(
            outcome_after(pipelined),
            Outcome::CONFIRMED,
            "a further message came before the response left"
        );
        let received = |it: &DeliveryTracker| {
            whole_response(it);
            it.mark_received();
            it.settle(AckState::Refused);
        };
        assert_eq!(
            outcome_after(received),
            Outcome::CONFIRMED,
            "the refused bytes belong to a later response"
        );
    }
}
