//! The body of a message: read by one framing, written by another. Pure, apart from the buffers of a thread.

use std::cell::RefCell;

use super::answer_head::AnswerFraming;
use crate::server::http1_guard::Refusal;
use crate::server::http1_guard::framing::BodyChecker;
use crate::server::http1_guard::head::Framing;

/// Bytes of a buffer: a size for which allocators have blocks.
const BUFFER_SIZE: usize = 32 * 1024;

/// Room before the bytes for the line before a chunk, and after them for the end of the chunk and of the body.
const FRONT_ROOM: usize = 16;
const BACK_ROOM: usize = 16;

/// Bytes that one read may return.
const READ_SIZE: usize = BUFFER_SIZE - FRONT_ROOM - BACK_ROOM;

/// Most free buffers that a thread keeps.
const MAX_FREE_BUFFERS: usize = 16;

thread_local! {
    static FREE_BUFFERS: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// A buffer for what one read returns, from those of the thread. An exchange holds one only while it has bytes in it.
pub(super) struct Buffer {
    bytes: Box<[u8]>,
    pub(super) start: usize,
    pub(super) end: usize,
}

impl Buffer {
    pub(super) fn take() -> Self {
        let free = FREE_BUFFERS.with_borrow_mut(Vec::pop);
        let bytes = free.unwrap_or_else(|| vec![0; BUFFER_SIZE].into_boxed_slice());
        Self { bytes, start: FRONT_ROOM, end: FRONT_ROOM }
    }

    /// Returns the bytes that are not yet written.
    pub(super) fn filled(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    pub(super) fn filled_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.end]
    }

    /// Moves the bytes to the front, so that the room for the next read is as large as can be.
    pub(super) fn make_room(&mut self) {
        self.bytes.copy_within(self.start..self.end, FRONT_ROOM);
        (self.start, self.end) = (FRONT_ROOM, FRONT_ROOM + self.end - self.start);
    }

    /// Returns the room for the next read.
    pub(super) fn room(&mut self) -> &mut [u8] {
        &mut self.bytes[self.end..FRONT_ROOM + READ_SIZE]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        // A thread that ends has no buffers any more.
        let _ = FREE_BUFFERS.try_with(|free| {
            let mut free = free.borrow_mut();
            if free.len() < MAX_FREE_BUFFERS {
                free.push(bytes);
            }
        });
    }
}

/// A body that is read by its framing.
#[derive(Debug, Clone)]
pub(super) enum BodyReader {
    /// The bytes are checked, and the check finds the end.
    Framed(BodyChecker),
    /// All bytes belong to the body until the connection ends.
    UntilClosed {
        /// Whether the connection has ended.
        is_done: bool,
    },
}

impl BodyReader {
    pub(super) fn of_request(framing: Framing) -> Self {
        Self::Framed(BodyChecker::new(framing))
    }

    pub(super) fn of_answer(framing: AnswerFraming) -> Self {
        Self::Framed(BodyChecker::new(match framing {
            AnswerFraming::None => Framing::None,
            AnswerFraming::Length(length) => Framing::Length(length),
            AnswerFraming::Chunked => Framing::Chunked,
            AnswerFraming::UntilClosed => return Self::UntilClosed { is_done: false },
        }))
    }

    pub(super) fn is_done(&self) -> bool {
        match self {
            Self::Framed(checker) => checker.is_done(),
            Self::UntilClosed { is_done } => *is_done,
        }
    }

    /// Reads the next bytes and moves the content to the front. Returns how many bytes belong to this message, and how
    /// many of them are content.
    ///
    /// # Errors
    /// The fault in the framing.
    pub(super) fn read(&mut self, bytes: &mut [u8]) -> Result<(usize, usize), Refusal> {
        match self {
            Self::Framed(checker) => checker.accept_content(bytes),
            Self::UntilClosed { .. } => Ok((bytes.len(), bytes.len())),
        }
    }

    /// Records the end of the connection. Returns whether the body may end there.
    pub(super) fn close(&mut self) -> bool {
        match self {
            Self::Framed(checker) => checker.is_done(),
            Self::UntilClosed { is_done } => {
                *is_done = true;
                true
            }
        }
    }
}

/// How a body is written: in chunks, or as it is. Trailers and chunk extensions of what was read are left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BodyWriter {
    pub(super) is_chunked: bool,
}

/// The end of a chunked body.
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

impl BodyWriter {
    /// Writes content to the end of `out`.
    pub(super) fn append(self, out: &mut Vec<u8>, content: &[u8], is_last: bool) {
        if self.is_chunked && !content.is_empty() {
            let mut line = [0; FRONT_ROOM];
            out.extend_from_slice(chunk_line(&mut line, content.len()));
            out.extend_from_slice(content);
            out.extend_from_slice(b"\r\n");
        } else {
            out.extend_from_slice(content);
        }
        if self.is_chunked && is_last {
            out.extend_from_slice(LAST_CHUNK);
        }
    }

    /// Frames the content that is in a buffer.
    pub(super) fn frame(self, buffer: &mut Buffer, is_last: bool) {
        if !self.is_chunked {
            return;
        }
        let length = buffer.end - buffer.start;
        if length > 0 {
            let mut line = [0; FRONT_ROOM];
            let line = chunk_line(&mut line, length);
            buffer.bytes[buffer.start - line.len()..buffer.start].copy_from_slice(line);
            buffer.start -= line.len();
            buffer.push(b"\r\n");
        }
        if is_last {
            buffer.push(LAST_CHUNK);
        }
    }
}

impl Buffer {
    fn push(&mut self, bytes: &[u8]) {
        self.bytes[self.end..self.end + bytes.len()].copy_from_slice(bytes);
        self.end += bytes.len();
    }
}

/// Returns the line before a chunk of this length.
fn chunk_line(line: &mut [u8; FRONT_ROOM], length: usize) -> &[u8] {
    let mut at = line.len() - 2;
    line[at..].copy_from_slice(b"\r\n");
    let mut rest = length;
    while rest > 0 {
        at -= 1;
        line[at] = b"0123456789ABCDEF"[rest % 16];
        rest /= 16;
    }
    &line[at..]
}
