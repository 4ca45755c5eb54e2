//! The answer on this connection that hands out an instance: how much of it the client got.
//!
//! It cannot be seen from the answer's body, which the engine takes long before it writes: so the engine says when it has
//! taken all of it, and the write half sees the bytes go. What was written to a client that had left is told apart by the
//! kernel, see [`Receipt`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use pingora_core::protocols::SocketDigest;
use tokio::time::Instant;

use crate::pool::{Delivered, Delivery};
use crate::request::{AckState, Written};

/// One at a time, as answers are. Whether there is one is known without the lock.
#[derive(Debug, Default)]
pub(super) struct DeliveryTracker {
    busy: AtomicBool,
    slot: Mutex<Slot>,
}

#[derive(Debug, Default)]
enum Slot {
    /// No answer, or one that hands out nothing.
    #[default]
    Empty,
    /// `whole` is whether the engine has taken all of the answer.
    OnItsWay { delivery: Delivery, whole: bool },
    /// Every byte was handed to the kernel at this time; the client was not heard of since.
    Sent(Delivered, Instant),
}

/// A reset later than this has nothing to do with the answer any more: clients end connections that way, too.
const SOON: Duration = Duration::from_secs(1);

impl DeliveryTracker {
    /// Whether there is anything to be told.
    pub(super) fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Acquire)
    }

    /// The answer that is made now hands out an instance.
    pub(super) fn begin(&self, delivery: Delivery) {
        *self.slot.lock() = Slot::OnItsWay { delivery, whole: false };
        self.busy.store(true, Ordering::Release);
    }

    /// The engine has taken all of the answer, and will write it before it flushes.
    pub(super) fn taken(&self) {
        if let Slot::OnItsWay { whole, .. } = &mut *self.slot.lock() {
            *whole = true;
        }
    }

    /// Some bytes were written.
    pub(super) fn written(&self) {
        if let Slot::OnItsWay { delivery, .. } = &mut *self.slot.lock() {
            delivery.begun();
        }
    }

    /// Everything that the engine took was written.
    pub(super) fn flushed(&self) {
        let mut slot = self.slot.lock();
        if let Slot::OnItsWay { whole: true, .. } = *slot
            && let Slot::OnItsWay { delivery, .. } = std::mem::take(&mut *slot)
            && let Some(delivered) = delivery.done()
        {
            *slot = Slot::Sent(delivered, Instant::now());
        }
    }

    /// The client sent something after it: it got it.
    pub(super) fn answered(&self) {
        *self.slot.lock() = Slot::Empty;
        self.busy.store(false, Ordering::Release);
    }

    /// Whether all of it was sent, and that is all that is known.
    pub(super) fn is_sent(&self) -> bool {
        self.is_busy() && matches!(*self.slot.lock(), Slot::Sent(..))
    }

    /// The connection has ended, and nothing more will be heard.
    pub(super) fn end(&self, receipt: AckState) {
        let slot = std::mem::take(&mut *self.slot.lock());
        self.busy.store(false, Ordering::Release);
        match (slot, receipt) {
            (Slot::Sent(delivered, _), AckState::Refused) => delivered.lost(),
            (Slot::Sent(delivered, at), AckState::Dropped) if at.elapsed() < SOON => delivered.doubted(),
            (Slot::Sent(delivered, _), AckState::Open) => delivered.doubted(),
            _ => {}
        }
    }
}

/// Sees to it that nothing is left open when the connection is dropped. Of its parts the first to be, while the kernel
/// can still be asked.
#[derive(Debug)]
pub(super) struct End {
    pub(super) turn: super::ExchangeSignal,
    pub(super) socket: Option<Arc<SocketDigest>>,
    /// What was written when the engine was done with the connection.
    pub(super) written: Option<Written>,
}

impl End {
    /// What the kernel knows of what was sent.
    pub(super) fn receipt(&mut self) -> AckState {
        let Some(socket) = &self.socket else { return AckState::Taken };
        let written = *self.written.get_or_insert_with(|| Written::so_far(socket));
        AckState::of(socket, written)
    }
}

impl Drop for End {
    fn drop(&mut self) {
        if self.turn.handover().is_busy() {
            let receipt = self.receipt();
            self.turn.handover().end(receipt);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::delivery_tests::{Outcome, granted};

    fn told(course: impl FnOnce(&DeliveryTracker)) -> Outcome {
        let (delivery, told) = granted();
        let handover = DeliveryTracker::default();
        assert!(!handover.is_busy());
        handover.begin(delivery);
        assert!(handover.is_busy());
        course(&handover);
        drop(handover);
        told()
    }

    #[tokio::test(start_paused = true)]
    async fn a_reset_long_after_the_answer_says_nothing_about_it() {
        let (delivery, told) = granted();
        let handover = DeliveryTracker::default();
        handover.begin(delivery);
        handover.taken();
        handover.flushed();
        tokio::time::advance(SOON).await;
        handover.end(AckState::Dropped);
        assert_eq!(told(), Outcome::CONFIRMED);
    }

    #[test]
    fn what_becomes_of_an_instance_depends_on_how_much_of_the_answer_went() {
        assert_eq!(told(|_| ()), Outcome::TAKEN_BACK);
        assert_eq!(told(DeliveryTracker::taken), Outcome::TAKEN_BACK, "taken by the engine and not written");
        assert_eq!(told(DeliveryTracker::flushed), Outcome::TAKEN_BACK, "an earlier answer was flushed");
        let half = |it: &DeliveryTracker| {
            it.written();
            it.flushed();
        };
        assert_eq!(told(half), Outcome::RELEASED, "the rest was still to come");
        let whole = |it: &DeliveryTracker| {
            it.taken();
            it.written();
            it.flushed();
        };
        assert_eq!(told(whole), Outcome::CONFIRMED);
        for (receipt, expected) in [
            (AckState::Taken, Outcome::CONFIRMED),
            (AckState::Open, Outcome::DOUBTED),
            (AckState::Refused, Outcome::RELEASED_AFTER_ALL),
            (AckState::Dropped, Outcome::DOUBTED),
        ] {
            let ended = |it: &DeliveryTracker| {
                whole(it);
                assert!(it.is_sent());
                it.end(receipt);
                assert!(!it.is_busy());
            };
            assert_eq!(told(ended), expected, "{receipt:?}");
        }
        let answered = |it: &DeliveryTracker| {
            whole(it);
            it.answered();
            it.end(AckState::Refused);
        };
        assert_eq!(told(answered), Outcome::CONFIRMED, "what was refused is of a later answer");
    }
}
