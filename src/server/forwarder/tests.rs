use proptest::prelude::*;

use super::answer_head::{AnswerFraming, check, find_end};
use super::body::{BodyReader, BodyWriter, Buffer};
use super::edit::write_request_line;
use super::fields::field_lines;
use crate::server::http1_guard::head::Framing;
use crate::server::http1_guard::{MAX_HEAD_BYTES, Refusal};

/// Checks an answer of HTTP/1.1 with the status 200 and these header lines.
fn with(lines: &str) -> Result<AnswerFraming, Refusal> {
    framing(&format!("HTTP/1.1 200 OK\r\n{lines}\r\n"))
}

fn framing(head: &str) -> Result<AnswerFraming, Refusal> {
    check(head.as_bytes(), false).map(|answer| answer.framing)
}

#[test]
fn the_framing_of_an_answer_follows_from_its_head() {
    for (lines, expected) in [
        ("Content-Length: 5\r\n", AnswerFraming::Length(5)),
        ("transfer-encoding: Chunked\r\n", AnswerFraming::Chunked),
        ("X: a\tb \u{e9}\r\n", AnswerFraming::UntilClosed),
    ] {
        assert_eq!(with(lines), Ok(expected), "{lines}");
    }
    for head in ["HTTP/1.1 200\r\n\r\n", "HTTP/1.1 200 \r\n\r\n", "HTTP/1.0 200 \u{e9}t\u{e9}\r\n\r\n"] {
        assert_eq!(framing(head), Ok(AnswerFraming::UntilClosed), "{head}");
    }
}

#[test]
fn an_answer_that_two_readers_could_read_in_two_ways_is_refused() {
    for (lines, refusal) in [
        ("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n", Refusal::LengthAndEncoding),
        ("Transfer-Encoding: chunked\r\nContent-Length: 1\r\n", Refusal::LengthAndEncoding),
        ("Content-Length: 1\r\nContent-Length: 1\r\n", Refusal::SeveralLengths),
        ("Content-Length: 1, 1\r\n", Refusal::Length),
        ("Content-Length: +1\r\n", Refusal::Length),
        ("Content-Length: 0x1\r\n", Refusal::Length),
        ("Content-Length:\r\n", Refusal::Length),
        ("Content-Length: 18446744073709551616\r\n", Refusal::Length),
        ("Transfer-Encoding: gzip, chunked\r\n", Refusal::Encoding),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", Refusal::SeveralEncodings),
        ("Transfer-Encoding : chunked\r\n", Refusal::SpaceBeforeColon),
        ("Transfer-Encoding:\r\n chunked\r\n", Refusal::Encoding),
        ("X: a\r\n b\r\n", Refusal::Fold),
        ("X: a\nContent-Length: 1\r\n", Refusal::BareLf),
        ("X: a\rb\r\n", Refusal::BareCr),
        ("X: a\0b\r\n", Refusal::Control),
        ("X\0: a\r\n", Refusal::Control),
        (": a\r\n", Refusal::FieldName),
        ("no colon\r\n", Refusal::NoColon),
    ] {
        assert_eq!(with(lines), Err(refusal), "{lines:?}");
    }
    for line in [
        "HTTP/1.1  200 OK",
        "HTTP/1.1 20 OK",
        "HTTP/1.1 2000 OK",
        "HTTP/1.1 099 OK",
        "HTTP/1.1 2x0 OK",
        "HTTP/1.1",
        "HTTP/2.0 200 OK",
        "http/1.1 200 OK",
        " HTTP/1.1 200 OK",
        "HTTP/1.1\t200 OK",
        "220 mail ESMTP",
        "",
    ] {
        assert_eq!(framing(&format!("{line}\r\n\r\n")), Err(Refusal::StatusLine), "{line}");
    }
    let encoded = "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(framing(encoded), Err(Refusal::EncodingOnHttp10));
    assert_eq!(with(&"X: a\r\n".repeat(257)), Err(Refusal::TooManyFields));
}

#[test]
fn answers_without_a_body_have_none_whatever_they_declare() {
    for lines in ["", "Content-Length: 9\r\n", "Transfer-Encoding: chunked\r\n"] {
        for (status, is_head) in [(204, false), (304, false), (103, false), (200, true)] {
            let head = format!("HTTP/1.1 {status} X\r\n{lines}\r\n");
            let answer = check(head.as_bytes(), is_head).unwrap();
            assert_eq!(answer.framing, AnswerFraming::None, "{head}");
            // The app may send what it declares, which must not be taken for the next answer.
            let is_bodiless = is_head || status == 304;
            assert_eq!(answer.keeps_connection, lines.is_empty() || is_bodiless, "{head}");
        }
    }
}

#[test]
fn a_connection_of_an_app_is_kept_as_its_version_and_its_options_say() {
    for (head, keeps) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", true),
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: x, Close\r\n\r\n", false),
        ("HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", false),
        ("HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n", true),
        ("HTTP/1.1 200 OK\r\n\r\n", false),
    ] {
        assert_eq!(check(head.as_bytes(), false).unwrap().keeps_connection, keeps, "{head}");
    }
}

