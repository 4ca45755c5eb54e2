//! The incremental check of a body's framing, which finds where the body ends. Pure: bytes in, verdict out.

#[cfg(test)]
mod tests;

use super::head::{Framing, is_control, is_tchar};
use super::limits::{MAX_CHUNK_LINE_BYTES, MAX_EXTENSION_BYTES, MAX_FIELDS, MAX_HEAD_BYTES};
use super::refusal::Refusal;

/// Trailers that would change where a message ends or which host it is for.
const FORBIDDEN_TRAILERS: [&[u8]; 3] = [b"content-length", b"transfer-encoding", b"host"];

/// Bytes of the longest of [`FORBIDDEN_TRAILERS`].
const LONGEST_FORBIDDEN_LEN: usize = 17;

/// Checks the body of one message as its bytes arrive.
#[derive(Debug, Clone)]
pub(in crate::server) struct BodyChecker {
    next: NextByte,
    /// Bytes of the present chunk line.
    chunk_line_bytes: usize,
    /// Bytes of all chunk extensions.
    extension_bytes: usize,
    /// Bytes of all trailers.
    trailer_bytes: usize,
    /// Number of trailers.
    trailers: usize,
}

/// The role of the next byte.
#[derive(Debug, Clone)]
enum NextByte {
    /// One of the bytes of a body of known length.
    Plain { left: u64 },
    /// A digit of a chunk's size, or the byte that follows the digits.
    Size { digits: u8, size: u64 },
    /// A blank between the size and the extension's semicolon, or that semicolon.
    Blank { size: u64 },
    /// Inside a chunk extension.
    Extension { size: u64 },
    /// The LF of a chunk line.
    SizeLf { size: u64 },
    /// One of the bytes of a chunk.
    Data { left: u64 },
    /// The CR after a chunk's bytes.
    DataCr,
    /// The LF after a chunk's bytes.
    DataLf,
    /// The first byte of a trailer, or the CR of the end.
    TrailerStart,
    /// Inside a trailer's name.
    TrailerName(NamePrefix),
    /// Inside a trailer's value.
    TrailerValue,
    /// The LF of a trailer.
    TrailerLf,
    /// The LF of the end.
    EndLf,
    /// The first byte of the next message.
    Done,
}

/// The name of a trailer: its first bytes in lower case, and its length.
#[derive(Debug, Clone)]
struct NamePrefix {
    start: [u8; LONGEST_FORBIDDEN_LEN],
    len: usize,
}

impl NamePrefix {
    fn push(mut self, b: u8) -> Self {
        if let Some(place) = self.start.get_mut(self.len) {
            *place = b.to_ascii_lowercase();
        }
        self.len += 1;
        self
    }

    fn is_forbidden(&self) -> bool {
        self.start.get(..self.len).is_some_and(|name| FORBIDDEN_TRAILERS.contains(&name))
    }
}

impl BodyChecker {
    /// Begins the check of a body with this framing.
    pub(in crate::server) fn new(framing: Framing) -> Self {
        let next = match framing {
            Framing::None | Framing::Length(0) => NextByte::Done,
            Framing::Length(left) => NextByte::Plain { left },
            Framing::Chunked => NextByte::Size { digits: 0, size: 0 },
        };
        BodyChecker { next, chunk_line_bytes: 0, extension_bytes: 0, trailer_bytes: 0, trailers: 0 }
    }

    /// Whether the check has reached the end of the body.
    pub(in crate::server) fn is_done(&self) -> bool {
        matches!(self.next, NextByte::Done)
    }

    /// Checks the next bytes and returns how many of them belong to this message: all, unless the message ends before.
    /// How the bytes are split over calls makes no difference.
    ///
    /// # Errors
    /// The fault in the framing. The checker must not be used further.
    pub(super) fn accept(&mut self, bytes: &[u8]) -> Result<usize, Refusal> {
        let mut taken = 0;
        while let Some((count, _)) = self.accept_run(&bytes[taken..])? {
            taken += count;
        }
        Ok(taken)
    }

    /// Checks the next bytes as [`accept`](Self::accept) does, and moves those that are content, neither framing nor
    /// trailers, to the front. Returns how many bytes belong to this message, and how many of them are content.
    ///
    /// # Errors
    /// The fault in the framing. The checker must not be used further.
    pub(in crate::server) fn accept_content(&mut self, bytes: &mut [u8]) -> Result<(usize, usize), Refusal> {
        let (mut taken, mut content) = (0, 0);
        while let Some((count, is_content)) = self.accept_run(&bytes[taken..])? {
            if is_content {
                if taken != content {
                    bytes.copy_within(taken..taken + count, content);
                }
                content += count;
            }
            taken += count;
        }
        Ok((taken, content))
    }

    /// Checks the next bytes that have one role. Returns how many they are and whether they are content; `None` if no
    /// byte of the message is left.
    fn accept_run(&mut self, bytes: &[u8]) -> Result<Option<(usize, bool)>, Refusal> {
        let Some(b) = bytes.first() else { return Ok(None) };
        let available = bytes.len() as u64;
        let (next, count, is_content) = match std::mem::replace(&mut self.next, NextByte::Done) {
            NextByte::Done => return Ok(None),
            NextByte::Plain { left } if left <= available => (NextByte::Done, left, true),
            NextByte::Plain { left } => (NextByte::Plain { left: left - available }, available, true),
            NextByte::Data { left } if left <= available => (NextByte::DataCr, left, true),
            NextByte::Data { left } => (NextByte::Data { left: left - available }, available, true),
            next => (self.step(next, *b)?, 1, false),
        };
        self.next = next;
        Ok(Some((count as usize, is_content))) // At most `available`, which came from a usize.
    }

