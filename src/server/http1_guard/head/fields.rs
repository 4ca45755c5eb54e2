//! The header fields that decide where a message ends and which host it is for.

use std::ops::Range;

use memchr::memchr;

use super::authority;
use super::characters::is_token;
use super::checked_head::{Framing, Head, Http1Version};
use super::request_line::RequestLine;
use crate::server::http1_guard::limits::MAX_FIELDS;
use crate::server::http1_guard::refusal::Refusal;

/// What the header fields say about framing and routing.
#[derive(Default)]
pub(super) struct FramingFields {
    count: usize,
    host: Option<Range<usize>>,
    length: Option<u64>,
    is_chunked: bool,
    has_connection_upgrade: bool,
    has_connection_close: bool,
    has_keep_alive: bool,
    upgrades: usize,
    is_websocket: bool,
    has_expect_continue: bool,
}

impl FramingFields {
    /// Reads one field line, which starts at byte `at` of the head.
    pub(super) fn add(&mut self, line: &[u8], at: usize) -> Result<(), Refusal> {
        self.count += 1;
        if self.count > MAX_FIELDS {
            return Err(Refusal::TooManyFields);
        }
        if matches!(line[0], b' ' | b'\t') {
            return Err(Refusal::Fold);
        }
        let colon = memchr(b':', line).ok_or(Refusal::NoColon)?;
        let name = &line[..colon];
        if matches!(name.last(), Some(b' ' | b'\t')) {
            return Err(Refusal::SpaceBeforeColon);
        }
        if !is_token(name) {
            return Err(Refusal::FieldName);
        }
        let padded = &line[colon + 1..];
        let value_start = padded.iter().position(|b| !matches!(b, b' ' | b'\t')).unwrap_or(padded.len());
        // Only blanks can stand at the end: every other white space is a control and was refused.
        let value = padded[value_start..].trim_ascii_end();
        // By length first: for most of the usual fields this needs no comparison of names.
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => {
                let start = at + colon + 1 + value_start;
                fill_once(&mut self.host, start..start + value.len(), Refusal::SeveralHosts)?;
                if !authority::is_valid(value) {
                    return Err(Refusal::Host);
                }
            }
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                let length = parse_length(value).ok_or(Refusal::Length)?;
                fill_once(&mut self.length, length, Refusal::SeveralLengths)?;
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                if !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Refusal::Encoding);
                }
                if std::mem::replace(&mut self.is_chunked, true) {
                    return Err(Refusal::SeveralEncodings);
                }
            }
            10 if name.eq_ignore_ascii_case(b"connection") => {
                for option in value.split(|b| *b == b',').map(<[u8]>::trim_ascii) {
                    self.has_connection_upgrade |= option.eq_ignore_ascii_case(b"upgrade");
                    self.has_connection_close |= option.eq_ignore_ascii_case(b"close");
                    self.has_keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
                }
            }
            7 if name.eq_ignore_ascii_case(b"upgrade") => {
                self.upgrades += 1;
                self.is_websocket = value.eq_ignore_ascii_case(b"websocket");
            }
            6 if name.eq_ignore_ascii_case(b"expect") => {
                self.has_expect_continue |= value.eq_ignore_ascii_case(b"100-continue");
            }
            _ => {}
        }
        Ok(())
    }

    /// Decides about all fields together with the request line.
    pub(super) fn into_head(self, head: &[u8], request: &RequestLine) -> Result<Head, Refusal> {
        let is_http11 = request.version == Http1Version::Http11;
        if is_http11 && self.host.is_none() {
            return Err(Refusal::NoHost);
        }
        if let (Some((authority, default_port)), Some(host)) = (&request.authority, &self.host)
            && !authority::is_same(&head[authority.clone()], &head[host.clone()], default_port)
        {
            return Err(Refusal::AuthorityDiffers);
        }
        let needs_host_of_target = request.authority.as_ref().is_some_and(|(authority, _)| {
            self.host.as_ref().is_none_or(|host| head[authority.clone()] != head[host.clone()])
        });
        // HTTP/1.0 has no Host.
        let host = request.authority.as_ref().map(|(at, _)| at.clone()).or(self.host).unwrap_or_default();
        let framing = match (self.length, self.is_chunked) {
            (Some(_), true) => return Err(Refusal::LengthAndEncoding),
            (None, true) if !is_http11 => return Err(Refusal::EncodingOnHttp10),
            (None, true) => Framing::Chunked,
            (Some(length), false) => Framing::Length(length),
            (None, false) => Framing::None,
        };
        // A list of protocols, or several fields, leaves the choice to the other end: that is no plain WebSocket.
        let is_websocket_upgrade = request.is_get
            && is_http11
            && self.has_connection_upgrade
            && self.upgrades == 1
            && self.is_websocket;
        if is_websocket_upgrade && !matches!(framing, Framing::None | Framing::Length(0)) {
            return Err(Refusal::UpgradeWithBody);
        }
        Ok(Head {
            len: head.len(),
            version: request.version,
            framing,
            host,
            needs_host_of_target,
            is_websocket_upgrade,
            has_expect_continue: is_http11 && self.has_expect_continue,
            is_last_exchange: self.has_connection_close || !(is_http11 || self.has_keep_alive),
        })
    }
}

/// Fills a slot, or returns the refusal `several` if the slot is filled already.
fn fill_once<T>(slot: &mut Option<T>, value: T, several: Refusal) -> Result<(), Refusal> {
    if slot.replace(value).is_some() { Err(several) } else { Ok(()) }
}

/// Parses one or more decimal digits, and nothing else, that fit 64 bits.
fn parse_length(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |n, d| {
        let digit = d.is_ascii_digit().then(|| u64::from(d - b'0'))?;
        n.checked_mul(10)?.checked_add(digit)
    })
}