#[test]
fn the_head_of_an_answer_has_an_end() {
    assert_eq!(find_end(b"HTTP/1.1 200 OK\r\n\r\nbody", 0), Ok(Some(19)));
    assert_eq!(find_end(b"HTTP/1.1 200 OK\r\n", 0), Ok(None));
    assert_eq!(find_end(&vec![b'a'; MAX_HEAD_BYTES], 0), Err(Refusal::HeadTooLarge));
}

#[test]
fn the_app_gets_http_1_1() {
    for (line, expected) in
        [("GET /a?b=c HTTP/1.0", "GET /a?b=c HTTP/1.1\r\n"), ("OPTIONS * HTTP/1.1", "OPTIONS * HTTP/1.1\r\n")]
    {
        let mut out = Vec::new();
        write_request_line(&mut out, line.as_bytes());
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}

/// Bytes that are almost the head of an answer: real lines and noise in any order.
fn almost_a_head() -> impl Strategy<Value = Vec<u8>> {
    let line = prop_oneof![
        8 => prop::sample::select(vec![
            "Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n", "Connection: close\r\n", "X: y\r\n",
            "Content-Length: 05\r\n", "Set-Cookie: a=b\r\n",
        ]).prop_map(|line| line.as_bytes().to_vec()),
        1 => prop::sample::select(vec!["\n", "\r", " ", ":", "X : y\r\n", " fold\r\n", "HTTP/1.1 200 OK\r\n"])
            .prop_map(|line| line.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..6),
    ];
    let first = prop::sample::select(vec![
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.0 200\r\n",
        "HTTP/1.1 204 \r\n",
        "HTTP/1.1 x\r\n",
    ]);
    (first, prop::collection::vec(line, 0..8))
        .prop_map(|(first, lines)| [first.as_bytes(), &lines.concat(), b"\r\n"].concat())
}

proptest! {
    #![proptest_config(crate::proptest_config())]

    #[test]
    fn a_head_that_passes_can_be_read_in_one_way_only(head in almost_a_head(), is_head in any::<bool>()) {
        if let Ok(answer) = check(&head, is_head) {
            let text = String::from_utf8_lossy(&head);
            prop_assert!(!text.replace("\r\n", "").contains(['\r', '\n', '\0']));
            let count = |name: &str| field_lines(&head).filter(|line| line.name.as_str() == name).count();
            prop_assert!(count("content-length") + count("transfer-encoding") <= 1);
            prop_assert_eq!(field_lines(&head).count() + 2, text.split("\r\n").count() - 1);
            if let AnswerFraming::Length(length) = answer.framing {
                prop_assert_eq!(length, 5);
            }
            prop_assert_eq!(find_end(&head, 0), Ok(Some(head.len())));
        }
    }

    #[test]
    fn the_end_of_a_head_does_not_depend_on_how_its_bytes_arrive(head in almost_a_head(), cut in any::<prop::sample::Index>()) {
        let cut = cut.index(head.len());
        let whole = find_end(&head, 0);
        let parts = match find_end(&head[..cut], 0) {
            Ok(None) => find_end(&head, cut),
            found => found,
        };
        prop_assert_eq!(whole, parts);
    }

    /// What is written has one framing, whatever was read: no extension and no trailer of the sender remains.
    #[test]
    fn a_body_passes_through_any_framing_unchanged(
        pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..6),
        cuts in prop::collection::vec(1usize..50, 1..40),
        is_chunked in any::<bool>(),
        writes_chunks in any::<bool>(),
    ) {
        let content = pieces.concat();
        let (sent, framing) = if is_chunked {
            let mut sent = Vec::new();
            for piece in &pieces {
                sent.extend(format!("{:X};ext=1\r\n", piece.len()).as_bytes());
                sent.extend(piece);
                sent.extend(b"\r\n");
            }
            sent.extend(b"0\r\nX-Sum: 1\r\n\r\n");
            (sent, Framing::Chunked)
        } else {
            (content.clone(), Framing::Length(content.len() as u64))
        };
        let (mut reader, writer) = (BodyReader::of_request(framing), BodyWriter { is_chunked: writes_chunks });
        let (mut at, mut out, mut cuts) = (0, Vec::new(), cuts.iter().cycle());
        while at < sent.len() {
            let mut buffer = Buffer::take();
            let count = (*cuts.next().unwrap()).min(sent.len() - at);
            buffer.room()[..count].copy_from_slice(&sent[at..at + count]);
            buffer.end += count;
            at += count;
            let (taken, length) = reader.read(buffer.filled_mut()).unwrap();
            prop_assert_eq!(taken, count);
            buffer.end = buffer.start + length;
            if at % 2 == 0 {
                writer.frame(&mut buffer, reader.is_done());
                out.extend(buffer.filled());
            } else {
                writer.append(&mut out, buffer.filled(), reader.is_done());
            }
        }
        prop_assert!(reader.is_done());
        if writes_chunks && !sent.is_empty() {
            prop_assert!(!out.windows(3).any(|three| three == b";ex") || content.windows(3).any(|three| three == b";ex"));
            let mut checker = BodyReader::of_request(Framing::Chunked);
            let length = out.len();
            let (taken, found) = checker.read(&mut out).unwrap();
            prop_assert_eq!((taken, checker.is_done()), (length, true));
            out.truncate(found);
        }
        prop_assert_eq!(out, content);
    }
}
