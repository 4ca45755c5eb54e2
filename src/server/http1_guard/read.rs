//! Reading through the guard: the state machine that each byte from the client goes through.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Buf;
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};
use tokio::time::Instant;

use super::exchange_signal::Signal;
use super::framing::Body;
use super::head;
use super::head::{Framing, Head, MAX_HEAD, Refusal, RefusalKind};
use super::{GuardedConnection, HTTP2_PREFACE};

/// Most bytes read from the client beyond the message that is being answered.
pub(super) const MAX_AHEAD: usize = MAX_HEAD;

/// Most bytes taken from the client at once while the framing of a body is checked.
const CHUNKED_READ: usize = 16 * 1024;

/// Where the read half stands. Each byte goes from the client to the engine in exactly one of these.
#[derive(Debug)]
pub(super) enum ReadState {
    /// No message begun.
    Between(Wait),
    /// A checked head is at the front of the buffer; `left` of its bytes are not delivered.
    Head { head: Head, left: usize },
    /// `left` bytes of a body of known length are not delivered.
    Length { left: u64 },
    /// A chunked body; the first `passed` bytes of the buffer are checked.
    Chunked { body: Body, passed: usize },
    /// The message is delivered, its exchange is not over.
    Done { upgrade: bool },
    /// The stand-in for a refused head; these of its bytes are not delivered.
    Refused(&'static [u8]),
    /// The refusal is answered; the engine has this long to write it out and close.
    Answered { until: Instant },
    /// No HTTP/1 any more: everything passes.
    Tunnel,
    /// Nothing more comes.
    Ended,
}

/// A wait for a head.
#[derive(Debug, Default)]
pub(super) struct Wait {
    /// Bytes of the buffer that were searched for the end of the head.
    searched: usize,
    /// The empty line before the request line was skipped; a second one is refused.
    skipped: bool,
    idle_until: Option<Instant>,
    head_until: Option<Instant>,
}

/// How a wait for a head ended.
pub(super) enum Arrived {
    Head,
    Http2,
    Eof,
    Refused(Refusal),
}

impl GuardedConnection {
    /// In [`State::Between`]: waits for a head, which then is the state. Other ends leave the state to the caller.
    pub(super) fn poll_head(&mut self, cx: &mut Context<'_>, http2: bool) -> Poll<io::Result<Arrived>> {
        let ReadState::Between(wait) = &mut self.state else { return Poll::Ready(Ok(Arrived::Eof)) };
        self.reader.shrink();
        loop {
            let buf = &mut self.reader.buf;
            if !wait.skipped && wait.searched <= 1 && buf.starts_with(b"\r\n") {
                buf.advance(2);
                (wait.skipped, wait.searched) = (true, 0);
                // It is no beginning of a head: an idle connection goes on being idle.
                wait.head_until = None;
            }
            let may_be_http2 = http2 && self.fresh && !wait.skipped && !buf.is_empty();
            if may_be_http2 && buf.starts_with(HTTP2_PREFACE) {
                return Poll::Ready(Ok(Arrived::Http2));
            }
            // The preface has an empty line in its middle: no verdict before it is whole or something else.
            if !(may_be_http2 && HTTP2_PREFACE.starts_with(buf)) {
                if let Some(end) = head::find_end(buf, wait.searched) {
                    return Poll::Ready(Ok(match head::check(&buf[..end]) {
                        Ok(head) => {
                            // A signal that came before this message is none about it.
                            self.turn.clear();
                            if self.turn.handover().is_busy() {
                                self.turn.handover().answered();
                            }
                            self.fresh = false;
                            self.state = ReadState::Head { left: head.len, head };
                            Arrived::Head
                        }
                        Err(refusal) => Arrived::Refused(refusal),
                    }));
                }
                wait.searched = buf.len();
            }
            if buf.len() >= MAX_HEAD {
                return Poll::Ready(Ok(Arrived::Refused(Refusal::HeadTooLarge)));
            }
            let room = MAX_HEAD - buf.len();
            if let Poll::Ready(read) = self.reader.poll_fill(&mut self.inner, cx, room) {
                match read? {
                    0 => return Poll::Ready(Ok(Arrived::Eof)),
                    _ => continue,
                }
            }
            let begun = !self.reader.buf.is_empty();
            let (until, after) = if begun {
                (&mut wait.head_until, self.limits.head)
            } else {
                (&mut wait.idle_until, self.limits.idle)
            };
            let until = *until.get_or_insert_with(|| Instant::now() + after);
            ready!(self.alarm.poll_until(cx, until));
            return Poll::Ready(Ok(if begun {
                Arrived::Refused(Refusal::HeadTimeout)
            } else {
                Arrived::Eof
            }));
        }
    }

