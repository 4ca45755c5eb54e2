//! The write half: passed on, with a deadline for a client that does not read, and a patient end after a refusal.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::read_buffer::Alarm;
use super::{GuardedConnection, LINGER, ReadState};
use crate::request::AckState;

/// How often the kernel is asked whether the client took its answer.
const LOOK: Duration = Duration::from_millis(5);

/// The deadlines of the write half.
#[derive(Default)]
pub(super) struct Writer {
    /// Since when the client has taken nothing of what waits for it.
    stalled: Option<Instant>,
    /// Until when a refused client may go on sending.
    linger: Option<Instant>,
    /// When to ask again whether the client took its answer.
    look: Option<Instant>,
    alarm: Alarm,
}

impl GuardedConnection {
    /// Passes a step of the write half on, unless it has been waiting for too long.
    fn in_time<T>(&mut self, cx: &mut Context<'_>, step: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if step.is_ready() {
            self.writer.stalled = None;
            return step;
        }
        let since = *self.writer.stalled.get_or_insert_with(Instant::now);
        ready!(self.writer.alarm.poll_until(cx, since + self.limits.write));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read its answer")))
    }

    /// Notes that bytes of an answer went that hands out an instance.
    fn noted(&self, step: &Poll<io::Result<usize>>) {
        if matches!(step, Poll::Ready(Ok(1..))) && self.turn.handover().is_busy() {
            self.turn.handover().written();
        }
    }

    /// Waits until the client's kernel has said whether it took the last answer; a moment, unless the client is gone.
    fn poll_receipt(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let until = *self.writer.linger.get_or_insert_with(|| Instant::now() + LINGER);
        loop {
            let receipt = self.end.receipt();
            if receipt != AckState::Open || Instant::now() >= until {
                self.turn.handover().end(receipt);
                return Poll::Ready(());
            }
            let look = *self.writer.look.get_or_insert_with(|| Instant::now() + LOOK);
            ready!(self.writer.alarm.poll_until(cx, look));
            self.writer.look = None;
        }
    }

    /// Swallows what a client still sends that was refused: closed with bytes unread, a connection is reset, and
    /// the reset can overtake the answer.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let until = *self.writer.linger.get_or_insert_with(|| Instant::now() + LINGER);
        let mut sink = [0; 4096];
        while self.writer.alarm.poll_until(cx, until).is_pending() {
            let mut buf = ReadBuf::new(&mut sink);
            let read = ready!(Pin::new(&mut self.inner).poll_read(cx, &mut buf));
            if read.is_err() || buf.filled().is_empty() {
                break;
            }
        }
        Poll::Ready(())
    }
}

impl AsyncWrite for GuardedConnection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let step = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.noted(&step);
        self.in_time(cx, step)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let step = Pin::new(&mut self.inner).poll_write_vectored(cx, slices);
        self.noted(&step);
        self.in_time(cx, step)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let step = Pin::new(&mut self.inner).poll_flush(cx);
        if let Poll::Ready(Ok(())) = step
            && self.turn.handover().is_busy()
        {
            self.turn.handover().flushed();
        }
        self.in_time(cx, step)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Before TLS says its goodbye.
        if self.turn.handover().is_sent() && self.end.receipt() == AckState::Taken {
            self.turn.handover().end(AckState::Taken);
        }
        let step = Pin::new(&mut self.inner).poll_shutdown(cx);
        ready!(self.in_time(cx, step))?;
        if self.turn.handover().is_sent() {
            ready!(self.poll_receipt(cx));
        }
        if let ReadState::Refused(_) | ReadState::Answered { .. } = self.state {
            ready!(self.poll_linger(cx));
        }
        Poll::Ready(Ok(()))
    }
}
