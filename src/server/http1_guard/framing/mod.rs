//! Where a request body ends: an incremental check of its framing. Pure: bytes in, verdict out.

#[cfg(test)]
mod tests;

use super::head::{Framing, MAX_FIELDS, MAX_HEAD, Refusal, is_control, is_tchar};

/// Most bytes of a chunk's first line, its CRLF included.
pub const MAX_CHUNK_LINE: usize = 256;

/// Most bytes that the chunk extensions of one body may have together.
pub const MAX_EXTENSIONS: usize = 16 * 1024;

/// Trailers that would change where a message ends or whom it is for.
const FORBIDDEN_TRAILERS: [&[u8]; 3] = [b"content-length", b"transfer-encoding", b"host"];

/// Bytes of the longest of [`FORBIDDEN_TRAILERS`].
const LONGEST_FORBIDDEN: usize = 17;

/// The body of one message, as far as it was seen.
#[derive(Debug, Clone)]
pub struct Body {
    at: At,
    /// Bytes of the present chunk line.
    line: usize,
    /// Bytes of all chunk extensions.
    extensions: usize,
    /// Bytes of all trailers.
    trailers: usize,
    /// Number of trailers.
    fields: usize,
}

/// What the next byte is.
#[derive(Debug, Clone)]
enum At {
    /// One of the bytes of a body of known length.
    Plain { left: u64 },
    /// A digit of a chunk's size, or what follows the digits.
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
    TrailerName(Name),
    /// Inside a trailer's value.
    TrailerValue,
    /// The LF of a trailer.
    TrailerLf,
    /// The LF of the end.
    EndLf,
    /// Of the next message.
    Done,
}

/// A trailer's name: its first bytes in lower case, and its length.
#[derive(Debug, Clone)]
struct Name {
    start: [u8; LONGEST_FORBIDDEN],
    len: usize,
}

impl Name {
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

impl Body {
    /// A body of which nothing was seen yet.
    pub fn new(framing: Framing) -> Self {
        let at = match framing {
            Framing::None | Framing::Length(0) => At::Done,
            Framing::Length(left) => At::Plain { left },
            Framing::Chunked => At::Size { digits: 0, size: 0 },
        };
        Body { at, line: 0, extensions: 0, trailers: 0, fields: 0 }
    }

    /// Whether the body was seen to its end.
    pub fn is_done(&self) -> bool {
        matches!(self.at, At::Done)
    }

    /// Takes in the next bytes and says how many of them belong to this message: all, unless it ends before.
    /// How the bytes are cut into calls makes no difference.
    ///
    /// # Errors
    /// What is wrong with the framing; the body must not be used further.
    pub fn accept(&mut self, bytes: &[u8]) -> Result<usize, Refusal> {
        let mut taken = 0;
        while let Some(b) = bytes.get(taken) {
            let have = (bytes.len() - taken) as u64;
            let (at, count) = match std::mem::replace(&mut self.at, At::Done) {
                At::Done => break,
                At::Plain { left } if left <= have => (At::Done, left),
                At::Plain { left } => (At::Plain { left: left - have }, have),
                At::Data { left } if left <= have => (At::DataCr, left),
                At::Data { left } => (At::Data { left: left - have }, have),
                at => (self.step(at, *b)?, 1),
            };
            self.at = at;
            taken += count as usize; // At most `have`, which came from a usize.
        }
        Ok(taken)
    }

    /// The state after a byte that is part of the framing.
    fn step(&mut self, at: At, b: u8) -> Result<At, Refusal> {
        match at {
            At::Size { .. } | At::Blank { .. } | At::Extension { .. } | At::SizeLf { .. } => {
                self.line += 1;
                if self.line > MAX_CHUNK_LINE {
                    return Err(Refusal::ChunkLineTooLong);
                }
                self.chunk_line(at, b)
            }
            At::DataCr if b == b'\r' => Ok(At::DataLf),
            At::DataLf if b == b'\n' => Ok(At::Size { digits: 0, size: 0 }),
            At::DataCr | At::DataLf => Err(Refusal::ChunkEnd),
            at => {
                self.trailers += 1;
                if self.trailers > MAX_HEAD {
                    return Err(Refusal::HeadTooLarge);
                }
                self.trailer(at, b)
            }
        }
    }