    /// In [`State::Done`]: waits for the engine's signal, while it looks out for the end of the connection.
    /// Ready with a state to go on from, or with `None` for the end.
    fn poll_done(&mut self, cx: &mut Context<'_>, upgrade: bool) -> Poll<io::Result<Option<ReadState>>> {
        match self.turn.poll_signal(cx) {
            Poll::Ready(Signal::Tunnel) if upgrade => return Poll::Ready(Ok(Some(ReadState::Tunnel))),
            Poll::Ready(_) => return Poll::Ready(Ok(Some(ReadState::Between(Wait::default())))),
            Poll::Pending => {}
        }
        while self.reader.buf.len() < MAX_AHEAD {
            let room = MAX_AHEAD - self.reader.buf.len();
            if ready!(self.reader.poll_fill(&mut self.inner, cx, room))? == 0 {
                // The end comes after the messages that came before it.
                return if self.reader.buf.is_empty() { Poll::Ready(Ok(None)) } else { Poll::Pending };
            }
        }
        Poll::Pending
    }

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
        } else if !self.reader.eof {
            ready!(Pin::new(&mut (&mut self.inner).take(left)).poll_read(cx, out))?;
        }
        match out.filled().len() - before {
            0 => Poll::Ready(Err(cut_short())),
            n => Poll::Ready(Ok(left - n as u64)),
        }
    }

    /// Checks more of a chunked body: how many bytes at the front of the buffer may go on. Zero at its end.
    fn poll_chunked(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let ReadState::Chunked { body, .. } = &mut self.state else { return Poll::Ready(Ok(0)) };
        if body.is_done() {
            return Poll::Ready(Ok(0));
        }
        if self.reader.buf.is_empty() {
            self.reader.buf.reserve(CHUNKED_READ);
            if ready!(self.reader.poll_fill(&mut self.inner, cx, CHUNKED_READ))? == 0 {
                return Poll::Ready(Err(cut_short()));
            }
        }
        let passed = body.accept(&self.reader.buf);
        Poll::Ready(passed.map_err(|refusal| io::Error::new(io::ErrorKind::InvalidData, refusal)))
    }

    /// One read of the engine. On an error the caller ends the connection.
    fn poll_guarded(&mut self, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            match &mut self.state {
                ReadState::Between(_) => match ready!(self.poll_head(cx, false))? {
                    Arrived::Head => {}
                    Arrived::Refused(refusal) => {
                        self.turn.clear();
                        self.state = ReadState::Refused(stand_in(refusal));
                    }
                    Arrived::Http2 | Arrived::Eof => self.state = ReadState::Ended,
                },
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
                        ReadState::Done { upgrade: false }
                    } else {
                        ReadState::Length { left }
                    };
                    return Poll::Ready(Ok(()));
                }
                ReadState::Chunked { passed, body } if *passed > 0 => {
                    *passed -= self.reader.deliver(out, *passed);
                    if *passed == 0 && body.is_done() {
                        self.state = ReadState::Done { upgrade: false };
                    }
                    return Poll::Ready(Ok(()));
                }
                ReadState::Chunked { .. } => {
                    let more = ready!(self.poll_chunked(cx))?;
                    if let ReadState::Chunked { passed, .. } = &mut self.state {
                        *passed = more;
                    }
                }
                ReadState::Done { upgrade } => {
                    let upgrade = *upgrade;
                    self.state = ready!(self.poll_done(cx, upgrade))?.unwrap_or(ReadState::Ended);
                }
                ReadState::Refused([]) => {
                    // No end here: an engine takes it for a client that went away, and drops the answer, even one
                    // that is made and not yet written out. The stand-in asks it to close by itself.
                    let _ = ready!(self.turn.poll_signal(cx));
                    self.state = ReadState::Answered { until: Instant::now() + self.limits.idle };
                }
                ReadState::Answered { until } => {
                    let until = *until;
                    ready!(self.alarm.poll_until(cx, until));
                    self.state = ReadState::Ended;
                }
                ReadState::Refused(rest) => {
                    let (now, later) = rest.split_at(rest.len().min(out.remaining()));
                    out.put_slice(now);
                    *rest = later;
                    return Poll::Ready(Ok(()));
                }
                ReadState::Tunnel if !self.reader.buf.is_empty() => {
                    self.reader.deliver(out, usize::MAX);
                    return Poll::Ready(Ok(()));
                }
                ReadState::Tunnel if self.reader.eof => return Poll::Ready(Ok(())),
                ReadState::Tunnel => return Pin::new(&mut self.inner).poll_read(cx, out),
                ReadState::Ended => return Poll::Ready(Ok(())),
            }
        }
    }
}

impl AsyncRead for GuardedConnection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // A read without room says nothing: it must not look like the end.
        if out.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let read = ready!(this.poll_guarded(cx, out));
        if read.is_err() {
            this.state = ReadState::Ended;
        }
        Poll::Ready(read)
    }
}

/// Where the read half stands once a head is delivered.
pub(super) fn after_head(head: &Head) -> ReadState {
    match head.framing {
        Framing::None | Framing::Length(0) => ReadState::Done { upgrade: head.upgrade },
        Framing::Length(left) => ReadState::Length { left },
        Framing::Chunked => ReadState::Chunked { body: Body::new(head.framing), passed: 0 },
    }
}

/// The request that an engine gets in place of a refused one, so that it answers in order.
fn stand_in(refusal: Refusal) -> &'static [u8] {
    macro_rules! request {
        ($status:literal) => {
            concat!("GET /.refused/", $status, " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                .as_bytes()
        };
    }
    match refusal.kind() {
        RefusalKind::BadRequest => request!("400"),
        RefusalKind::Timeout => request!("408"),
        RefusalKind::HeadersTooLarge => request!("431"),
    }
}

fn cut_short() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the client's connection ended inside a body")
}
