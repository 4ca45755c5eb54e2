use proptest::prelude::*;

use super::*;

/// Returns how many bytes the message has and whether it ended, if all bytes arrive at once.
fn chunked(bytes: &[u8]) -> Result<(usize, bool), Refusal> {
    let mut body = BodyChecker::new(Framing::Chunked);
    body.accept(bytes).map(|taken| (taken, body.is_done()))
}

#[test]
fn a_message_without_a_body_takes_no_bytes() {
    for framing in [Framing::None, Framing::Length(0)] {
        let mut body = BodyChecker::new(framing);
        assert!(body.is_done());
        assert_eq!(body.accept(b"GET"), Ok(0));
    }
}

#[test]
fn a_length_takes_exactly_its_bytes() {
    let mut body = BodyChecker::new(Framing::Length(5));
    assert_eq!(body.accept(b"abc"), Ok(3));
    assert!(!body.is_done());
    assert_eq!(body.accept(b"deGET"), Ok(2));
    assert!(body.is_done());
    assert_eq!(body.accept(b"GET"), Ok(0));
}

#[test]
fn a_chunked_body_ends_after_its_last_line() {
    for body in [
        "0\r\n\r\n",
        "5\r\nhello\r\n0\r\n\r\n",
        "0000000000000005\r\nhello\r\n000\r\n\r\n",
        "a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n",
        "2\r\n\r\n\r\n0\r\n\r\n",
        "5;a=b\r\nhello\r\n0;c\r\n\r\n",
        "5 \t;a=\"b; c\"\r\nhello\r\n0\r\n\r\n",
        "5;\r\nhello\r\n0\r\n\r\n",
        "0\r\nX-Sum: 1\r\nY:\r\n\r\n",
        "0\r\nContent-Lengthy: 1\r\nHos: a\r\nHostt: a\r\n\r\n",
        "0\r\nX: \t\u{e9}\r\n\r\n",
    ] {
        let with_next = format!("{body}GET / HTTP/1.1\r\n");
        assert_eq!(chunked(with_next.as_bytes()), Ok((body.len(), true)), "{body:?}");
    }
}

#[test]
fn a_malformed_chunked_body_is_refused() {
    for (body, refusal) in [
        ("\r\n", Refusal::ChunkSize),
        (" 5\r\n", Refusal::ChunkSize),
        ("+5\r\n", Refusal::ChunkSize),
        ("-5\r\n", Refusal::ChunkSize),
        ("0x5\r\n", Refusal::ChunkSize),
        ("g\r\n", Refusal::ChunkSize),
        (";a\r\n", Refusal::ChunkSize),
        ("00000000000000005\r\n", Refusal::ChunkSize),
        ("10000000000000000\r\n", Refusal::ChunkSize),
        ("5_\r\n", Refusal::ChunkSize),
        ("5\n", Refusal::ChunkSize),
        ("5\rhello", Refusal::BareCr),
        ("5 5\r\n", Refusal::ChunkExtension),
        ("5 \r\n", Refusal::ChunkExtension),
        ("5;a\n", Refusal::ChunkExtension),
        ("5;a\0\r\n", Refusal::ChunkExtension),
        ("5;\u{e9}\r\n", Refusal::ChunkExtension),
        ("5;a\rb\r\n", Refusal::BareCr),
        ("5\r\nhello\n0\r\n", Refusal::ChunkEnd),
        ("5\r\nhello!\r\n", Refusal::ChunkEnd),
        ("5\r\nhello\r0\r\n", Refusal::ChunkEnd),
        ("5\r\nhello0\r\n", Refusal::ChunkEnd),
        ("0\r\n\n", Refusal::BareLf),
        ("0\r\n\r\r", Refusal::BareCr),
        ("0\r\n X: a\r\n", Refusal::Fold),
        ("0\r\n: a\r\n", Refusal::FieldName),
        ("0\r\nX@: a\r\n", Refusal::FieldName),
        ("0\r\nX : a\r\n", Refusal::SpaceBeforeColon),
        ("0\r\nGET / HTTP/1.1\r\n", Refusal::SpaceBeforeColon),
        ("0\r\nX\r\n", Refusal::NoColon),
        ("0\r\nX\n", Refusal::BareLf),
        ("0\r\nX: a\n", Refusal::BareLf),
        ("0\r\nX: a\rb", Refusal::BareCr),
        ("0\r\nX: a\0\r\n", Refusal::Control),
        ("0\r\nX: a\r\n b\r\n", Refusal::Fold),
        ("0\r\nhOst: a\r\n", Refusal::ForbiddenTrailer),
        ("0\r\nContent-Length: 1\r\n", Refusal::ForbiddenTrailer),
        ("0\r\nX: a\r\ntransfer-encoding: chunked\r\n", Refusal::ForbiddenTrailer),
    ] {
        assert_eq!(chunked(body.as_bytes()), Err(refusal), "{body:?}");
    }
}

