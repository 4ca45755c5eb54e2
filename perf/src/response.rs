//! A minimal reader of HTTP/1.1 responses: a status line, fields, a body of known length.

use memchr::memmem;

/// A whole response at the start of a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HttpResponse<'a> {
    /// The status.
    pub(crate) status: u16,
    /// The body.
    pub(crate) body: &'a [u8],
    /// The bytes of the whole response.
    pub(crate) len: usize,
}

/// Reads the response at the start of `bytes`; `None` if it is not complete.
///
/// # Errors
/// The bytes are no response, or the response has no length.
pub(crate) fn read(bytes: &[u8]) -> Result<Option<HttpResponse<'_>>, String> {
    let Some(head_len) = memmem::find(bytes, b"\r\n\r\n").map(|at| at + 4) else { return Ok(None) };
    let head = &bytes[..head_len];
    let text = || String::from_utf8_lossy(head).into_owned();
    let status = head
        .strip_prefix(b"HTTP/1.1 ")
        .and_then(|rest| rest.get(..3))
        .and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok())
        .ok_or_else(|| format!("no HTTP response: {}", text()))?;
    let body_len = content_length(head).ok_or_else(|| format!("a response without a length: {}", text()))?;
    let body = bytes.get(head_len..head_len + body_len);
    Ok(body.map(|body| HttpResponse { status, body, len: head_len + body_len }))
}

fn content_length(head: &[u8]) -> Option<usize> {
    const NAME: &[u8] = b"content-length:";
    let mut from = 0;
    loop {
        let line = from + memchr::memchr(b'\n', &head[from..])? + 1;
        let name = head.get(line..line + NAME.len())?;
        if name.eq_ignore_ascii_case(NAME) {
            let value = &head[line + NAME.len()..];
            let value = &value[..memchr::memchr(b'\r', value)?];
            return std::str::from_utf8(value).ok()?.trim().parse().ok();
        }
        from = line;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_is_complete_when_its_body_is() {
        let text = b"HTTP/1.1 200 OK\r\ndate: x\r\nContent-Length: 3\r\n\r\nabcHTTP/1.1";
        for end in 0..text.len() - 8 {
            assert_eq!(read(&text[..end]), Ok(None), "{end}");
        }
        let response = read(text).unwrap().unwrap();
        assert_eq!((response.status, response.body, response.len), (200, &b"abc"[..], text.len() - 8));
    }

    #[test]
    fn a_response_without_a_length_and_other_bytes_are_errors() {
        read(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").unwrap_err();
        read(b"SSH-2.0-x\r\n\r\n").unwrap_err();
    }
}
