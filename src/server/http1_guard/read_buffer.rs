//! The buffer between the client's socket and the guard.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, BytesMut};
use pingora_core::protocols::Stream;
use tokio::io::{AsyncReadExt, ReadBuf};

/// Bytes of room made for a read. Most heads fit.
const MIN_READ_SIZE: usize = 4096;

/// Most bytes of capacity that an empty buffer keeps, so that idle connections take little memory.
const MAX_IDLE_CAPACITY: usize = 16 * 1024;

/// Bytes read from the client and not delivered.
#[derive(Default)]
pub(super) struct ReadBuffer {
    pub(super) buf: BytesMut,
    /// Whether the client closed its write half.
    pub(super) is_eof: bool,
}

impl ReadBuffer {
    /// Reads at most `most` bytes (which must be at least one) into the buffer and returns how many. Zero means that
    /// the client closed its write half; over TLS, with or without the alert that announces it.
    pub(super) fn poll_fill(
        &mut self,
        inner: &mut Stream,
        cx: &mut Context<'_>,
        most: usize,
    ) -> Poll<io::Result<usize>> {
        if self.is_eof {
            return Poll::Ready(Ok(0));
        }
        if self.buf.capacity() == self.buf.len() || self.buf.is_empty() {
            self.buf.reserve(MIN_READ_SIZE);
        }
        let mut into = (&mut self.buf).limit(most);
        // The future holds nothing but the borrows, so each poll can make a new one.
        let read = match ready!(pin!(inner.read_buf(&mut into)).poll(cx)) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => 0,
            read => read?,
        };
        self.is_eof = read == 0;
        Poll::Ready(Ok(read))
    }

    /// Frees the memory of a large empty buffer.
    pub(super) fn free_if_large(&mut self) {
        if self.buf.is_empty() && self.buf.capacity() > MAX_IDLE_CAPACITY {
            self.buf = BytesMut::new();
        }
    }

    /// Moves at most `most` bytes to the engine's buffer and returns how many.
    pub(super) fn deliver(&mut self, out: &mut ReadBuf<'_>, most: usize) -> usize {
        let n = self.buf.len().min(out.remaining()).min(most);
        out.put_slice(&self.buf[..n]);
        self.buf.advance(n);
        n
    }
}
