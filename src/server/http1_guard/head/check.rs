//! The check of a whole head, line by line.

use memchr::memchr;

use super::characters::is_control;
use super::checked_head::Head;
use super::fields::RequestFields;
use super::request_line::RequestLine;
use crate::server::http1_guard::limits::MAX_HEAD_BYTES;
use crate::server::http1_guard::refusal::Refusal;

/// Returns the end of the head at the front of `buf` (one past its last byte), or `None` if the end has not arrived. An
/// earlier call searched the bytes before `from`. A line that can only be refused (LF without CR, an empty first line)
/// ends the head too, so that its sender gets the refusal at once.
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
/// The first fault that the check finds.
pub fn check(head: &[u8]) -> Result<Head, Refusal> {
    if head.len() > MAX_HEAD_BYTES {
        return Err(Refusal::HeadTooLarge);
    }
    let (line, mut at) = next_line(head, 0)?;
    let request = RequestLine::parse(line)?;
    let mut fields = RequestFields::default();
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
    fields.into_head(head, &request)
}

/// Returns the line that starts at `at`, without its CRLF and free of controls except HTAB, and the start of the next.
///
/// # Errors
/// The line does not end in CRLF, or has a control character.
pub(in crate::server) fn next_line(head: &[u8], at: usize) -> Result<(&[u8], usize), Refusal> {
    let rest = &head[at..];
    let lf = memchr(b'\n', rest).ok_or(Refusal::Unfinished)?;
    let line = rest[..lf].strip_suffix(b"\r").ok_or(Refusal::BareLf)?;
    // No early exit, so that the compiler can check many bytes at once.
    if line.iter().fold(false, |bad, b| bad | is_control(*b)) {
        return Err(if line.contains(&b'\r') { Refusal::BareCr } else { Refusal::Control });
    }
    Ok((line, at + lf + 1))
}
