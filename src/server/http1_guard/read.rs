//! The read half of a guarded connection: the state machine that each byte from the client goes through.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};
use tokio::time::Instant;

use super::connection::GuardedConnection;
use super::exchange_signal::EngineSignal;
use super::head::{self, Head};
use super::limits::MAX_HEAD_BYTES;
use super::read_state::{HeadWait, HeadWaitEnd, ReadState, Release, after_head};
use super::refusal::Refusal;

/// The first bytes of an HTTP/2 connection with prior knowledge.
pub(super) const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How often the kernel is asked whether a client that closed its write half has reset the connection.
const RESET_QUERY_INTERVAL: Duration = Duration::from_millis(200);

/// Most bytes that are read from the client beyond the message whose exchange runs.
pub(super) const MAX_READ_AHEAD: usize = MAX_HEAD_BYTES;

/// Most bytes that are taken from the client at once while the framing of a body is checked.
const CHUNKED_READ_SIZE: usize = 16 * 1024;

impl GuardedConnection {
    /// In [`ReadState::Between`]: waits for a head and enters [`ReadState::Head`]. After any other end of the wait the
    /// caller sets the state.
    pub(super) fn poll_head(&mut self, cx: &mut Context<'_>, http2: bool) -> Poll<io::Result<HeadWaitEnd>> {
        let ReadState::Between(wait) = &mut self.state else { return Poll::Ready(Ok(HeadWaitEnd::Eof)) };
        self.reader.free_if_large();
        loop {
            let buf = &mut self.reader.buf;
            if !wait.has_skipped_line && wait.searched_len <= 1 && buf.starts_with(b"\r\n") {
                buf.advance(2);
                (wait.has_skipped_line, wait.searched_len) = (true, 0);
                // An empty line does not begin a head: an idle connection stays idle.
                wait.head_until = None;
            }
            let may_be_http2 = http2 && self.is_first_message && !wait.has_skipped_line && !buf.is_empty();
            if may_be_http2 && buf.starts_with(HTTP2_PREFACE) {
                return Poll::Ready(Ok(HeadWaitEnd::Http2));
            }
            // The preface has an empty line in its middle, so a prefix of the preface is not checked as a head.
            if !(may_be_http2 && HTTP2_PREFACE.starts_with(buf)) {
                if let Some(end) = head::find_end(buf, wait.searched_len) {
                    return Poll::Ready(Ok(match check_head(buf, end) {
                        Ok(head) => {
                            // A signal that came before this message does not concern it.
                            self.signal.clear();
                            if self.signal.delivery().is_tracking() {
                                self.signal.delivery().mark_received();
                            }
                            self.is_first_message = false;
                            self.state = ReadState::Head { left: head.len, head };
                            HeadWaitEnd::Head
                        }
                        Err(refusal) => HeadWaitEnd::Refused(refusal),
                    }));
                }
                wait.searched_len = buf.len();
            }
            if buf.len() >= MAX_HEAD_BYTES {
                return Poll::Ready(Ok(HeadWaitEnd::Refused(Refusal::HeadTooLarge)));
            }
            let room = MAX_HEAD_BYTES - buf.len();
            if let Poll::Ready(read) = self.reader.poll_fill(&mut self.inner, cx, room) {
                match read? {
                    0 => return Poll::Ready(Ok(HeadWaitEnd::Eof)),
                    _ => continue,
                }
            }
            let begun = !self.reader.buf.is_empty();
            let (until, after) = if begun {
                (&mut wait.head_until, self.timeouts.head)
            } else {
                (&mut wait.idle_until, self.timeouts.idle)
            };
            let until = *until.get_or_insert_with(|| Instant::now() + after);
            ready!(self.read_timer.poll_until(cx, until));
            return Poll::Ready(Ok(if begun {
                HeadWaitEnd::Refused(Refusal::HeadTimeout)
            } else {
                HeadWaitEnd::Eof
            }));
        }
    }

    /// In [`ReadState::Done`]: waits for the engine's signal, and meanwhile reads ahead to notice a client that left.
    /// Ready with the next state.
    ///
    /// A client that closed its write half still reads. An engine would end the exchange, so it does not learn of it
    /// before the exchange is over.
    ///
    /// # Errors
    /// The client reset the connection.
    fn poll_done(&mut self, cx: &mut Context<'_>, is_upgrade: bool) -> Poll<io::Result<ReadState>> {
        match self.signal.poll_signal(cx) {
            Poll::Ready(EngineSignal::Tunnel) if is_upgrade => return Poll::Ready(Ok(ReadState::Tunnel)),
            Poll::Ready(_) => return Poll::Ready(Ok(ReadState::Between(HeadWait::default()))),
            Poll::Pending => {}
        }
        while !self.reader.is_eof {
            if self.reader.buf.len() >= MAX_READ_AHEAD {
                return Poll::Pending;
            }
            let room = MAX_READ_AHEAD - self.reader.buf.len();
            ready!(self.reader.poll_fill(&mut self.inner, cx, room))?;
        }
        ready!(self.poll_reset(cx));
        Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
    }

