//! How the engine tells the guard that an exchange is over.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::SeqCst};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;

use super::delivery_tracker::DeliveryTracker;
use crate::pool::Delivery;

/// A handle on the guard of one connection, for whoever finishes its exchanges. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct ExchangeSignal(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    signal: AtomicU8,
    reader: AtomicWaker,
    handover: DeliveryTracker,
}

/// What the engine said about the exchange in progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signal {
    Next,
    Tunnel,
}

const SILENT: u8 = 0;
const NEXT: u8 = 1;
const TUNNEL: u8 = 2;

impl ExchangeSignal {
    /// The exchange in progress is finished: the next head may come. May be said while its body is still being
    /// read; it counts from the body's end. Saying it twice is the same as once, and it does not take back
    /// [`Turn::tunnel`].
    pub fn next(&self) {
        // Err means that something was said already.
        let _ = self.0.signal.compare_exchange(SILENT, NEXT, SeqCst, SeqCst);
        self.0.reader.wake();
    }

    /// The upgrade that the present head asked for is granted: everything passes from here on, unchecked. To be
    /// said before the answer 101 is given to the engine. After any other head it means no more than
    /// [`Turn::next`].
    pub fn tunnel(&self) {
        self.0.signal.store(TUNNEL, SeqCst);
        self.0.reader.wake();
    }

    /// The answer that is made now hands out an instance. To be said before it is given to the engine.
    pub fn hands_out(&self, delivery: Delivery) {
        self.0.handover.begin(delivery);
    }

    /// The engine has taken all of the present answer.
    pub fn taken(&self) {
        if self.0.handover.is_busy() {
            self.0.handover.taken();
        }
    }

    pub(super) fn handover(&self) -> &DeliveryTracker {
        &self.0.handover
    }

    /// Takes the signal, or leaves the reader's waker to be called by the next one.
    pub(super) fn poll_signal(&self, cx: &mut Context<'_>) -> Poll<Signal> {
        if let Some(signal) = self.take() {
            return Poll::Ready(signal);
        }
        self.0.reader.register(cx.waker());
        // A signal given between the two lines above woke nobody.
        self.take().map_or(Poll::Pending, Poll::Ready)
    }

    /// Forgets what was said.
    pub(super) fn clear(&self) {
        self.0.signal.store(SILENT, SeqCst);
    }

    fn take(&self) -> Option<Signal> {
        // A plain load first: it is far cheaper than a swap, and mostly there is nothing.
        if self.0.signal.load(SeqCst) == SILENT {
            return None;
        }
        match self.0.signal.swap(SILENT, SeqCst) {
            NEXT => Some(Signal::Next),
            TUNNEL => Some(Signal::Tunnel),
            _ => None,
        }
    }
}
