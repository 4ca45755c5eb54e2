//! The header fields that decide where a message ends and which host it is for.

use std::ops::Range;

use memchr::memchr;

use super::authority;
use super::characters::is_token;
use super::checked_head::{Framing, Head, Http1Version};
use super::request_line::RequestLine;
use crate::server::http1_guard::limits::MAX_FIELDS;
use crate::server::http1_guard::refusal::Refusal;

/// One field line.
pub(in crate::server) struct Field<'a> {
    pub(in crate::server) name: &'a [u8],
    /// The value without the blanks around it.
    pub(in crate::server) value: &'a [u8],
    /// Where the value begins in the line.
    value_start: usize,
}

impl<'a> Field<'a> {
    /// Reads a field line that is not empty and has no control character except HTAB.
    ///
    /// # Errors
    /// The line is folded, has no colon, or its name is no token.
    pub(in crate::server) fn parse(line: &'a [u8]) -> Result<Self, Refusal> {
        if matches!(line.first(), Some(b' ' | b'\t')) {
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
        let blanks = padded.iter().position(|b| !matches!(b, b' ' | b'\t')).unwrap_or(padded.len());
        // Only blanks can stand at the end: every other white space is a control and was refused.
        Ok(Field { name, value: padded[blanks..].trim_ascii_end(), value_start: colon + 1 + blanks })
    }
}

/// What the header fields of a request or an answer say about the end of the message, and about its connection.
#[derive(Default)]
pub(in crate::server) struct FramingFields {
    length: Option<u64>,
    is_chunked: bool,
    has_upgrade: bool,
    has_close: bool,
    has_keep_alive: bool,
}

impl FramingFields {
    /// Reads one field.
    ///
    /// # Errors
    /// The field frames the message in a way that two readers could read differently.
    pub(in crate::server) fn add(&mut self, field: &Field<'_>) -> Result<(), Refusal> {
        let (name, value) = (field.name, field.value);
        // By length first: for most of the usual fields this needs no comparison of names.
        match name.len() {
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
                    self.has_upgrade |= option.eq_ignore_ascii_case(b"upgrade");
                    self.has_close |= option.eq_ignore_ascii_case(b"close");
                    self.has_keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Returns the framing that all fields together declare; `None` if they declare none.
    ///
    /// # Errors
    /// They declare two, or one that HTTP/1.0 does not have.
    pub(in crate::server) fn framing(&self, is_http11: bool) -> Result<Option<Framing>, Refusal> {
        match (self.length, self.is_chunked) {
            (Some(_), true) => Err(Refusal::LengthAndEncoding),
            (None, true) if !is_http11 => Err(Refusal::EncodingOnHttp10),
            (None, true) => Ok(Some(Framing::Chunked)),
            (Some(length), false) => Ok(Some(Framing::Length(length))),
            (None, false) => Ok(None),
        }
    }

    /// Returns whether the sender ends the connection after this exchange.
    pub(in crate::server) fn is_last_exchange(&self, is_http11: bool) -> bool {
        self.has_close || !(is_http11 || self.has_keep_alive)
    }
}

/// What the header fields of a request say about framing and routing.
#[derive(Default)]
pub(super) struct RequestFields {
    count: usize,
    framing: FramingFields,
    host: Option<Range<usize>>,
    upgrades: usize,
    is_websocket: bool,
    has_expect_continue: bool,
}

impl RequestFields {
    /// Reads one field line, which starts at byte `at` of the head.
    pub(super) fn add(&mut self, line: &[u8], at: usize) -> Result<(), Refusal> {
        self.count += 1;
        if self.count > MAX_FIELDS {
            return Err(Refusal::TooManyFields);
        }
        let field = Field::parse(line)?;
        let (name, value) = (field.name, field.value);
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => {
                let start = at + field.value_start;
                fill_once(&mut self.host, start..start + value.len(), Refusal::SeveralHosts)?;
                if !authority::is_valid(value) {
                    return Err(Refusal::Host);
                }
            }
            7 if name.eq_ignore_ascii_case(b"upgrade") => {
                self.upgrades += 1;
                self.is_websocket = value.eq_ignore_ascii_case(b"websocket");
            }
            6 if name.eq_ignore_ascii_case(b"expect") => {
                self.has_expect_continue |= value.eq_ignore_ascii_case(b"100-continue");
            }
            _ => self.framing.add(&field)?,
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
        // HTTP/1.0 has no Host.
        let host = request.authority.as_ref().map(|(at, _)| at.clone()).or(self.host).unwrap_or_default();
        let framing = self.framing.framing(is_http11)?.unwrap_or(Framing::None);
        // A list of protocols, or several fields, leaves the choice to the other end: that is no plain WebSocket.
        let is_websocket_upgrade = request.is_get
            && is_http11
            && self.framing.has_upgrade
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
            is_absolute: request.authority.is_some(),
            is_websocket_upgrade,
            has_expect_continue: is_http11 && self.has_expect_continue,
            is_last_exchange: self.framing.is_last_exchange(is_http11),
        })
    }
}

/// Fills a slot, or returns the refusal `several` if the slot is filled already.
fn fill_once<T>(slot: &mut Option<T>, value: T, several: Refusal) -> Result<(), Refusal> {
    if slot.replace(value).is_some() { Err(several) } else { Ok(()) }
}

/// Parses one or more decimal digits, and nothing else, that fit 64 bits.
pub(in crate::server) fn parse_length(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |n, d| {
        let digit = d.is_ascii_digit().then(|| u64::from(d - b'0'))?;
        n.checked_mul(10)?.checked_add(digit)
    })
}
