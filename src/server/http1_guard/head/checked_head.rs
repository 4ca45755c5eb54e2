//! What the check finds out about a head.

use std::ops::Range;

/// The version of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Http1Version {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    Http11,
}

/// How the body after a head is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// No body.
    None,
    /// Exactly so many bytes.
    Length(u64),
    /// The chunked transfer coding.
    Chunked,
}

/// A head that passed the check. Positions count bytes from the start of the head, so they stay valid for any buffer
/// that holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Bytes of the head, the empty line at its end included.
    pub len: usize,
    /// HTTP/1.0 or HTTP/1.1.
    pub version: Http1Version,
    /// The framing of the body that follows the head.
    pub framing: Framing,
    /// The position of the host: of the authority in an absolute-form target, else of the value of `Host`. As received,
    /// with its port. Empty for a request of HTTP/1.0 that names no host.
    pub host: Range<usize>,
    /// Whether the target has an authority, so that [`to_origin_form`](super::to_origin_form) applies.
    pub is_absolute: bool,
    /// Whether the request asks for an upgrade to WebSocket. Such a request has no body.
    pub is_websocket_upgrade: bool,
    /// Whether the client waits for `100 Continue` before it sends the body.
    pub has_expect_continue: bool,
    /// Whether the client wants no further exchange on this connection.
    pub is_last_exchange: bool,
}

impl Head {
    /// Returns the host as received, out of the bytes that were checked. It is always ASCII.
    pub fn host<'a>(&self, head: &'a [u8]) -> &'a str {
        head.get(self.host.clone()).and_then(|host| std::str::from_utf8(host).ok()).unwrap_or_default()
    }
}
