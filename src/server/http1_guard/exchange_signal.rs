//! How an engine reports to the guard that an exchange is over.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::SeqCst};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;

use super::delivery_tracker::DeliveryTracker;
use crate::pool::Delivery;

/// A handle on the guard of one connection, for the engine that finishes its exchanges. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct ExchangeSignal(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    signal: AtomicU8,
    reader: AtomicWaker,
    /// Whether the engine has bytes to write that are not flushed.
    is_write_pending: AtomicBool,
    /// Whether the connection is to be given back when no message is in progress.
    is_recalled: AtomicBool,
    delivery: DeliveryTracker,
}

/// What the engine reported about the exchange in progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EngineSignal {
    Finished,
    Tunnel,
}

const NO_SIGNAL: u8 = 0;
const FINISHED: u8 = 1;
const TUNNEL: u8 = 2;

impl ExchangeSignal {
    /// Reports that the exchange in progress is finished, so that the next head may be delivered.
    ///
    /// The report may come while the body of the request is still being read; it then counts from the end of the body.
    /// A second report has no further effect. A report does not undo [`start_tunnel`](Self::start_tunnel).
    pub fn finish_exchange(&self) {
        // Err: the engine reported something already.
        let _ = self.0.signal.compare_exchange(NO_SIGNAL, FINISHED, SeqCst, SeqCst);
        self.0.reader.wake();
    }

    /// Reports that the upgrade which the present head asked for is granted: from here on every byte passes unchecked.
    ///
    /// Call it before the response 101 is given to the engine. After a head that asked for no upgrade it has the effect
    /// of [`finish_exchange`](Self::finish_exchange).
    pub fn start_tunnel(&self) {
        // The 101 itself is not written yet.
        self.0.is_write_pending.store(true, SeqCst);
        self.0.signal.store(TUNNEL, SeqCst);
        self.0.reader.wake();
    }

    /// Takes a connection that was lent back from its engine, at once if no message is in progress, else after it.
    pub fn recall(&self) {
        self.0.is_recalled.store(true, SeqCst);
        self.0.reader.wake();
    }

    /// Ready once the connection is recalled.
    pub(super) fn poll_recalled(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.reader.register(cx.waker());
        if self.0.is_recalled.load(SeqCst) { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Tracks how much of the next response reaches the client, since it assigns an instance. Call it before the
    /// response is given to the engine.
    pub fn track_delivery(&self, delivery: Delivery) {
        self.0.delivery.start(delivery);
    }

    /// Records that the engine has taken the whole body of the present response.
    pub fn mark_response_taken(&self) {
        if self.0.delivery.is_tracking() {
            self.0.delivery.mark_taken();
        }
    }

    /// Returns the tracker of the connection's present response.
    pub(super) fn delivery(&self) -> &DeliveryTracker {
        &self.0.delivery
    }

    /// Takes the signal, or registers the reader's waker for the next one.
    pub(super) fn poll_signal(&self, cx: &mut Context<'_>) -> Poll<EngineSignal> {
        if let Some(signal) = self.take_signal() {
            return Poll::Ready(signal);
        }
        self.0.reader.register(cx.waker());
        // A signal between the two lines above called no waker.
        self.take_signal().map_or(Poll::Pending, Poll::Ready)
    }

    /// Records that the engine writes bytes which it has to flush.
    pub(super) fn mark_written(&self) {
        self.0.is_write_pending.store(true, SeqCst);
    }

    /// Records that everything that was written is flushed.
    pub(super) fn mark_flushed(&self) {
        if self.0.is_write_pending.swap(false, SeqCst) {
            self.0.reader.wake();
        }
    }

    /// Whether bytes were written, or an upgrade was granted, and nothing was flushed since.
    pub(super) fn is_write_pending(&self) -> bool {
        self.0.is_write_pending.load(SeqCst)
    }

    /// Ready once everything that was written is flushed.
    pub(super) fn poll_flushed(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.reader.register(cx.waker());
        if self.is_write_pending() { Poll::Pending } else { Poll::Ready(()) }
    }

    /// Discards the signal.
    pub(super) fn clear(&self) {
        self.0.signal.store(NO_SIGNAL, SeqCst);
    }

    fn take_signal(&self) -> Option<EngineSignal> {
        // A plain load first: it is far cheaper than a swap, and mostly there is no signal.
        if self.0.signal.load(SeqCst) == NO_SIGNAL {
            return None;
        }
        match self.0.signal.swap(NO_SIGNAL, SeqCst) {
            FINISHED => Some(EngineSignal::Finished),
            TUNNEL => Some(EngineSignal::Tunnel),
            _ => None,
        }
    }
}
