//! The states of the read half of a guarded connection.

use tokio::time::Instant;

use super::framing::BodyChecker;
use super::head::{Framing, Head};
use super::refusal::Refusal;

/// The state of the read half. Each byte goes from the client to the engine in exactly one of these states.
#[derive(Debug)]
pub(super) enum ReadState {
    /// No message has begun.
    Between(HeadWait),
    /// A checked head is at the front of the buffer. `left` of its bytes are not delivered.
    Head { head: Head, left: usize },
    /// `left` bytes of a body of known length are not delivered.
    Length { left: u64 },
    /// A chunked body. The first `passed` bytes of the buffer are checked and not delivered.
    Chunked { body: BodyChecker, passed: usize },
    /// The message is delivered and its exchange is not over.
    Done { is_upgrade: bool },
    /// The connection is no HTTP/1 any more: every byte passes.
    Tunnel,
    /// Nothing more comes.
    Ended,
}

/// Whether the engine that reads gives the connection back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Release {
    /// It gets the next message.
    No,
    /// It gets nothing more, and has bytes to flush.
    Pending,
    /// It has seen the end of the connection. The guard does not close it.
    Done,
}

/// The progress of a wait for a head.
#[derive(Debug, Default)]
pub(super) struct HeadWait {
    /// How many bytes of the buffer were searched for the end of the head.
    pub(super) searched_len: usize,
    /// Whether the empty line before the request line was skipped. A second one is refused.
    pub(super) has_skipped_line: bool,
    /// When the connection ends if no byte of a head arrives.
    pub(super) idle_until: Option<Instant>,
    /// When the head is refused if it is not whole.
    pub(super) head_until: Option<Instant>,
}

/// How a wait for a head ended.
pub(super) enum HeadWaitEnd {
    Head,
    Http2,
    Eof,
    Refused(Refusal),
}

/// Returns the state that follows once a head is delivered.
pub(super) fn after_head(head: &Head) -> ReadState {
    match head.framing {
        Framing::None | Framing::Length(0) => ReadState::Done { is_upgrade: head.is_websocket_upgrade },
        Framing::Length(left) => ReadState::Length { left },
        Framing::Chunked => ReadState::Chunked { body: BodyChecker::new(head.framing), passed: 0 },
    }
}
