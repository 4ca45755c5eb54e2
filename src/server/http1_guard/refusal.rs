//! The reasons for which the guard refuses a message.

use thiserror::Error;

use super::limits::{MAX_CHUNK_LINE_BYTES, MAX_EXTENSION_BYTES, MAX_FIELDS, MAX_HEAD_BYTES};

/// The group of refusals that are answered with the same status. Few values, so that it can be a metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RefusalKind {
    /// The message is malformed or ambiguous: 400.
    BadRequest,
    /// The head or the trailers exceed a limit: 431.
    HeadersTooLarge,
    /// The head did not arrive in time: 408.
    Timeout,
}

impl RefusalKind {
    /// Returns the HTTP status of the response.
    pub fn status(self) -> u16 {
        match self {
            RefusalKind::BadRequest => 400,
            RefusalKind::Timeout => 408,
            RefusalKind::HeadersTooLarge => 431,
        }
    }
}

/// The fault in a message. The texts hold no bytes of the client, so they can be logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Error)]
#[expect(missing_docs, reason = "the message of each variant is its documentation")]
pub enum Refusal {
    #[error("the head is larger than {} bytes", MAX_HEAD_BYTES)]
    HeadTooLarge,
    #[error("the message has more than {} header fields", MAX_FIELDS)]
    TooManyFields,
    #[error("the head did not arrive in time")]
    HeadTimeout,

    #[error("a line ends in LF without CR")]
    BareLf,
    #[error("a CR stands without LF")]
    BareCr,
    #[error("a control character stands in a line")]
    Control,
    #[error("the head does not end in an empty line")]
    Unfinished,
    #[error("bytes follow the end of the head")]
    BytesAfterHead,

    #[error("the status line is not: HTTP/1.1 or HTTP/1.0, space, three digits")]
    StatusLine,
    #[error("the request line is not: method, space, target, space, version")]
    RequestLine,
    #[error("the method is not a token")]
    Method,
    #[error("CONNECT is not served")]
    Connect,
    #[error("the version is neither HTTP/1.1 nor HTTP/1.0")]
    Version,
    #[error("the target is empty or has a character outside visible ASCII")]
    TargetCharacter,
    #[error("the target has a fragment")]
    TargetFragment,
    #[error("the target is no URI")]
    TargetSyntax,
    #[error("the target is neither a path, nor an http or https URI, nor the * of OPTIONS")]
    TargetForm,
    #[error("the authority of the target has user information")]
    TargetUserinfo,
    #[error("the authority of the target is empty or malformed")]
    TargetAuthority,
    #[error("the authority of the target differs from Host")]
    AuthorityDiffers,

    #[error("a header line is folded")]
    Fold,
    #[error("a header line has no colon")]
    NoColon,
    #[error("whitespace stands before the colon of a header")]
    SpaceBeforeColon,
    #[error("a header name is empty or not a token")]
    FieldName,

    #[error("Host is missing")]
    NoHost,
    #[error("there are several Host headers")]
    SeveralHosts,
    #[error("Host is empty or malformed")]
    Host,

    #[error("there are several Content-Length headers")]
    SeveralLengths,
    #[error("Content-Length is not a plain number that fits 64 bits")]
    Length,
    #[error("Content-Length stands beside Transfer-Encoding")]
    LengthAndEncoding,
    #[error("there are several Transfer-Encoding headers")]
    SeveralEncodings,
    #[error("Transfer-Encoding is not exactly: chunked")]
    Encoding,
    #[error("Transfer-Encoding on HTTP/1.0")]
    EncodingOnHttp10,
    #[error("a WebSocket upgrade has a body")]
    UpgradeWithBody,

    #[error("a chunk size is not 1 to 16 hexadecimal digits")]
    ChunkSize,
    #[error("a chunk extension is malformed")]
    ChunkExtension,
    #[error("a chunk line is longer than {} bytes", MAX_CHUNK_LINE_BYTES)]
    ChunkLineTooLong,
    #[error("the chunk extensions of the body are larger than {} bytes", MAX_EXTENSION_BYTES)]
    ExtensionsTooLarge,
    #[error("a chunk's data does not end in CRLF")]
    ChunkEnd,
    #[error("a trailer is a framing or routing header")]
    ForbiddenTrailer,
}

impl Refusal {
    /// Returns the kind of the refusal, which decides the status of the response.
    pub fn kind(self) -> RefusalKind {
        match self {
            Refusal::HeadTooLarge | Refusal::TooManyFields => RefusalKind::HeadersTooLarge,
            Refusal::HeadTimeout => RefusalKind::Timeout,
            _ => RefusalKind::BadRequest,
        }
    }

    /// Returns the HTTP status of the response: 400, 408 or 431.
    pub fn status(self) -> u16 {
        self.kind().status()
    }
}