    /// Checks a byte that is part of the framing, and returns the role of the byte after it.
    fn step(&mut self, next: NextByte, b: u8) -> Result<NextByte, Refusal> {
        match next {
            NextByte::Size { .. }
            | NextByte::Blank { .. }
            | NextByte::Extension { .. }
            | NextByte::SizeLf { .. } => {
                self.chunk_line_bytes += 1;
                if self.chunk_line_bytes > MAX_CHUNK_LINE_BYTES {
                    return Err(Refusal::ChunkLineTooLong);
                }
                self.chunk_line(next, b)
            }
            NextByte::DataCr if b == b'\r' => Ok(NextByte::DataLf),
            NextByte::DataLf if b == b'\n' => Ok(NextByte::Size { digits: 0, size: 0 }),
            NextByte::DataCr | NextByte::DataLf => Err(Refusal::ChunkEnd),
            next => {
                self.trailer_bytes += 1;
                if self.trailer_bytes > MAX_HEAD_BYTES {
                    return Err(Refusal::HeadTooLarge);
                }
                self.trailer(next, b)
            }
        }
    }

    /// Checks a byte of the line before a chunk.
    fn chunk_line(&mut self, next: NextByte, b: u8) -> Result<NextByte, Refusal> {
        match (next, b) {
            (NextByte::Size { digits, size }, b) if b.is_ascii_hexdigit() => {
                if digits == 16 {
                    return Err(Refusal::ChunkSize);
                }
                let digit = char::from(b).to_digit(16).map_or(0, u64::from);
                Ok(NextByte::Size { digits: digits + 1, size: size << 4 | digit })
            }
            (NextByte::Size { digits: 0, .. }, _) => Err(Refusal::ChunkSize),
            (NextByte::Size { size, .. } | NextByte::Extension { size }, b'\r') => {
                Ok(NextByte::SizeLf { size })
            }
            (NextByte::Size { size, .. } | NextByte::Blank { size }, b' ' | b'\t') => {
                self.extension_byte()?;
                Ok(NextByte::Blank { size })
            }
            (NextByte::Size { size, .. } | NextByte::Blank { size }, b';') => {
                self.extension_byte()?;
                Ok(NextByte::Extension { size })
            }
            (NextByte::Size { .. }, _) => Err(Refusal::ChunkSize),
            (NextByte::Extension { size }, b) if b.is_ascii_graphic() || matches!(b, b' ' | b'\t') => {
                self.extension_byte()?;
                Ok(NextByte::Extension { size })
            }
            (NextByte::SizeLf { size }, b'\n') => {
                self.chunk_line_bytes = 0;
                Ok(if size == 0 { NextByte::TrailerStart } else { NextByte::Data { left: size } })
            }
            (NextByte::SizeLf { .. }, _) => Err(Refusal::BareCr),
            _ => Err(Refusal::ChunkExtension),
        }
    }

    /// Counts a byte of a chunk extension.
    fn extension_byte(&mut self) -> Result<(), Refusal> {
        self.extension_bytes += 1;
        if self.extension_bytes > MAX_EXTENSION_BYTES { Err(Refusal::ExtensionsTooLarge) } else { Ok(()) }
    }

    /// Checks a byte of the trailers or of the line end after them.
    fn trailer(&mut self, next: NextByte, b: u8) -> Result<NextByte, Refusal> {
        match (next, b) {
            (NextByte::TrailerStart, b'\r') => Ok(NextByte::EndLf),
            (NextByte::TrailerStart, b' ' | b'\t') => Err(Refusal::Fold),
            (NextByte::TrailerStart, b) if is_tchar(b) => {
                self.trailers += 1;
                if self.trailers > MAX_FIELDS {
                    return Err(Refusal::TooManyFields);
                }
                Ok(NextByte::TrailerName(NamePrefix { start: [0; LONGEST_FORBIDDEN_LEN], len: 0 }.push(b)))
            }
            (NextByte::TrailerName(name), b':') if name.is_forbidden() => Err(Refusal::ForbiddenTrailer),
            (NextByte::TrailerName(_), b':') => Ok(NextByte::TrailerValue),
            (NextByte::TrailerName(name), b) if is_tchar(b) => Ok(NextByte::TrailerName(name.push(b))),
            (NextByte::TrailerName(_), b' ' | b'\t') => Err(Refusal::SpaceBeforeColon),
            (NextByte::TrailerName(_), b'\r') => Err(Refusal::NoColon),
            (NextByte::TrailerStart | NextByte::TrailerValue | NextByte::TrailerName(_), b'\n') => {
                Err(Refusal::BareLf)
            }
            (NextByte::TrailerStart | NextByte::TrailerName(_), _) => Err(Refusal::FieldName),
            (NextByte::TrailerValue, b'\r') => Ok(NextByte::TrailerLf),
            (NextByte::TrailerValue, b) if is_control(b) => Err(Refusal::Control),
            (NextByte::TrailerValue, _) => Ok(NextByte::TrailerValue),
            (NextByte::TrailerLf, b'\n') => Ok(NextByte::TrailerStart),
            (NextByte::EndLf, b'\n') => Ok(NextByte::Done),
            _ => Err(Refusal::BareCr),
        }
    }
}
