//! The header fields that decide where a message ends and whom it is for.

use std::ops::Range;

use memchr::memchr;

use super::{Framing, Head, MAX_FIELDS, Refusal, RequestLine, Version, authority, is_token};

/// What the header fields say, as far as it decides framing and routing.
#[derive(Default)]
pub(super) struct Fields {
    count: usize,
    host: Option<Range<usize>>,
    length: Option<u64>,
    chunked: bool,
    connection_upgrade: bool,
    connection_close: bool,
    connection_keep_alive: bool,
    upgrades: usize,
    websocket: bool,
    expect_continue: bool,
}

impl Fields {
    /// Takes in one field line, which starts at byte `at` of the head.
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
        // Only blanks are left at the end: every other white space is a control and was refused.
        let value = padded[value_start..].trim_ascii_end();
        // By length first: of the usual fields most are told apart without a comparison.
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => {
                let start = at + colon + 1 + value_start;
                once(&mut self.host, start..start + value.len(), Refusal::SeveralHosts)?;
                if !authority::is_valid(value) {
                    return Err(Refusal::Host);
                }
            }
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                let length = number(value).ok_or(Refusal::Length)?;
                once(&mut self.length, length, Refusal::SeveralLengths)?;
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                if !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Refusal::Encoding);
                }
                if std::mem::replace(&mut self.chunked, true) {
                    return Err(Refusal::SeveralEncodings);
                }
            }
            10 if name.eq_ignore_ascii_case(b"connection") => {
                for option in value.split(|b| *b == b',').map(<[u8]>::trim_ascii) {
                    self.connection_upgrade |= option.eq_ignore_ascii_case(b"upgrade");
                    self.connection_close |= option.eq_ignore_ascii_case(b"close");
                    self.connection_keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
                }
            }
            7 if name.eq_ignore_ascii_case(b"upgrade") => {
                self.upgrades += 1;
                self.websocket = value.eq_ignore_ascii_case(b"websocket");
            }
            6 if name.eq_ignore_ascii_case(b"expect") => {
                self.expect_continue |= value.eq_ignore_ascii_case(b"100-continue");
            }
            _ => {}
        }
        Ok(())
    }

    /// The verdict over all fields together with the request line.
    pub(super) fn judge(self, head: &[u8], request: &RequestLine) -> Result<Head, Refusal> {
        let http11 = request.version == Version::Http11;
        let mut host = self.host.ok_or(Refusal::NoHost)?;
        if let Some((authority, default_port)) = &request.authority {
            if !authority::same(&head[authority.clone()], &head[host], default_port) {
                return Err(Refusal::AuthorityDiffers);
            }
            host = authority.clone();
        }
        let framing = match (self.length, self.chunked) {
            (Some(_), true) => return Err(Refusal::LengthAndEncoding),
            (None, true) if !http11 => return Err(Refusal::EncodingOnHttp10),
            (None, true) => Framing::Chunked,
            (Some(length), false) => Framing::Length(length),
            (None, false) => Framing::None,
        };
        // A list of protocols, or several fields, leaves the choice to the other end: that is no plain websocket.
        let upgrade =
            request.get && http11 && self.connection_upgrade && self.upgrades == 1 && self.websocket;
        if upgrade && !matches!(framing, Framing::None | Framing::Length(0)) {
            return Err(Refusal::UpgradeWithBody);
        }
        Ok(Head {
            len: head.len(),
            version: request.version,
            framing,
            host,
            upgrade,
            expect_continue: http11 && self.expect_continue,
            close: self.connection_close || !(http11 || self.connection_keep_alive),
        })
    }
}

/// Fills a slot that may be filled once only.
fn once<T>(slot: &mut Option<T>, value: T, several: Refusal) -> Result<(), Refusal> {
    if slot.replace(value).is_some() { Err(several) } else { Ok(()) }
}

/// One or more decimal digits, and nothing else, that fit 64 bits.
fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |n, d| {
        let digit = d.is_ascii_digit().then(|| u64::from(d - b'0'))?;
        n.checked_mul(10)?.checked_add(digit)
    })
}
