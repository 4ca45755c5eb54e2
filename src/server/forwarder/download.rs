//! The answer on its way to the client: its checked and edited head with the first piece of its body in one write, then
//! the body piece by piece. One piece is held at a time, so a slow client slows its app.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::net::sockopt::set_tcp_quickack;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::answer_head::{self, AnswerFraming, AnswerHead};
use super::body::{BodyReader, BodyWriter, Buffer};
use super::edit::{AnswerTo, write_answer};
use super::failure::Failure;
use crate::api::ApiError;
use crate::proxy::LocalExchange;
use crate::server::http1_guard::GuardedConnection;

/// The status of an answer that switches to another protocol.
const SWITCHING_PROTOCOLS: u16 = 101;

/// Most bytes of a piece that an app may have written alone. The kernel acknowledges larger ones at once.
const SMALL_PIECE_BYTES: usize = 4096;

/// Bytes of a piece after which more pieces are likely.
const BULK_PIECE_BYTES: usize = 8 * 1024;

/// An answer, of which some is sent.
pub(super) struct Download {
    is_head: bool,
    to: AnswerTo,
    /// Heads, and the first piece of the body, which are to be written.
    out: Vec<u8>,
    written: usize,
    is_flushed: bool,
    /// A part of a head, or a piece of the body that is to be written.
    buffer: Option<Buffer>,
    /// How many bytes of the buffer were searched for the end of a head.
    searched: usize,
    /// The body, once the last head was read.
    body: Option<(BodyReader, BodyWriter)>,
    /// Whether the first piece of the body may join the head.
    may_join: bool,
    /// Whether the last piece was large.
    is_bulk: bool,
    /// Whether the app sent anything.
    has_heard: bool,
    /// Whether a part of the last answer, or half of an interim head, may have reached the client.
    is_attempted: bool,
    status: u16,
    keeps_socket: bool,
    /// How long the app may be silent.
    silence: Option<Duration>,
    /// When something last moved.
    last_progress: Instant,
    is_waiting_for_app: bool,
}

impl Download {
    pub(super) fn new(is_head: bool, to: AnswerTo, silence: Option<Duration>) -> Self {
        Self {
            is_head,
            to,
            out: Vec::new(),
            written: 0,
            is_flushed: true,
            buffer: None,
            searched: 0,
            body: None,
            may_join: false,
            is_bulk: false,
            has_heard: false,
            is_attempted: false,
            status: 0,
            keeps_socket: false,
            silence,
            last_progress: Instant::now(),
            is_waiting_for_app: false,
        }
    }

    /// Returns the status of the answer if a part of it may have reached the client.
    pub(super) fn begun_status(&self) -> Option<u16> {
        self.is_attempted.then_some(self.status)
    }

    /// Whether the app lets a further request follow on its connection.
    pub(super) fn keeps_socket(&self) -> bool {
        self.keeps_socket
    }

    /// Whether the client was given to understand that its connection stays open.
    pub(super) fn keeps_connection(&self) -> bool {
        self.to.keeps_connection
    }

    /// Lets no further request follow on the client's connection.
    pub(super) fn end_connection(&mut self) {
        self.to.keeps_connection = false;
    }

    /// Returns when the app has been silent for too long, if it is the app that is awaited.
    pub(super) fn silent_at(&self) -> Option<Instant> {
        self.silence.filter(|_| self.is_waiting_for_app).map(|silence| self.last_progress + silence)
    }

    /// Records that something moved.
    pub(super) fn note_progress(&mut self) {
        self.last_progress = Instant::now();
    }

