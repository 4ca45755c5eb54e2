//! The strict check of one raw HTTP/1.x request head. Pure: bytes in, verdict out.
//!
//! Both engines are lenient where leniency lets two parties disagree about where a message ends or whom it is
//! for, and each in its own way; what passes here has one reading only.

mod authority;
mod fields;
mod refusal;
#[cfg(test)]
mod tests;

use std::ops::Range;

use memchr::memchr;

use fields::Fields;
pub use refusal::{Refusal, RefusalKind};

/// Most bytes of a head, from the method to the empty line that ends it, and of a body's trailers.
pub const MAX_HEAD: usize = 32 * 1024;

/// Most header fields of a head, and most trailers of a body.
pub const MAX_FIELDS: usize = 100;

/// The version of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
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

/// A head that passed the check. Positions are bytes from its start, so it stays valid beside a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Bytes of the head, the empty line at its end included.
    pub len: usize,
    /// HTTP/1.0 or HTTP/1.1.
    pub version: Version,
    /// What follows the head.
    pub framing: Framing,
    /// Where the host stands: the authority of an absolute-form target, else the value of `Host`; as received,
    /// with its port.
    pub host: Range<usize>,
    /// It asks to become a websocket, and has no body.
    pub upgrade: bool,
    /// The client waits for `100 Continue` before it sends the body.
    pub expect_continue: bool,
    /// The client wants no further exchange on this connection.
    pub close: bool,
}

impl Head {
    /// The host as received, out of the bytes that were checked. Always ASCII.
    pub fn host<'a>(&self, head: &'a [u8]) -> &'a str {
        head.get(self.host.clone()).and_then(|host| std::str::from_utf8(host).ok()).unwrap_or_default()
    }
}

/// The end of the head at the front of `buf` (one past its last byte), when it is there. The bytes before
/// `from` were searched by an earlier call. A line that can only be refused (LF without CR, an empty first line)
/// ends the head too, so that its sender gets the verdict at once.
pub fn find_end(buf: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    while let Some(i) = memchr(b'\n', buf.get(at..)?) {
        let lf = at + i;
        match &buf[..lf] {
            b"\r" | [.., b'\r', b'\n', b'\r'] => return Some(lf + 1),
            [.., b'\r'] => at = lf + 1,
            _ => return Some(lf + 1),
        }
    }
    None
}

/// Checks one complete raw head, which ends in an empty line.
///
/// # Errors
/// The first thing found wrong with it.
pub fn check(head: &[u8]) -> Result<Head, Refusal> {
    if head.len() > MAX_HEAD {
        return Err(Refusal::HeadTooLarge);
    }
    let (line, mut at) = next_line(head, 0)?;
    let request = request_line(line)?;
    let mut fields = Fields::default();
    loop {
        let (line, next) = next_line(head, at)?;
        if line.is_empty() {
            at = next;
            break;
        }
        fields.add(line, at)?;
        at = next;
    }
    if at != head.len() {
        return Err(Refusal::BytesAfterHead);
    }
    fields.judge(head, &request)
}

/// The line that starts at `at`, without its CRLF and free of controls except HTAB, and where the next begins.
fn next_line(head: &[u8], at: usize) -> Result<(&[u8], usize), Refusal> {
    let rest = &head[at..];
    let lf = memchr(b'\n', rest).ok_or(Refusal::Unfinished)?;
    let line = rest[..lf].strip_suffix(b"\r").ok_or(Refusal::BareLf)?;
    // No early exit, so that the compiler can look at many bytes at once.
    if line.iter().fold(false, |bad, b| bad | is_control(*b)) {
        return Err(if line.contains(&b'\r') { Refusal::BareCr } else { Refusal::Control });
    }
    Ok((line, at + lf + 1))
}

/// Whether a byte may not stand in a header value.
pub(crate) fn is_control(b: u8) -> bool {
    (b < 0x20 && b != b'\t') | (b == 0x7f)
}

/// Whether a byte may stand in a token (RFC 9110, 5.6.2).
pub(crate) fn is_tchar(b: u8) -> bool {
    const TCHAR: [bool; 256] = {
        let mut table = [false; 256];
        let mut b = 0;
        while b < 128u8 {
            table[b as usize] = b.is_ascii_alphanumeric();
            b += 1;
        }
        let others = b"!#$%&'*+-.^_`|~";
        let mut i = 0;
        while i < others.len() {
            table[others[i] as usize] = true;
            i += 1;
        }
        table
    };
    TCHAR[usize::from(b)]
}

fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|b| is_tchar(*b))
}

struct RequestLine {
    get: bool,
    version: Version,
    /// Of an absolute-form target: where its authority stands, and its scheme's default port.
    authority: Option<(Range<usize>, &'static [u8])>,
}

fn request_line(line: &[u8]) -> Result<RequestLine, Refusal> {
    let method_end = memchr(b' ', line).ok_or(Refusal::RequestLine)?;
    let start = method_end + 1;
    let target_len = memchr(b' ', &line[start..]).ok_or(Refusal::RequestLine)?;
    let (method, target) = (&line[..method_end], &line[start..start + target_len]);
    let version = match &line[start + target_len + 1..] {
        b"HTTP/1.1" => Version::Http11,
        b"HTTP/1.0" => Version::Http10,
        other if other.starts_with(b"HTTP/") && !other.contains(&b' ') => return Err(Refusal::Version),
        _ => return Err(Refusal::RequestLine),
    };
    if !is_token(method) {
        return Err(Refusal::Method);
    }
    if method.eq_ignore_ascii_case(b"CONNECT") {
        return Err(Refusal::Connect);
    }
    if target.is_empty() || !target.iter().all(u8::is_ascii_graphic) {
        return Err(Refusal::TargetCharacter);
    }
    if target.contains(&b'#') {
        return Err(Refusal::TargetFragment);
    }
    let authority = match target {
        [b'/', ..] => None,
        b"*" if method == b"OPTIONS" => None,
        _ => Some(target_authority(target, start)?),
    };
    Ok(RequestLine { get: method == b"GET", version, authority })
}

/// Where the authority of an absolute-form target stands in the head, with the scheme's default port.
fn target_authority(target: &[u8], start: usize) -> Result<(Range<usize>, &'static [u8]), Refusal> {
    let has = |scheme: &[u8]| target.get(..scheme.len()).is_some_and(|t| t.eq_ignore_ascii_case(scheme));
    let (skip, port): (usize, &[u8]) = if has(b"http://") {
        (7, b"80")
    } else if has(b"https://") {
        (8, b"443")
    } else {
        return Err(Refusal::TargetForm);
    };
    let rest = &target[skip..];
    let len = rest.iter().position(|b| matches!(b, b'/' | b'?')).unwrap_or(rest.len());
    if rest[..len].contains(&b'@') {
        return Err(Refusal::TargetUserinfo);
    }
    if !authority::is_valid(&rest[..len]) {
        return Err(Refusal::TargetAuthority);
    }
    Ok((start + skip..start + skip + len, port))
}