#[test]
fn the_largest_chunk_size_is_64_bits() {
    assert_eq!(chunked(b"ffffffffffffffff\r\nabc"), Ok((21, false)));
}

#[test]
fn chunk_lines_extensions_and_trailers_are_bounded_and_the_limits_themselves_pass() {
    let line = |len: usize| format!("1;{}\r\na\r\n", "x".repeat(len - 4));
    assert!(chunked(line(MAX_CHUNK_LINE_BYTES).as_bytes()).is_ok());
    assert_eq!(chunked(line(MAX_CHUNK_LINE_BYTES + 1).as_bytes()), Err(Refusal::ChunkLineTooLong));

    // 128 bytes of extension a chunk.
    let body = line(128 + 3).repeat(MAX_EXTENSION_BYTES / 128);
    assert!(chunked(body.as_bytes()).is_ok());
    assert_eq!(chunked(format!("{body}1;\r\n").as_bytes()), Err(Refusal::ExtensionsTooLarge));

    let fields = |n: usize| format!("0\r\n{}\r\n", "X: a\r\n".repeat(n));
    assert!(chunked(fields(MAX_FIELDS).as_bytes()).is_ok());
    assert_eq!(chunked(fields(MAX_FIELDS + 1).as_bytes()), Err(Refusal::TooManyFields));

    let trailers = |len: usize| format!("0\r\nX: {}\r\n\r\n", "a".repeat(len - 7));
    assert!(chunked(trailers(MAX_HEAD_BYTES).as_bytes()).is_ok());
    assert_eq!(chunked(trailers(MAX_HEAD_BYTES + 1).as_bytes()), Err(Refusal::HeadTooLarge));
}

/// Bytes that are almost a chunked body: real pieces and noise in any order.
fn almost_a_body() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        8 => prop::sample::select(vec![
            "5\r\nhello\r\n", "3;a=b\r\nabc\r\n", "1 ;x\r\na\r\n", "0\r\n\r\n", "0\r\nX: a\r\n\r\n", "10\r\n0123456789abcdef\r\n",
        ])
        .prop_map(|piece| piece.as_bytes().to_vec()),
        1 => prop::sample::select(vec!["0\r\n", "Host: a\r\n", "X: y\r\n", "\r\n", "\n", "\r", "5", ";", " ", "GET / HTTP/1.1\r\n"])
            .prop_map(|piece| piece.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..6),
    ];
    prop::collection::vec(piece, 0..10).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(crate::proptest_config())]

    #[test]
    fn the_split_of_the_bytes_over_calls_makes_no_difference(
        bytes in almost_a_body(),
        cuts in prop::collection::vec(1usize..7, 1..80),
        length in prop::option::of(0u64..60),
    ) {
        let framing = length.map_or(Framing::Chunked, Framing::Length);
        let mut whole = BodyChecker::new(framing);
        let expected = whole.accept(&bytes);
        for cuts in [cuts, vec![1]] {
            let mut body = BodyChecker::new(framing);
            let (mut at, mut verdict) = (0, Ok(()));
            for cut in cuts.iter().cycle() {
                let part = &bytes[at..(at + cut).min(bytes.len())];
                match body.accept(part) {
                    Ok(taken) => at += taken,
                    Err(refusal) => verdict = Err(refusal),
                }
                if verdict.is_err() || body.is_done() || at == bytes.len() {
                    break;
                }
            }
            prop_assert_eq!(verdict.map(|()| at), expected);
            if expected.is_ok() {
                prop_assert_eq!(body.is_done(), whole.is_done());
            }
        }
    }
}

#[test]
fn the_content_of_a_body_is_separated_from_its_framing_and_trailers() {
    let mut bytes = *b"5;a=b\r\nhello\r\n1\r\n!\r\n0\r\nX: y\r\n\r\nGET";
    let mut body = BodyChecker::new(Framing::Chunked);
    let (taken, content) = body.accept_content(&mut bytes).unwrap();
    assert_eq!((&bytes[..content], &bytes[taken..], body.is_done()), (&b"hello!"[..], &b"GET"[..], true));
    let mut body = BodyChecker::new(Framing::Length(4));
    assert_eq!(body.accept_content(&mut b"bodyGET".to_vec()), Ok((4, 4)));
    let mut body = BodyChecker::new(Framing::Chunked);
    assert_eq!(body.accept_content(&mut b"5\n".to_vec()), Err(Refusal::ChunkSize));
}
