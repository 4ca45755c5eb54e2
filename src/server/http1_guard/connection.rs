//! The guarded connection: its parts, and how its caller ends the guard.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use bytes::Bytes;
use pingora_core::protocols::Stream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};

use super::ack_observer::AckObserver;
use super::deadlines::{DeadlineTimer, WriteDeadlines};
use super::exchange_signal::ExchangeSignal;
use super::limits::{ClientTimeouts, LINGER_TIMEOUT};
use super::read_buffer::ReadBuffer;
use super::read_state::{HeadWait, ReadState, Release};
use crate::request::Peer;

/// Whether an engine gets a head with this host, as received.
pub type HeadFilter = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// A client's connection whose read half lets one checked message at a time through.
pub struct GuardedConnection {
    /// Declared before `inner`, and so dropped before it: the observer asks the kernel about the socket of `inner`.
    pub(super) acks: AckObserver,
    pub(super) inner: Stream,
    pub(super) reader: ReadBuffer,
    pub(super) state: ReadState,
    /// Which heads the reading engine gets after its first one; `None` for all.
    pub(super) head_filter: Option<HeadFilter>,
    pub(super) release: Release,
    /// Whether no head was read yet, so that the connection may still become HTTP/2.
    pub(super) is_first_message: bool,
    pub(super) timeouts: ClientTimeouts,
    pub(super) read_timer: DeadlineTimer,
    /// When to ask the kernel again whether a client that closed its write half has reset the connection.
    pub(super) next_reset_query: Option<Instant>,
    pub(super) write_deadlines: WriteDeadlines,
    pub(super) signal: ExchangeSignal,
}

impl GuardedConnection {
    /// Guards a connection of which nothing was read. `inner` may be a TLS stream.
    pub fn new(inner: Stream, timeouts: ClientTimeouts) -> Self {
        let signal = ExchangeSignal::default();
        GuardedConnection {
            acks: AckObserver::new(signal.clone(), inner.get_socket_digest()),
            inner,
            reader: ReadBuffer::default(),
            state: ReadState::Between(HeadWait::default()),
            head_filter: None,
            release: Release::No,
            is_first_message: true,
            timeouts,
            read_timer: DeadlineTimer::default(),
            next_reset_query: None,
            write_deadlines: WriteDeadlines::default(),
            signal,
        }
    }

    /// Returns the handle with which an engine reports how an exchange ended. All handles of a connection share one
    /// state.
    pub fn exchange_signal(&self) -> ExchangeSignal {
        self.signal.clone()
    }

    /// Returns the end of the client's connection.
    pub fn peer(&self) -> Peer {
        let address = self
            .inner
            .get_socket_digest()
            .and_then(|digest| digest.peer_addr().and_then(|address| address.as_inet().copied()))
            .map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |address| address.ip());
        Peer { address, is_secure: self.inner.get_ssl_digest().is_some() }
    }

    /// Lets an engine that serves one message after another get only the heads that pass `filter`. Before any other head,
    /// and before the end of the connection, it sees the end of the connection, and then closes nothing:
    /// [`is_released`](Self::is_released) says so, and [`next_head`](Self::next_head) goes on.
    pub fn lend(&mut self, filter: HeadFilter) {
        self.head_filter = Some(filter);
    }

    /// Whether an engine that the connection was [lent](Self::lend) to has served every message that it got, and has
    /// flushed its responses.
    pub fn is_released(&self) -> bool {
        self.release == Release::Done
    }

    /// Whether no message has begun.
    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        matches!(self.state, ReadState::Between(_)) && self.reader.buf.is_empty()
    }

    /// Whether no engine has got a byte of the present message, so that [`into_parts`](Self::into_parts) returns all of
    /// it that has arrived.
    pub fn is_untouched(&self) -> bool {
        match &self.state {
            ReadState::Between(_) => true,
            ReadState::Head { head, left } => *left == head.len,
            _ => false,
        }
    }

    /// Whether the guarded connection is of this type.
    pub fn is<T: 'static>(&self) -> bool {
        self.inner.as_any().is::<T>()
    }

    /// Ends the guard. Returns the bytes that were read and not delivered, and the connection that they came from.
    pub fn into_parts(self) -> (Bytes, Stream) {
        (self.reader.buf.freeze(), self.inner)
    }

    /// Closes the write half, so that a client that still reads sees the end of the connection, over TLS with the alert
    /// that announces it. The client has two seconds to take what is written.
    pub async fn close(&mut self) {
        (self.state, self.release) = (ReadState::Ended, Release::No);
        // An error or the timeout means that the client left. The shutdown of the guard waits as long again for the
        // acknowledgement of a response that assigns an instance.
        let _ = timeout(2 * LINGER_TIMEOUT, AsyncWriteExt::shutdown(self)).await;
    }

    /// Ends the connection so that a response that is already written can arrive: closes the write half and discards,
    /// for at most two seconds, what the client still sends. If a connection is closed with unread bytes, the kernel
    /// resets it, and the reset can overtake the response.
    pub async fn linger(&mut self) {
        let mut sink = [0; 4096];
        let discard = async {
            if self.inner.shutdown().await.is_ok() {
                while !matches!(self.inner.read(&mut sink).await, Ok(0) | Err(_)) {}
            }
        };
        // The timeout is the expected end for a client that never stops sending.
        let _ = timeout(LINGER_TIMEOUT, discard).await;
        self.state = ReadState::Ended;
    }
}
