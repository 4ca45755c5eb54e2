//! The first line of a request.

use std::ops::Range;

use http::Uri;
use memchr::memchr;

use super::authority;
use super::characters::is_token;
use super::checked_head::Http1Version;
use crate::server::http1_guard::refusal::Refusal;

/// A request line that passed the check.
pub(super) struct RequestLine {
    pub(super) is_get: bool,
    pub(super) version: Http1Version,
    /// For an absolute-form target: the position of its authority, and the default port of its scheme.
    pub(super) authority: Option<(Range<usize>, &'static [u8])>,
}

impl RequestLine {
    /// Checks a request line, which stands at the start of the head and comes without its CRLF.
    pub(super) fn parse(line: &[u8]) -> Result<Self, Refusal> {
        let method_end = memchr(b' ', line).ok_or(Refusal::RequestLine)?;
        let start = method_end + 1;
        let target_len = memchr(b' ', &line[start..]).ok_or(Refusal::RequestLine)?;
        let (method, target) = (&line[..method_end], &line[start..start + target_len]);
        let version = match &line[start + target_len + 1..] {
            b"HTTP/1.1" => Http1Version::Http11,
            b"HTTP/1.0" => Http1Version::Http10,
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
        // An engine would answer such a target by itself.
        if Uri::try_from(target).is_err() {
            return Err(Refusal::TargetSyntax);
        }
        Ok(Self { is_get: method == b"GET", version, authority })
    }
}

/// Returns the position of the authority of an absolute-form target in the head, and the default port of its scheme.
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
