//! The heads that are sent: that of a client's request to the app, and that of the app's answer to the client. Each is
//! the checked head, line by line, without some lines and with others at its end. Pure.

use http::request::Parts;
use http::{HeaderValue, Method, Request, Version, header};

use super::answer_head::{AnswerFraming, AnswerHead, VERSION_LEN};
use super::fields::{collect, copy_line, field_lines, first_line, write_field};
use crate::cluster::HOP_HEADER;
use crate::proxy::{AnswerRules, LocalExchange};
use crate::request::RequestId;
use crate::server::http1_guard::head::{Head, Http1Version};

/// Reads the method of a request, its host, and the headers whose values rules read. Returns `None` for a request with a
/// hop header, which another node may have sent.
pub(super) fn read_request(head: &[u8], info: &Head) -> Option<Parts> {
    let mut request = Request::new(()).into_parts().0;
    let method = first_line(head).split(|b| *b == b' ').next()?;
    request.method = Method::from_bytes(method).ok()?;
    if info.version == Http1Version::Http10 {
        request.version = Version::HTTP_10;
    }
    for line in field_lines(head) {
        if HOP_HEADER == line.name.as_str() {
            return None;
        }
        collect(&mut request.headers, &line, true);
    }
    let host = HeaderValue::from_str(info.host(head)).ok()?;
    request.headers.insert(header::HOST, host);
    Some(request)
}

/// Writes the head of a request that the app gets.
pub(super) fn write_request(out: &mut Vec<u8>, head: &[u8], info: &Head, exchange: &LocalExchange) {
    write_request_line(out, first_line(head));
    let cookies = exchange.joined_cookies();
    let named = exchange.named_by_connection();
    for line in field_lines(head) {
        let name = line.name.as_str();
        let is_removed = match name {
            "connection" | "upgrade" => true,
            "host" | "content-length" | "transfer-encoding" => false,
            "cookie" if cookies.is_some() => true,
            // The `Expect` of such a client is ignored (RFC 9110, section 10.1.1).
            "expect" if info.version == Http1Version::Http10 => true,
            _ => {
                exchange.removes_from_request(name)
                    || named
                        .iter()
                        .any(|named| line.field.name.eq_ignore_ascii_case(named.as_str().as_bytes()))
            }
        };
        if !is_removed {
            copy_line(out, line.line);
        }
    }
    if let Some(cookies) = cookies {
        write_field(out, &header::COOKIE, cookies.as_bytes());
    }
    for (name, value) in exchange.added_to_request() {
        write_field(out, name, value.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes a checked request line.
pub(super) fn write_request_line(out: &mut Vec<u8>, line: &[u8]) {
    let version = line.iter().rposition(|b| *b == b' ').unwrap_or(line.len());
    out.extend_from_slice(&line[..version]);
    out.extend_from_slice(b" HTTP/1.1\r\n");
}

/// What the client's end of an exchange allows the answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct AnswerTo {
    pub(super) is_http11: bool,
    /// Whether the connection is kept after the answer.
    pub(super) keeps_connection: bool,
}

/// Writes the head of an answer that the client gets.
pub(super) fn write_answer(
    out: &mut Vec<u8>,
    head: &[u8],
    answer: &AnswerHead,
    rules: &AnswerRules,
    request_id: &RequestId,
    to: AnswerTo,
) {
    out.extend_from_slice(b"HTTP/1.1");
    copy_line(out, &first_line(head)[VERSION_LEN..VERSION_LEN + answer.status_len]);
    // RFC 9110, section 8.6, and RFC 9112, section 6.1.
    let has_no_framing = answer.status == 204 || answer.is_interim();
    for line in field_lines(head) {
        let is_removed = match line.name.as_str() {
            "connection" => true,
            "content-length" => has_no_framing,
            "transfer-encoding" => has_no_framing || !to.is_http11,
            name => rules.removes(name),
        };
        if !is_removed {
            copy_line(out, line.line);
        }
    }
    for (name, value) in rules.added() {
        // A field that takes the place of the app's keeps the case of its name.
        let replaced = Some(name.as_str()).filter(|name| rules.removes(name));
        let replaced = replaced.and_then(|name| field_lines(head).find(|line| line.name.as_str() == name));
        write_field(out, replaced.map_or(name.as_str().as_bytes(), |line| line.field.name), value.as_bytes());
    }
    write_field(out, &RequestId::HEADER, request_id.as_str().as_bytes());
    if !answer.is_interim() {
        if answer.framing == AnswerFraming::UntilClosed && to.is_http11 {
            out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
        }
        if !to.keeps_connection {
            out.extend_from_slice(b"Connection: close\r\n");
        } else if !to.is_http11 {
            out.extend_from_slice(b"Connection: keep-alive\r\n");
        }
    }
    out.extend_from_slice(b"\r\n");
}
