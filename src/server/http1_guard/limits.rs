//! The largest sizes that a client's message may have, and how long the client may take.

use std::time::Duration;

/// Most bytes of a head, from the method to the empty line that ends it. Also most bytes of a body's trailers.
pub const MAX_HEAD_BYTES: usize = 32 * 1024;

/// Most header fields of a head. Also most trailers of a body.
///
/// **Trap: a node that forwards a request to a peer adds up to six fields.** So if a request for a peer's instance has
/// as many fields as are allowed, or almost as many, the peer refuses it (431).
pub(super) const MAX_FIELDS: usize = 100;

/// Most bytes of a chunk's first line, its CRLF included.
pub(super) const MAX_CHUNK_LINE_BYTES: usize = 256;

/// Most bytes that the chunk extensions of one body may have together.
pub(super) const MAX_EXTENSION_BYTES: usize = 16 * 1024;

/// How long the guard lets a client go on sending after the last response, before it closes the connection.
pub(super) const LINGER_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a client may take.
#[derive(Debug, Clone, Copy)]
pub struct ClientTimeouts {
    /// Until the first byte of a message. Then the connection ends. Also how long an engine may take to close the
    /// connection after a refusal.
    pub idle: Duration,
    /// From the first byte of a head to its last. Then the head is refused.
    pub head: Duration,
    /// Between two pieces of a response that the client takes. Then the connection is cut.
    pub write: Duration,
}

impl Default for ClientTimeouts {
    fn default() -> Self {
        ClientTimeouts {
            idle: Duration::from_secs(75),
            head: Duration::from_secs(10),
            write: Duration::from_secs(30),
        }
    }
}