    fn chunk_line(&mut self, at: At, b: u8) -> Result<At, Refusal> {
        match (at, b) {
            (At::Size { digits, size }, b) if b.is_ascii_hexdigit() => {
                if digits == 16 {
                    return Err(Refusal::ChunkSize);
                }
                let digit = char::from(b).to_digit(16).map_or(0, u64::from);
                Ok(At::Size { digits: digits + 1, size: size << 4 | digit })
            }
            (At::Size { digits: 0, .. }, _) => Err(Refusal::ChunkSize),
            (At::Size { size, .. } | At::Extension { size }, b'\r') => Ok(At::SizeLf { size }),
            (At::Size { size, .. } | At::Blank { size }, b' ' | b'\t') => {
                self.extension_byte()?;
                Ok(At::Blank { size })
            }
            (At::Size { size, .. } | At::Blank { size }, b';') => {
                self.extension_byte()?;
                Ok(At::Extension { size })
            }
            (At::Size { .. }, _) => Err(Refusal::ChunkSize),
            (At::Extension { size }, b) if b.is_ascii_graphic() || matches!(b, b' ' | b'\t') => {
                self.extension_byte()?;
                Ok(At::Extension { size })
            }
            (At::SizeLf { size }, b'\n') => {
                self.line = 0;
                Ok(if size == 0 { At::TrailerStart } else { At::Data { left: size } })
            }
            (At::SizeLf { .. }, _) => Err(Refusal::BareCr),
            _ => Err(Refusal::ChunkExtension),
        }
    }

    fn extension_byte(&mut self) -> Result<(), Refusal> {
        self.extensions += 1;
        if self.extensions > MAX_EXTENSIONS { Err(Refusal::ExtensionsTooLarge) } else { Ok(()) }
    }

    fn trailer(&mut self, at: At, b: u8) -> Result<At, Refusal> {
        match (at, b) {
            (At::TrailerStart, b'\r') => Ok(At::EndLf),
            (At::TrailerStart, b' ' | b'\t') => Err(Refusal::Fold),
            (At::TrailerStart, b) if is_tchar(b) => {
                self.fields += 1;
                if self.fields > MAX_FIELDS {
                    return Err(Refusal::TooManyFields);
                }
                Ok(At::TrailerName(Name { start: [0; LONGEST_FORBIDDEN], len: 0 }.push(b)))
            }
            (At::TrailerName(name), b':') if name.is_forbidden() => Err(Refusal::ForbiddenTrailer),
            (At::TrailerName(_), b':') => Ok(At::TrailerValue),
            (At::TrailerName(name), b) if is_tchar(b) => Ok(At::TrailerName(name.push(b))),
            (At::TrailerName(_), b' ' | b'\t') => Err(Refusal::SpaceBeforeColon),
            (At::TrailerName(_), b'\r') => Err(Refusal::NoColon),
            (At::TrailerStart | At::TrailerValue | At::TrailerName(_), b'\n') => Err(Refusal::BareLf),
            (At::TrailerStart | At::TrailerName(_), _) => Err(Refusal::FieldName),
            (At::TrailerValue, b'\r') => Ok(At::TrailerLf),
            (At::TrailerValue, b) if is_control(b) => Err(Refusal::Control),
            (At::TrailerValue, _) => Ok(At::TrailerValue),
            (At::TrailerLf, b'\n') => Ok(At::TrailerStart),
            (At::EndLf, b'\n') => Ok(At::Done),
            _ => Err(Refusal::BareCr),
        }
    }
}
