//! Asks the kernel what the client acknowledged, at the latest when the connection is dropped.

use std::sync::Arc;

use pingora_core::protocols::SocketDigest;

use super::exchange_signal::ExchangeSignal;
use crate::request::{AckState, BytesWritten, is_reset};

/// Settles the tracked delivery of a connection when it is dropped. It must be dropped before the connection's socket
/// is closed, while the kernel can still be asked.
#[derive(Debug)]
pub(super) struct AckObserver {
    signal: ExchangeSignal,
    socket: Option<Arc<SocketDigest>>,
    /// What was written when the kernel was first asked, which is when the engine was done with the connection.
    written: Option<BytesWritten>,
}

impl AckObserver {
    /// Observes the connection on `socket`. Without a socket every delivery counts as acknowledged.
    pub(super) fn new(signal: ExchangeSignal, socket: Option<Arc<SocketDigest>>) -> Self {
        Self { signal, socket, written: None }
    }

    /// Whether the connection is closed in both directions, which means that the client reset it. A connection without a
    /// socket never is.
    pub(super) fn is_reset(&self) -> bool {
        self.socket.as_ref().is_some_and(|socket| is_reset(socket))
    }

    /// Returns what the kernel knows of the bytes that were written until the first call.
    pub(super) fn ack_state(&mut self) -> AckState {
        let Some(socket) = &self.socket else { return AckState::Acknowledged };
        let written = *self.written.get_or_insert_with(|| BytesWritten::so_far(socket));
        AckState::of(socket, written)
    }
}

impl Drop for AckObserver {
    fn drop(&mut self) {
        if self.signal.delivery().is_tracking() {
            let ack_state = self.ack_state();
            self.signal.delivery().settle(ack_state);
        }
    }
}
