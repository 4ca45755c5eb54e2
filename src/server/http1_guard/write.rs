//! The write half of a guarded connection: passes bytes on, with a deadline for a client that does not read, and waits
//! for the client at the end.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::AsyncWrite;
use tokio::time::Instant;

use super::connection::GuardedConnection;
use super::limits::LINGER_TIMEOUT;
use super::read_state::ReadState;
use crate::request::AckState;
use crate::server::client_socket::ClientSocket;

/// How often the kernel is asked whether the client acknowledged its response.
const ACK_POLL_INTERVAL: Duration = Duration::from_millis(5);

impl GuardedConnection {
    /// Returns `step`, or an error if the client has taken no byte for longer than the write timeout.
    fn enforce_write_timeout<T>(
        &mut self,
        cx: &mut Context<'_>,
        step: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if step.is_ready() {
            self.write_deadlines.stalled_since = None;
            return step;
        }
        let since = *self.write_deadlines.stalled_since.get_or_insert_with(Instant::now);
        ready!(self.write_deadlines.timer.poll_until(cx, since + self.timeouts.write));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read its response")))
    }

    /// Ready when the client's connection takes more of a response at once; over TLS always.
    ///
    /// # Errors
    /// The client has taken no byte for longer than the write timeout, or its connection is broken.
    pub(in crate::server) fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let socket = self.inner.as_any().downcast_ref::<ClientSocket>();
        let room = socket.map_or(Poll::Ready(Ok(())), |socket| socket.poll_room(cx));
        self.enforce_write_timeout(cx, room)
    }

    /// Records that bytes are written now, of a tracked response too. It must come before the write, whose result does
    /// not show what was sent: below TLS, a write that is pending or failed may have sent a part of its bytes.
    fn track_write(&self) {
        if !matches!(self.state, ReadState::Tunnel) {
            self.signal.mark_written();
        }
        if self.signal.delivery().is_tracking() {
            self.signal.delivery().mark_attempted();
        }
    }

    /// Waits until it is known what became of the last response, if that assigns an instance: for two seconds at most.
    pub async fn settle_delivery(&mut self) {
        if self.signal.delivery().is_sent() {
            std::future::poll_fn(|cx| self.poll_ack(cx)).await;
        }
    }

    /// Waits until the client's kernel has acknowledged or refused the last response, and settles its delivery. The
    /// wait is short unless the client left, and ends after [`LINGER_TIMEOUT`].
    fn poll_ack(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let until = *self.write_deadlines.linger_until.get_or_insert_with(|| Instant::now() + LINGER_TIMEOUT);
        loop {
            let ack_state = self.acks.ack_state();
            if ack_state != AckState::Pending || Instant::now() >= until {
                self.signal.delivery().settle(ack_state);
                return Poll::Ready(());
            }
            let next_poll =
                *self.write_deadlines.next_ack_poll.get_or_insert_with(|| Instant::now() + ACK_POLL_INTERVAL);
            ready!(self.write_deadlines.timer.poll_until(cx, next_poll));
            self.write_deadlines.next_ack_poll = None;
        }
    }
}

impl AsyncWrite for GuardedConnection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.track_write();
        let step = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.enforce_write_timeout(cx, step)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.track_write();
        let step = Pin::new(&mut self.inner).poll_write_vectored(cx, slices);
        self.enforce_write_timeout(cx, step)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let step = Pin::new(&mut self.inner).poll_flush(cx);
        if let Poll::Ready(Ok(())) = step {
            self.signal.mark_flushed();
            if self.signal.delivery().is_tracking() {
                self.signal.delivery().mark_flushed();
            }
        }
        self.enforce_write_timeout(cx, step)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_released() {
            return Poll::Ready(Ok(()));
        }
        // Before TLS writes its closing alert, which does not count as part of the response.
        if self.signal.delivery().is_sent() && self.acks.ack_state() == AckState::Acknowledged {
            self.signal.delivery().settle(AckState::Acknowledged);
        }
        let step = Pin::new(&mut self.inner).poll_shutdown(cx);
        ready!(self.enforce_write_timeout(cx, step))?;
        if self.signal.delivery().is_sent() {
            ready!(self.poll_ack(cx));
        }
        Poll::Ready(Ok(()))
    }
}