    /// Ready once the client has the whole answer. `is_uploaded` says whether the app has the whole request.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut GuardedConnection,
        app: &mut TcpStream,
        exchange: &mut LocalExchange,
        is_uploaded: bool,
    ) -> Poll<Result<(), Failure>> {
        self.is_waiting_for_app = false;
        loop {
            if std::mem::take(&mut self.may_join)
                && let Poll::Ready(read) = self.poll_read(cx, app, exchange, is_uploaded)
            {
                read?;
            }
            if self.written < self.out.len() {
                // Before the write: below TLS, one that is pending or failed may have sent a part of its bytes.
                self.is_attempted = true;
                let written = Pin::new(&mut *client).poll_write(cx, &self.out[self.written..]);
                self.written += self.note_write(ready!(written))?;
                if self.written == self.out.len() {
                    self.out.clear();
                    self.written = 0;
                    self.is_attempted = self.body.is_some();
                }
            } else if let Some(piece) = self.buffer.as_mut().filter(|_| self.body.is_some()) {
                let written = Pin::new(&mut *client).poll_write(cx, piece.filled());
                let written = self.note_write(ready!(written))?;
                self.buffer =
                    self.buffer.take().filter(|piece| piece.filled().len() > written).map(|mut piece| {
                        piece.start += written;
                        piece
                    });
            } else if !self.is_flushed {
                self.out = Vec::new();
                ready!(Pin::new(&mut *client).poll_flush(cx)).map_err(|_| Failure::ClientGone)?;
                self.is_flushed = true;
            } else if self.body.as_ref().is_some_and(|(reader, _)| reader.is_done()) {
                return Poll::Ready(Ok(()));
            } else {
                // A client that does not read holds no piece: the kernel takes the next one, or none is read.
                if self.is_bulk {
                    ready!(client.poll_room(cx)).map_err(|_| Failure::ClientGone)?;
                }
                self.is_waiting_for_app = true;
                ready!(self.poll_read(cx, app, exchange, is_uploaded))?;
                self.is_waiting_for_app = false;
            }
        }
    }

    /// Returns how many bytes the client took.
    fn note_write(&mut self, written: std::io::Result<usize>) -> Result<usize, Failure> {
        self.is_flushed = false;
        self.note_progress();
        match written {
            Ok(count) if count > 0 => Ok(count),
            _ => Err(Failure::ClientGone),
        }
    }

    /// Reads more of the answer and prepares it for the client.
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        app: &mut TcpStream,
        exchange: &mut LocalExchange,
        is_uploaded: bool,
    ) -> Poll<Result<(), Failure>> {
        let mut buffer = self.buffer.take().unwrap_or_else(Buffer::take);
        let mut room = ReadBuf::new(buffer.room());
        let read = Pin::new(&mut *app).poll_read(cx, &mut room);
        let count = room.filled().len();
        buffer.end += count;
        match read {
            Poll::Pending => {
                self.buffer = Some(buffer).filter(|buffer| !buffer.filled().is_empty());
                return Poll::Pending;
            }
            Poll::Ready(Ok(())) if count > 0 => {}
            Poll::Ready(read) => return Poll::Ready(self.close(read.is_ok())),
        }
        self.has_heard = true;
        self.is_bulk = count > BULK_PIECE_BYTES;
        self.note_progress();
        let read = match self.body {
            Some(_) => self.read_body(buffer),
            None => self.read_heads(buffer, exchange, is_uploaded),
        };
        let is_whole = self.body.as_ref().is_some_and(|(reader, _)| reader.is_done());
        if count <= SMALL_PIECE_BYTES && !is_whole {
            // The app may wait for this before it sends the next small piece (Nagle's algorithm), and the kernel would
            // wait up to 40 ms for a reason to send more than an acknowledgement. Without it the piece is only later.
            let _ = set_tcp_quickack(&*app, true);
        }
        Poll::Ready(read)
    }

    /// Handles the end of the app's connection. A reset is never the end of a body.
    fn close(&mut self, is_in_order: bool) -> Result<(), Failure> {
        self.keeps_socket = false;
        if !self.has_heard {
            return Err(Failure::SocketEnded);
        }
        match &mut self.body {
            Some((reader, writer)) if is_in_order => {
                if !reader.close() {
                    return Err(Failure::Error(ApiError::AppUnreachable));
                }
                writer.append(&mut self.out, &[], true);
                Ok(())
            }
            _ => Err(Failure::Error(ApiError::AppUnreachable)),
        }
    }

    /// Reads the heads in the buffer: any number of interim ones, then the last with the first piece of the body.
    fn read_heads(
        &mut self,
        mut buffer: Buffer,
        exchange: &mut LocalExchange,
        is_uploaded: bool,
    ) -> Result<(), Failure> {
        loop {
            let invalid = |_| Failure::Error(ApiError::AppUnreachable);
            let Some(end) = answer_head::find_end(buffer.filled(), self.searched).map_err(invalid)? else {
                self.searched = buffer.filled().len();
                buffer.make_room();
                self.buffer = Some(buffer).filter(|buffer| !buffer.filled().is_empty());
                return Ok(());
            };
            let head = &buffer.filled()[..end];
            let answer = answer_head::check(head, self.is_head).map_err(invalid)?;
            if answer.status == SWITCHING_PROTOCOLS {
                // No upgrade was forwarded.
                return Err(Failure::Error(ApiError::AppUnreachable));
            }
            if !answer.is_interim() {
                self.begin(head, &answer, exchange, is_uploaded)?;
                buffer.start += end;
                return self.read_body(buffer);
            }
            // RFC 9110, section 15.2: a client of HTTP/1.0 gets none.
            if self.to.is_http11 {
                let rules = exchange.interim_rules(&answer_head::read_headers(head));
                write_answer(&mut self.out, head, &answer, &rules, exchange.request_id(), self.to);
            }
            buffer.start += end;
            self.searched = 0;
        }
    }

    /// Prepares the head of the last answer.
    fn begin(
        &mut self,
        head: &[u8],
        answer: &AnswerHead,
        exchange: &mut LocalExchange,
        is_uploaded: bool,
    ) -> Result<(), Failure> {
        let length = match answer.framing {
            AnswerFraming::None => Some(0),
            AnswerFraming::Length(length) => Some(length),
            AnswerFraming::Chunked | AnswerFraming::UntilClosed => None,
        };
        let headers = answer_head::read_headers(head);
        let rules = exchange.begin_answer(&headers, length).map_err(Failure::Error)?;
        if rules.is_stream {
            self.silence = None;
        }
        let is_unbounded = length.is_none();
        // Without a length, only chunks show where the body ends; a client of HTTP/1.0 cannot read them.
        self.to.keeps_connection &= is_uploaded && (self.to.is_http11 || !is_unbounded);
        self.keeps_socket = answer.keeps_connection;
        self.status = answer.status;
        write_answer(&mut self.out, head, answer, &rules, exchange.request_id(), self.to);
        let writer = BodyWriter { is_chunked: is_unbounded && self.to.is_http11 };
        self.body = Some((BodyReader::of_answer(answer.framing), writer));
        self.may_join = true;
        Ok(())
    }

    /// Reads the piece of the body in the buffer.
    fn read_body(&mut self, mut buffer: Buffer) -> Result<(), Failure> {
        let Some((reader, writer)) = &mut self.body else { return Ok(()) };
        let count = buffer.filled().len();
        let Ok((taken, content)) = reader.read(buffer.filled_mut()) else {
            return Err(Failure::Error(ApiError::AppUnreachable));
        };
        // What follows is an answer to no request.
        self.keeps_socket &= taken == count;
        self.may_join &= content == 0 && !reader.is_done();
        buffer.end = buffer.start + content;
        if self.written < self.out.len() {
            writer.append(&mut self.out, buffer.filled(), reader.is_done());
            return Ok(());
        }
        writer.frame(&mut buffer, reader.is_done());
        self.buffer = Some(buffer).filter(|buffer| !buffer.filled().is_empty());
        Ok(())
    }
}
