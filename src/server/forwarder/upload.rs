//! The request on its way to the app: its head with the first piece of its body in one write, then the body piece by
//! piece. One piece is held at a time, so a slow app slows its client.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::body::{BodyReader, BodyWriter, Buffer};
use super::failure::Failure;
use crate::api::ApiError;
use crate::server::http1_guard::GuardedConnection;
use crate::server::http1_guard::head::Framing;

/// A request, of which some is sent.
pub(super) struct Upload {
    /// The head and the first piece of the body, kept until the answer begins.
    first: Vec<u8>,
    written: usize,
    body: BodyReader,
    writer: BodyWriter,
    has_read_first_piece: bool,
    /// Whether more of the body was read than `first` has, so that the request cannot be sent again.
    is_beyond_first: bool,
    piece: Option<Buffer>,
    /// Whether the app takes no more. It may have answered.
    is_broken: bool,
    /// Whether bytes moved since the caller last asked.
    has_progress: bool,
    /// Since when the app has taken no byte.
    pub(super) stalled_since: Option<Instant>,
    /// Since when the client has sent no byte of the body.
    pub(super) waiting_since: Option<Instant>,
}

impl Upload {
    /// Begins with a head for the app, after which the client sends a body with this framing.
    pub(super) fn new(head: Vec<u8>, framing: Framing) -> Self {
        Self {
            first: head,
            written: 0,
            body: BodyReader::of_request(framing),
            writer: BodyWriter { is_chunked: framing == Framing::Chunked },
            has_read_first_piece: false,
            is_beyond_first: false,
            piece: None,
            is_broken: false,
            has_progress: false,
            stalled_since: None,
            waiting_since: None,
        }
    }

    /// Whether the whole request was read from the client and written to the app.
    pub(super) fn is_done(&self) -> bool {
        self.is_read() && !self.is_broken && self.written >= self.first.len() && self.piece.is_none()
    }

    /// Whether the whole request was read from the client.
    pub(super) fn is_read(&self) -> bool {
        self.body.is_done()
    }

    /// Prepares to send the request again. Returns whether it is still here as a whole.
    pub(super) fn rewind(&mut self) -> bool {
        (self.written, self.is_broken, self.stalled_since) = (0, false, None);
        !self.is_beyond_first
    }

    /// Frees the memory of a request that is sent and will not be sent again.
    pub(super) fn forget(&mut self) {
        if !self.first.is_empty() && self.is_done() {
            (self.first, self.written, self.is_beyond_first) = (Vec::new(), 0, true);
        }
    }

    /// Returns whether bytes moved since the last call.
    pub(super) fn take_progress(&mut self) -> bool {
        std::mem::take(&mut self.has_progress)
    }

    /// Ready once all is sent, or the app takes no more.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut GuardedConnection,
        app: &mut TcpStream,
    ) -> Poll<Result<(), Failure>> {
        if !self.has_read_first_piece {
            self.has_read_first_piece = true;
            self.read_first_piece(cx, client)?;
        }
        loop {
            if self.is_broken {
                return Poll::Ready(Ok(()));
            }
            if self.written < self.first.len() {
                let written = Pin::new(&mut *app).poll_write(cx, &self.first[self.written..]);
                self.written += ready!(self.note_write(written));
            } else if let Some(piece) = &mut self.piece {
                let written = Pin::new(&mut *app).poll_write(cx, piece.filled());
                let written = ready!(self.note_write(written));
                if let Some(piece) = &mut self.piece {
                    piece.start += written;
                    if piece.filled().is_empty() {
                        self.piece = None;
                    }
                }
            } else if self.body.is_done() {
                return Poll::Ready(Ok(()));
            } else {
                let mut piece = ready!(self.poll_piece(cx, client))?;
                self.is_beyond_first = true;
                self.writer.frame(&mut piece, self.body.is_done());
                self.piece = Some(piece).filter(|piece| !piece.filled().is_empty());
            }
        }
    }

    /// Adds what has arrived of the body to the head.
    fn read_first_piece(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut GuardedConnection,
    ) -> Result<(), Failure> {
        if self.body.is_done() {
            return Ok(());
        }
        match self.poll_piece(cx, client) {
            Poll::Ready(piece) => {
                self.writer.append(&mut self.first, piece?.filled(), self.body.is_done());
                Ok(())
            }
            Poll::Pending => Ok(()),
        }
    }

    /// Reads the content of the next piece of the body.
    fn poll_piece(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut GuardedConnection,
    ) -> Poll<Result<Buffer, Failure>> {
        let mut piece = Buffer::take();
        let mut room = ReadBuf::new(piece.room());
        let read = Pin::new(client).poll_read(cx, &mut room);
        let count = room.filled().len();
        if read.is_pending() {
            self.waiting_since.get_or_insert_with(Instant::now);
            return Poll::Pending;
        }
        (self.waiting_since, self.has_progress) = (None, true);
        ready!(read).map_err(|error| client_failure(&error))?;
        piece.end += count;
        let content = match self.body.read(piece.filled_mut()) {
            // The guard delivers the bytes of this body only, at least one at a time.
            Ok((taken, content)) if taken == count && count > 0 => content,
            _ => return Poll::Ready(Err(Failure::Error(ApiError::MalformedBody))),
        };
        piece.end = piece.start + content;
        Poll::Ready(Ok(piece))
    }

    /// Returns how many bytes the app took.
    fn note_write(&mut self, written: Poll<io::Result<usize>>) -> Poll<usize> {
        if written.is_pending() {
            self.stalled_since.get_or_insert_with(Instant::now);
            return Poll::Pending;
        }
        (self.stalled_since, self.has_progress) = (None, true);
        match ready!(written) {
            Ok(count) if count > 0 => Poll::Ready(count),
            _ => {
                self.is_broken = true;
                Poll::Ready(0)
            }
        }
    }
}

/// Returns the failure for an error while the body of a request is read.
fn client_failure(error: &io::Error) -> Failure {
    match error.kind() {
        // The body broke off, or its framing breaks a rule: the guard reports both.
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => Failure::Error(ApiError::MalformedBody),
        _ => Failure::ClientGone,
    }
}
