//! The guarded read half of a client's connection, in front of either engine.
//!
//! An engine that reads here gets one checked head and exactly its body, and then nothing until the exchange is
//! over ([`Turn::next`]): it never holds a byte of a message that was not checked, so what one engine would read
//! in its own way cannot reach it. The write half passes through.

mod delivery_tracker;
#[cfg(test)]
mod engine_tests;
mod exchange_signal;
pub mod framing;
pub mod head;
mod pingora_io;
mod read;
mod read_buffer;
#[cfg(test)]
mod tests;
mod write;

use std::future::poll_fn;
use std::time::Duration;

use bytes::{Buf, Bytes};
use pingora_core::protocols::Stream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use delivery_tracker::End;
pub use exchange_signal::ExchangeSignal;
use head::{Head, Refusal};
use read::{Arrived, ReadState, Wait, after_head};
use read_buffer::{Alarm, Reader};
use write::Writer;

/// The first bytes of an HTTP/2 connection with prior knowledge.
pub const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How long a client that was turned away may go on sending before the connection is cut under it.
const LINGER: Duration = Duration::from_secs(2);

/// How long a client may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Until the first byte of a message; then the connection ends. Also for the engine to close after a refusal.
    pub idle: Duration,
    /// From the first byte of a head to its last; then it is refused.
    pub head: Duration,
    /// Between two pieces of an answer that it takes; then the connection is cut.
    pub write: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            idle: Duration::from_secs(75),
            head: Duration::from_secs(10),
            write: Duration::from_secs(30),
        }
    }
}

/// What [`Downstream::next_head`] found.
#[derive(Debug)]
pub enum Next {
    /// The connection begins with the preface of HTTP/2. Reads now pass everything, the preface first.
    Http2,
    /// A checked head is buffered; the next read delivers it.
    Head(HeadInfo),
    /// There is no further message: the client is gone or was idle for too long, or the engine left the previous
    /// message unread.
    Closed,
    /// The head was refused. The caller answers with the refusal's status and closes; nothing more is read.
    Refused(Refusal),
}

/// A checked head that waits to be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeadInfo {
    /// The host as received, with its port.
    pub host: String,
    /// What the check found.
    pub head: Head,
}

/// A client's connection whose read half passes on one checked message at a time.
pub struct GuardedConnection {
    /// Before `inner`, and so dropped before it.
    end: End,
    inner: Stream,
    reader: Reader,
    state: ReadState,
    /// No byte was read yet, so this may still become HTTP/2.
    fresh: bool,
    limits: Limits,
    alarm: Alarm,
    writer: Writer,
    turn: ExchangeSignal,
}

impl GuardedConnection {
    /// Guards a connection of which nothing was read. `inner` may be a TLS stream already.
    pub fn new(inner: Stream, limits: Limits) -> Self {
        let turn = ExchangeSignal::default();
        GuardedConnection {
            end: End { turn: turn.clone(), socket: inner.get_socket_digest(), written: None },
            inner,
            reader: Reader::default(),
            state: ReadState::Between(Wait::default()),
            fresh: true,
            limits,
            alarm: Alarm::default(),
            writer: Writer::default(),
            turn,
        }
    }

    /// The handle with which the engine says how an exchange ended. All handles of a connection are the same.
    pub fn turn(&self) -> ExchangeSignal {
        self.turn.clone()
    }

    /// Whether no message is begun, so that ending the connection now cuts nothing off.
    pub fn is_idle(&self) -> bool {
        matches!(self.state, ReadState::Between(_)) && self.reader.buf.is_empty()
    }

    /// Waits until a whole checked head is buffered, without delivering it. To ask is to say that the previous
    /// exchange is over. Cancel-safe: what arrived stays, and the deadlines go on from where they were.
    pub async fn next_head(&mut self) -> Next {
        if let ReadState::Done { .. } = self.state {
            self.state = ReadState::Between(Wait::default());
        }
        if let ReadState::Between(_) = self.state {
            let arrived = poll_fn(|cx| self.poll_head(cx, true)).await;
            match arrived {
                Ok(Arrived::Head) => {}
                Ok(Arrived::Http2) => {
                    self.state = ReadState::Tunnel;
                    return Next::Http2;
                }
                Ok(Arrived::Refused(refusal)) => {
                    self.state = ReadState::Ended;
                    return Next::Refused(refusal);
                }
                Ok(Arrived::Eof) | Err(_) => {
                    self.state = ReadState::Ended;
                    return Next::Closed;
                }
            }
        }
        match &self.state {
            ReadState::Head { head, left } if *left == head.len => {
                Next::Head(HeadInfo { host: head.host(&self.reader.buf).to_owned(), head: head.clone() })
            }
            _ => Next::Closed,
        }
    }

    /// Takes the buffered head away undelivered, for a caller that carries on the exchange itself; empty when
    /// none waits whole.
    pub fn take_head(&mut self) -> Bytes {
        match &self.state {
            ReadState::Head { head, left } if *left == head.len => {
                let bytes = Bytes::copy_from_slice(&self.reader.buf[..head.len]);
                self.reader.buf.advance(head.len);
                self.state = after_head(head);
                bytes
            }
            _ => Bytes::new(),
        }
    }

    /// Ends the guard: the bytes read and not delivered, and the connection they came from.
    pub fn into_parts(self) -> (Bytes, Stream) {
        (self.reader.buf.freeze(), self.inner)
    }

    /// Ends the connection so that an answer already written can arrive: closes the write half and swallows, for
    /// at most two seconds, what the client still sends. Closed with bytes unread, a connection is reset, and the
    /// reset can overtake the answer.
    pub async fn linger(&mut self) {
        let mut sink = [0; 4096];
        let swallow = async {
            if self.inner.shutdown().await.is_ok() {
                while !matches!(self.inner.read(&mut sink).await, Ok(0) | Err(_)) {}
            }
        };
        // Too slow is the expected end of a client that never stops.
        let _ = timeout(LINGER, swallow).await;
        self.state = ReadState::Ended;
    }
}
