//! The check of the head of an app's answer, as strict as that of a request. Pure: bytes in, verdict out.
//!
//! An app is code of other people, and its answer reaches a browser on a connection that carries answers of other
//! instances too. So an answer that two readers could read in two ways reaches no client.

use super::fields::field_lines;
use crate::server::http1_guard::head::{self, Field, Framing, FramingFields, next_line, parse_length};
use crate::server::http1_guard::{MAX_HEAD_BYTES, Refusal};

/// Most header fields of an answer.
const MAX_ANSWER_FIELDS: usize = 256;

/// How the body after the head of an answer is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AnswerFraming {
    /// No body, whatever the head declares.
    None,
    /// Exactly so many bytes.
    Length(u64),
    /// The chunked transfer coding.
    Chunked,
    /// The end of the connection is the end of the body.
    UntilClosed,
}

/// A head that passed the check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AnswerHead {
    pub(super) status: u16,
    /// What follows the version in the status line: a blank, the status, and the reason if there is one.
    pub(super) status_len: usize,
    pub(super) framing: AnswerFraming,
    /// Whether the app lets a further request follow on its connection, as far as the head says.
    pub(super) keeps_connection: bool,
}

/// The length of `HTTP/1.1`.
pub(super) const VERSION_LEN: usize = 8;

impl AnswerHead {
    /// Returns whether another head follows for the same request.
    pub(super) fn is_interim(&self) -> bool {
        (100..200).contains(&self.status)
    }
}

/// Returns the end of the answer's head at the front of `buf`, if it has arrived. An earlier call searched the bytes before
/// `from`.
///
/// # Errors
/// The head is too long.
pub(super) fn find_end(buf: &[u8], from: usize) -> Result<Option<usize>, Refusal> {
    match head::find_end(buf, from) {
        Some(end) if end > MAX_HEAD_BYTES => Err(Refusal::HeadTooLarge),
        None if buf.len() >= MAX_HEAD_BYTES => Err(Refusal::HeadTooLarge),
        end => Ok(end),
    }
}

/// Checks one complete raw head, which ends in an empty line. `is_head` says whether it answers a HEAD request.
///
/// # Errors
/// The first fault that the check finds.
pub(super) fn check(head: &[u8], is_head: bool) -> Result<AnswerHead, Refusal> {
    let (line, mut at) = next_line(head, 0)?;
    let (is_http11, status) = status_line(line)?;
    let (mut fields, mut count) = (FramingFields::default(), 0);
    loop {
        let (line, next) = next_line(head, at)?;
        at = next;
        if line.is_empty() {
            break;
        }
        count += 1;
        if count > MAX_ANSWER_FIELDS {
            return Err(Refusal::TooManyFields);
        }
        fields.add(&Field::parse(line)?)?;
    }
    if at != head.len() {
        return Err(Refusal::BytesAfterHead);
    }
    let framing = match fields.framing(is_http11)? {
        Some(Framing::Chunked) => AnswerFraming::Chunked,
        Some(Framing::Length(length)) => AnswerFraming::Length(length),
        Some(Framing::None) | None => AnswerFraming::UntilClosed,
    };
    // RFC 9110, section 6.4.1. An app that declares a body may send it, so its connection serves no other request.
    let has_no_body = is_head || status == 204 || status == 304 || status < 200;
    let is_bodiless = is_head || status == 304;
    let declares_nothing = matches!(framing, AnswerFraming::Length(0) | AnswerFraming::UntilClosed);
    let (framing, is_in_order) = match framing {
        _ if has_no_body => (AnswerFraming::None, is_bodiless || declares_nothing),
        AnswerFraming::UntilClosed => (framing, false),
        framing => (framing, true),
    };
    Ok(AnswerHead {
        status,
        status_len: line.len() - VERSION_LEN,
        framing,
        keeps_connection: is_in_order && !fields.is_last_exchange(is_http11),
    })
}

/// Checks the status line. Returns whether its version is HTTP/1.1, and the status. The reason may be absent.
fn status_line(line: &[u8]) -> Result<(bool, u16), Refusal> {
    let is_http11 = match line.get(..VERSION_LEN) {
        Some(b"HTTP/1.1") => true,
        Some(b"HTTP/1.0") => false,
        _ => return Err(Refusal::StatusLine),
    };
    let [b' ', digits @ ..] = &line[VERSION_LEN..] else { return Err(Refusal::StatusLine) };
    let (digits, rest) = digits.split_at_checked(3).ok_or(Refusal::StatusLine)?;
    if !matches!(rest, [] | [b' ', ..]) {
        return Err(Refusal::StatusLine);
    }
    match parse_length(digits) {
        Some(status @ 100..=999) => Ok((is_http11, status as u16)), // At most 999.
        _ => Err(Refusal::StatusLine),
    }
}

/// Returns the headers of an answer whose values rules read.
pub(super) fn read_headers(head: &[u8]) -> http::HeaderMap {
    let mut headers = http::HeaderMap::new();
    for line in field_lines(head) {
        super::fields::collect(&mut headers, &line, false);
    }
    headers
}