    /// Waits until a client that closed its write half resets the connection. After the end of what the client sends, a
    /// read shows no reset, so the kernel is asked again and again.
    ///
    /// A client that left without a reset answers the next bytes with one, and else the system's keepalive probes.
    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while !self.acks.is_reset() {
            let next = *self.next_reset_query.get_or_insert_with(|| Instant::now() + RESET_QUERY_INTERVAL);
            ready!(self.read_timer.poll_until(cx, next));
            self.next_reset_query = None;
        }
        Poll::Ready(())
    }

    /// In [`ReadState::Length`]: delivers bytes of a body of which `left` are not delivered. Ready with how many are
    /// then left.
    fn poll_length(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
        left: u64,
    ) -> Poll<io::Result<u64>> {
        let most = usize::try_from(left).unwrap_or(usize::MAX);
        let before = out.filled().len();
        if !self.reader.buf.is_empty() {
            self.reader.deliver(out, most);
        } else if !self.reader.is_eof {
            ready!(Pin::new(&mut (&mut self.inner).take(left)).poll_read(cx, out))?;
        }
        match out.filled().len() - before {
            0 => Poll::Ready(Err(body_cut_short())),
            n => Poll::Ready(Ok(left - n as u64)),
        }
    }

    /// In [`ReadState::Chunked`]: checks more of the body. Ready with how many bytes at the front of the buffer may be
    /// delivered, which is zero at the end of the body.
    fn poll_chunked(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let ReadState::Chunked { body, .. } = &mut self.state else { return Poll::Ready(Ok(0)) };
        if body.is_done() {
            return Poll::Ready(Ok(0));
        }
        if self.reader.buf.is_empty() {
            self.reader.buf.reserve(CHUNKED_READ_SIZE);
            if ready!(self.reader.poll_fill(&mut self.inner, cx, CHUNKED_READ_SIZE))? == 0 {
                return Poll::Ready(Err(body_cut_short()));
            }
        }
        let passed = body.accept(&self.reader.buf);
        Poll::Ready(passed.map_err(|refusal| io::Error::new(io::ErrorKind::InvalidData, refusal)))
    }

    /// Lets the engine see the end of the connection once it has flushed its responses. An engine takes the end for a
    /// client that left, and drops what it has not written.
    fn poll_release(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.signal.poll_flushed(cx));
        self.release = Release::Done;
        Poll::Ready(Ok(()))
    }

    /// Whether the engine that reads gets the buffered head.
    fn passes_filter(&self) -> bool {
        let (Some(filter), ReadState::Head { head, .. }) = (&self.head_filter, &self.state) else {
            return true;
        };
        filter(head.host(&self.reader.buf))
    }

    /// Serves one read of the engine. On an error the caller ends the connection.
    fn poll_message(&mut self, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            match &mut self.state {
                ReadState::Between(_) => {
                    let is_for_engine = match self.poll_head(cx, false)? {
                        Poll::Ready(HeadWaitEnd::Head) => self.passes_filter(),
                        Poll::Ready(_) => false,
                        Poll::Pending if self.head_filter.is_some() => {
                            ready!(self.signal.poll_recalled(cx));
                            false
                        }
                        Poll::Pending => return Poll::Pending,
                    };
                    if !is_for_engine {
                        self.release = Release::Pending;
                        return self.poll_release(cx);
                    }
                }
                ReadState::Head { head, left } => {
                    *left -= self.reader.deliver(out, *left);
                    if *left == 0 {
                        self.state = after_head(head);
                    }
                    return Poll::Ready(Ok(()));
                }
                ReadState::Length { left } => {
                    let left = *left;
                    let left = ready!(self.poll_length(cx, out, left))?;
                    self.state = if left == 0 {
                        ReadState::Done { is_upgrade: false }
                    } else {
                        ReadState::Length { left }
                    };
                    return Poll::Ready(Ok(()));
                }
                ReadState::Chunked { passed, body } if *passed > 0 => {
                    *passed -= self.reader.deliver(out, *passed);
                    if *passed == 0 && body.is_done() {
                        self.state = ReadState::Done { is_upgrade: false };
                    }
                    return Poll::Ready(Ok(()));
                }
                ReadState::Chunked { .. } => {
                    let more = ready!(self.poll_chunked(cx))?;
                    if let ReadState::Chunked { passed, .. } = &mut self.state {
                        *passed = more;
                    }
                }
                ReadState::Done { is_upgrade } => {
                    let is_upgrade = *is_upgrade;
                    self.state = ready!(self.poll_done(cx, is_upgrade))?;
                }
                ReadState::Tunnel if !self.reader.buf.is_empty() => {
                    self.reader.deliver(out, usize::MAX);
                    return Poll::Ready(Ok(()));
                }
                ReadState::Tunnel if self.reader.is_eof => {
                    // The engine must not see the end before it has written the 101.
                    ready!(self.signal.poll_flushed(cx));
                    return Poll::Ready(Ok(()));
                }
                ReadState::Tunnel if self.signal.is_write_pending() => {
                    ready!(self.reader.poll_fill(&mut self.inner, cx, MAX_READ_AHEAD))?;
                }
                ReadState::Tunnel => return Pin::new(&mut self.inner).poll_read(cx, out),
                ReadState::Ended => return Poll::Ready(Ok(())),
            }
        }
    }
}

impl AsyncRead for GuardedConnection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // A read into a full buffer delivers nothing. Without this check it could look like the end of the connection.
        if out.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        if this.release != Release::No {
            return this.poll_release(cx);
        }
        let read = ready!(this.poll_message(cx, out));
        if read.is_err() {
            this.state = ReadState::Ended;
        }
        Poll::Ready(read)
    }
}

/// Checks the head in the first `end` bytes of the buffer, after which it has its target in origin form.
fn check_head(buf: &mut BytesMut, end: usize) -> Result<Head, Refusal> {
    let head = head::check(&buf[..end])?;
    if !head.is_absolute {
        return Ok(head);
    }
    let mut changed = BytesMut::from(&*head::to_origin_form(&buf[..end], &head));
    let head = head::check(&changed)?;
    changed.extend_from_slice(&buf[end..]);
    *buf = changed;
    Ok(head)
}

fn body_cut_short() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the client closed the connection inside a body")
}
