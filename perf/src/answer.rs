//! The least reader of HTTP/1.1 answers that will do: a status line, fields, a body of known length.

use memchr::memmem;

/// A whole answer at the front of a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Answer<'a> {
    /// Its status.
    pub(crate) status: u16,
    /// Its body.
    pub(crate) body: &'a [u8],
    /// Bytes of all of it.
    pub(crate) len: usize,
}

/// Reads the answer at the front of `bytes`; `None` when there is more to come.
///
/// # Errors
/// What is no answer, and an answer without a length.
pub(crate) fn read(bytes: &[u8]) -> Result<Option<Answer<'_>>, String> {
    let Some(head_len) = memmem::find(bytes, b"\r\n\r\n").map(|at| at + 4) else { return Ok(None) };
    let head = &bytes[..head_len];
    let text = || String::from_utf8_lossy(head).into_owned();
    let status = head
        .strip_prefix(b"HTTP/1.1 ")
        .and_then(|rest| rest.get(..3))
        .and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok())
        .ok_or_else(|| format!("no answer: {}", text()))?;
    let body_len = content_length(head).ok_or_else(|| format!("an answer without a length: {}", text()))?;
    let body = bytes.get(head_len..head_len + body_len);
    Ok(body.map(|body| Answer { status, body, len: head_len + body_len }))
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
    fn an_answer_is_whole_when_its_body_is() {
        let text = b"HTTP/1.1 200 OK\r\ndate: x\r\nContent-Length: 3\r\n\r\nabcHTTP/1.1";
        for end in 0..text.len() - 8 {
            assert_eq!(read(&text[..end]), Ok(None), "{end}");
        }
        let answer = read(text).unwrap().unwrap();
        assert_eq!((answer.status, answer.body, answer.len), (200, &b"abc"[..], text.len() - 8));
    }

    #[test]
    fn an_answer_without_a_length_and_something_else_are_errors() {
        read(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").unwrap_err();
        read(b"SSH-2.0-x\r\n\r\n").unwrap_err();
    }
}
