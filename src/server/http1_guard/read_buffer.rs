//! The buffer between the client's socket and the guard, and the guard's one timer.

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, BytesMut};
use pingora_core::protocols::Stream;
use tokio::io::{AsyncReadExt, ReadBuf};
use tokio::time::{Instant, Sleep};

/// Room made for a read; most heads fit.
const READ: usize = 4096;

/// An empty buffer larger than this is given back, so that idle connections cost little.
const KEEP: usize = 16 * 1024;

/// Bytes read from the client and not delivered.
#[derive(Default)]
pub(super) struct Reader {
    pub(super) buf: BytesMut,
    /// The client will send no more.
    pub(super) eof: bool,
}

impl Reader {
    /// Reads at most `most` (at least one) bytes more into the buffer. Zero is the end of the connection.
    pub(super) fn poll_fill(
        &mut self,
        inner: &mut Stream,
        cx: &mut Context<'_>,
        most: usize,
    ) -> Poll<io::Result<usize>> {
        if self.eof {
            return Poll::Ready(Ok(0));
        }
        if self.buf.capacity() == self.buf.len() || self.buf.is_empty() {
            self.buf.reserve(READ);
        }
        let mut into = (&mut self.buf).limit(most);
        // The future holds nothing but the borrows, so it can be made anew for each poll.
        let read = ready!(pin!(inner.read_buf(&mut into)).poll(cx))?;
        self.eof = read == 0;
        Poll::Ready(Ok(read))
    }

    /// Gives back a large empty buffer.
    pub(super) fn shrink(&mut self) {
        if self.buf.is_empty() && self.buf.capacity() > KEEP {
            self.buf = BytesMut::new();
        }
    }

    /// Moves at most `most` bytes to the engine's buffer and says how many.
    pub(super) fn deliver(&mut self, out: &mut ReadBuf<'_>, most: usize) -> usize {
        let n = self.buf.len().min(out.remaining()).min(most);
        out.put_slice(&self.buf[..n]);
        self.buf.advance(n);
        n
    }
}

/// One timer for all deadlines of a connection: moved, never made anew.
#[derive(Default)]
pub(super) struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    /// Ready once `until` has come.
    pub(super) fn poll_until(&mut self, cx: &mut Context<'_>, until: Instant) -> Poll<()> {
        let sleep = self.0.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        if sleep.deadline() != until {
            sleep.as_mut().reset(until);
        }
        sleep.as_mut().poll(cx)
    }
}
