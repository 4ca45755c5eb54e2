//! The field lines of a head that was checked. Pure.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::proxy::is_read;
use crate::server::http1_guard::head::{Field, next_line};

/// Bytes of a name that are compared. No rule knows a longer name, and the only prefix that a rule knows is shorter.
const MAX_NAME_BYTES: usize = 64;

/// The first bytes of a field's name in lower case.
pub(super) struct LowerName {
    bytes: [u8; MAX_NAME_BYTES],
    len: usize,
}

impl LowerName {
    fn of(name: &[u8]) -> Self {
        let len = name.len().min(MAX_NAME_BYTES);
        let mut bytes = [0; MAX_NAME_BYTES];
        bytes[..len].copy_from_slice(&name[..len]);
        bytes[..len].make_ascii_lowercase();
        Self { bytes, len }
    }

    pub(super) fn as_str(&self) -> &str {
        // The name is a token, which is ASCII.
        std::str::from_utf8(&self.bytes[..self.len]).unwrap_or_default()
    }
}

/// One field line of a checked head.
pub(super) struct FieldLine<'a> {
    pub(super) name: LowerName,
    pub(super) field: Field<'a>,
    /// The whole line without its CRLF.
    pub(super) line: &'a [u8],
}

/// Returns the first line of a checked head, without its CRLF.
pub(super) fn first_line(head: &[u8]) -> &[u8] {
    next_line(head, 0).map_or(&[], |(line, _)| line)
}

/// Returns the field lines of a checked head in order.
pub(super) fn field_lines(head: &[u8]) -> impl Iterator<Item = FieldLine<'_>> {
    let mut at = next_line(head, 0).map_or(head.len(), |(_, next)| next);
    std::iter::from_fn(move || {
        let (line, next) = next_line(head, at).ok()?;
        let field = Field::parse(line).ok()?;
        at = next;
        Some(FieldLine { name: LowerName::of(field.name), field, line })
    })
}

/// Adds a field to those that rules read, if one does. `Connection` is left out where it names no other field.
pub(super) fn collect(headers: &mut HeaderMap, line: &FieldLine<'_>, is_request: bool) {
    let name = line.name.as_str();
    if !is_read(name, is_request) {
        return;
    }
    let value = line.field.value;
    let says_nothing = value.eq_ignore_ascii_case(b"keep-alive") || value.eq_ignore_ascii_case(b"close");
    if name == "connection" && says_nothing {
        return;
    }
    if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(value)) {
        headers.append(name, value);
    }
}

/// Writes one field line.
pub(super) fn write_field(out: &mut Vec<u8>, name: impl AsRef<[u8]>, value: &[u8]) {
    out.extend_from_slice(name.as_ref());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Copies one field line.
pub(super) fn copy_line(out: &mut Vec<u8>, line: &[u8]) {
    out.extend_from_slice(line);
    out.extend_from_slice(b"\r\n");
}
