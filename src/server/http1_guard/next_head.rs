//! The wait for a head that no engine reads yet, so that the caller can choose the engine.

use std::future::poll_fn;

use bytes::Buf;

use super::connection::GuardedConnection;
use super::head::Head;
use super::read_state::{HeadWait, HeadWaitEnd, ReadState, Release, after_head};
use super::refusal::Refusal;

/// What [`GuardedConnection::next_head`] found.
#[derive(Debug)]
pub enum NextHead {
    /// The connection begins with the preface of HTTP/2, which stays buffered.
    /// [`begin_http2`](GuardedConnection::begin_http2) lets an engine read it.
    Http2,
    /// A checked head is buffered. The next read delivers it.
    Head(HeadInfo),
    /// No further message comes: the client left or was idle for too long, or the engine left the previous message
    /// unread.
    Closed,
    /// The head was refused. The caller answers with the refusal's status and closes. Nothing more is read.
    Refused(Refusal),
}

/// A checked head that is buffered and not yet delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeadInfo {
    /// The host as received, with its port. Empty for a request of HTTP/1.0 that names no host.
    pub host: String,
    /// What the check found.
    pub head: Head,
}

impl GuardedConnection {
    /// Waits until a whole checked head is buffered, and does not deliver it. The call also reports that the previous
    /// exchange is over.
    ///
    /// Cancel-safe: the bytes that arrived stay in the buffer, and the deadlines keep their start.
    pub async fn next_head(&mut self) -> NextHead {
        (self.head_filter, self.release) = (None, Release::No);
        if let ReadState::Done { .. } = self.state {
            self.state = ReadState::Between(HeadWait::default());
        }
        if let ReadState::Between(_) = self.state {
            let ended = poll_fn(|cx| self.poll_head(cx, true)).await;
            match ended {
                Ok(HeadWaitEnd::Head) => {}
                Ok(HeadWaitEnd::Http2) => return NextHead::Http2,
                Ok(HeadWaitEnd::Refused(refusal)) => {
                    self.state = ReadState::Ended;
                    return NextHead::Refused(refusal);
                }
                Ok(HeadWaitEnd::Eof) | Err(_) => {
                    self.state = ReadState::Ended;
                    return NextHead::Closed;
                }
            }
        }
        match &self.state {
            ReadState::Head { head, left } if *left == head.len => {
                NextHead::Head(HeadInfo { host: head.host(&self.reader.buf).to_owned(), head: head.clone() })
            }
            _ => NextHead::Closed,
        }
    }

    /// Lets reads pass all bytes on, the preface of HTTP/2 first.
    pub fn begin_http2(&mut self) {
        self.state = ReadState::Tunnel;
    }

    /// Returns the buffered head, which stays buffered. Returns no bytes if no whole head is buffered.
    pub(in crate::server) fn peek_head(&self) -> &[u8] {
        match &self.state {
            ReadState::Head { head, left } if *left == head.len => &self.reader.buf[..head.len],
            _ => &[],
        }
    }

    /// Removes the buffered head, which the caller has read. The next read returns bytes of its body.
    pub(in crate::server) fn discard_head(&mut self) {
        if let ReadState::Head { head, left } = &self.state {
            let (left, next) = (*left, after_head(head));
            self.reader.buf.advance(left);
            self.state = next;
        }
    }
}
