use proptest::prelude::*;

use super::*;
use crate::server::http1_guard::limits::{MAX_FIELDS, MAX_HEAD_BYTES};
use crate::server::http1_guard::refusal::Refusal;

const HOST: &str = "Host: a.example\r\n";

fn verdict(head: &str) -> Result<Head, Refusal> {
    check(head.as_bytes())
}

/// Checks a request for `/` with these header lines besides a valid Host.
fn with(lines: &str) -> Result<Head, Refusal> {
    verdict(&format!("GET / HTTP/1.1\r\n{HOST}{lines}\r\n"))
}

/// Checks a request with this request line and a valid Host.
fn line(line: &str) -> Result<Head, Refusal> {
    verdict(&format!("{line}\r\n{HOST}\r\n"))
}

/// Checks a request whose only header is Host with this value.
fn host(value: &str) -> Result<Head, Refusal> {
    verdict(&format!("GET / HTTP/1.1\r\nHost: {value}\r\n\r\n"))
}

#[test]
fn a_plain_request_passes_and_its_parts_are_reported() {
    let raw = b"GET /a?b=c%20d HTTP/1.1\r\nAccept: */*\r\nhOST: \t a.example:8080 \t\r\nX:\r\n\r\n";
    let head = check(raw).unwrap();
    assert_eq!(head.len, raw.len());
    assert_eq!(head.version, Http1Version::Http11);
    assert_eq!(head.framing, Framing::None);
    assert_eq!(head.host(raw), "a.example:8080");
    assert!(!head.is_websocket_upgrade && !head.has_expect_continue && !head.is_last_exchange);
}

#[test]
fn values_may_hold_tabs_and_bytes_beyond_ascii() {
    assert!(check(b"GET / HTTP/1.1\r\nHost: a\r\nX: a\tb \xc3\xa9 \xff\r\n\r\n").is_ok());
}

#[test]
fn a_line_that_ends_in_anything_but_crlf_is_refused() {
    for (head, refusal) in [
        ("GET / HTTP/1.1\nHost: a\r\n\r\n", Refusal::BareLf),
        ("GET / HTTP/1.1\r\nHost: a\n\r\n", Refusal::BareLf),
        ("GET / HTTP/1.1\r\nHost: a\r\n\n", Refusal::BareLf),
        ("GET / HTTP/1.1\n\n", Refusal::BareLf),
        ("GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n", Refusal::BareCr),
        ("GET / HTTP/1.1\r\nHost: a\r\r\n\r\n", Refusal::BareCr),
        ("GET / HTTP/1.1\r\r\nHost: a\r\n\r\n", Refusal::BareCr),
        ("GET /\r HTTP/1.1\r\nHost: a\r\n\r\n", Refusal::BareCr),
    ] {
        assert_eq!(verdict(head), Err(refusal), "{head:?}");
    }
}

#[test]
fn every_control_but_tab_is_refused_wherever_it_stands() {
    for b in (0u8..0x20).chain([0x7f]).filter(|b| !matches!(b, b'\t' | b'\r' | b'\n')) {
        let c = char::from(b);
        assert_eq!(with(&format!("X: a{c}b\r\n")), Err(Refusal::Control), "value {b}");
        assert_eq!(with(&format!("X{c}: a\r\n")), Err(Refusal::Control), "name {b}");
        assert_eq!(line(&format!("GET /{c} HTTP/1.1")), Err(Refusal::Control), "target {b}");
    }
}

#[test]
fn the_head_must_end_with_its_empty_line_and_there() {
    for (head, refusal) in [
        ("", Refusal::Unfinished),
        ("GET / HTTP/1.1", Refusal::Unfinished),
        ("GET / HTTP/1.1\r\nHost: a\r\n", Refusal::Unfinished),
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\nGET", Refusal::BytesAfterHead),
        ("\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Refusal::RequestLine),
    ] {
        assert_eq!(verdict(head), Err(refusal), "{head:?}");
    }
}

#[test]
fn a_request_line_has_exactly_three_parts() {
    for (request, refusal) in [
        ("GET", Refusal::RequestLine),
        ("GET /", Refusal::RequestLine),
        ("GET / ", Refusal::RequestLine),
        ("GET / HTTP/1.1 ", Refusal::RequestLine),
        ("GET /  HTTP/1.1", Refusal::RequestLine),
        ("GET / x HTTP/1.1", Refusal::RequestLine),
        ("GET / http/1.1", Refusal::RequestLine),
        ("GET  / HTTP/1.1", Refusal::RequestLine),
        ("GET\t/\tHTTP/1.1", Refusal::RequestLine),
        (" GET / HTTP/1.1", Refusal::RequestLine),
        ("GET  HTTP/1.1", Refusal::TargetCharacter),
        (" / HTTP/1.1", Refusal::Method),
        ("G(T / HTTP/1.1", Refusal::Method),
        ("G\u{e9}T / HTTP/1.1", Refusal::Method),
        ("CONNECT a.example:443 HTTP/1.1", Refusal::Connect),
        ("connect / HTTP/1.1", Refusal::Connect),
        ("GET / HTTP/1.2", Refusal::Version),
        ("GET / HTTP/2.0", Refusal::Version),
        ("PRI * HTTP/2.0", Refusal::Version),
        ("GET / HTTP/0.9", Refusal::Version),
        ("GET / HTTP/1.10", Refusal::Version),
    ] {
        assert_eq!(line(request), Err(refusal), "{request:?}");
    }
}

#[test]
fn a_target_is_a_path_or_an_http_uri_or_the_star_of_options() {
    for request in [
        "GET / HTTP/1.1",
        "GET //x HTTP/1.0",
        "M-SEARCH /?q=[1]| HTTP/1.1",
        "OPTIONS * HTTP/1.1",
        "GET http://a.example HTTP/1.1",
        "GET HTTP://A.Example/x HTTP/1.1",
        "GET http://a.example:80/ HTTP/1.1",
        "GET https://a.example:443?x HTTP/1.1",
        "GET http://a.example./ HTTP/1.1",
    ] {
        assert!(line(request).is_ok(), "{request:?}: {:?}", line(request));
    }
    for (request, refusal) in [
        ("GET /?q=<1> HTTP/1.1", Refusal::TargetSyntax),
        ("GET /<1> HTTP/1.1", Refusal::TargetSyntax),
        ("GET * HTTP/1.1", Refusal::TargetForm),
        ("options * HTTP/1.1", Refusal::TargetForm),
        ("GET a.example HTTP/1.1", Refusal::TargetForm),
        ("GET a.example:80 HTTP/1.1", Refusal::TargetForm),
        ("GET ftp://a.example/ HTTP/1.1", Refusal::TargetForm),
        ("GET http:/a.example HTTP/1.1", Refusal::TargetForm),
        ("GET ?x HTTP/1.1", Refusal::TargetForm),
        ("GET \\ HTTP/1.1", Refusal::TargetForm),
        ("GET /#x HTTP/1.1", Refusal::TargetFragment),
        ("GET http://a.example#x HTTP/1.1", Refusal::TargetFragment),
        ("GET /\u{e9} HTTP/1.1", Refusal::TargetCharacter),
        ("GET /a\tb HTTP/1.1", Refusal::TargetCharacter),
        ("GET http://u@a.example/ HTTP/1.1", Refusal::TargetUserinfo),
        ("GET http://a.example:80@b.example/ HTTP/1.1", Refusal::TargetUserinfo),
        ("GET http:/// HTTP/1.1", Refusal::TargetAuthority),
        ("GET http://:80/ HTTP/1.1", Refusal::TargetAuthority),
        ("GET http://a\\b.example/ HTTP/1.1", Refusal::TargetAuthority),
        ("GET http://b.example/ HTTP/1.1", Refusal::AuthorityDiffers),
        ("GET http://a.example:8080/ HTTP/1.1", Refusal::AuthorityDiffers),
        ("GET http://a.example:443/ HTTP/1.1", Refusal::AuthorityDiffers),
        ("GET https://a.example:80/ HTTP/1.1", Refusal::AuthorityDiffers),
        ("GET http://a.example../ HTTP/1.1", Refusal::AuthorityDiffers),
    ] {
        assert_eq!(line(request), Err(refusal), "{request:?}");
    }
}

#[test]
fn the_authority_of_the_target_comes_before_host() {
    let raw = b"GET http://A.Example:80/x HTTP/1.1\r\nHost: a.example\r\n\r\n";
    assert_eq!(check(raw).unwrap().host(raw), "A.Example:80");
    let raw = b"GET https://[::1]:9/x HTTP/1.1\r\nHost: [::1]:9\r\n\r\n";
    assert_eq!(check(raw).unwrap().host(raw), "[::1]:9");
}

#[test]
fn a_header_line_is_a_token_a_colon_and_a_value() {
    for (lines, refusal) in [
        ("X: a\r\n b\r\n", Refusal::Fold),
        ("X: a\r\n\tb\r\n", Refusal::Fold),
        (" X: a\r\n", Refusal::Fold),
        (" \r\n", Refusal::Fold),
        ("X\r\n", Refusal::NoColon),
        ("X : a\r\n", Refusal::SpaceBeforeColon),
        ("Transfer-Encoding\t: chunked\r\n", Refusal::SpaceBeforeColon),
        (": a\r\n", Refusal::FieldName),
        ("X Y: a\r\n", Refusal::FieldName),
        ("X@: a\r\n", Refusal::FieldName),
        ("X\u{e9}: a\r\n", Refusal::FieldName),
        ("\"X\": a\r\n", Refusal::FieldName),
    ] {
        assert_eq!(with(lines), Err(refusal), "{lines:?}");
    }
    // Blanks before the first header line are a fold too: of the request line.
    assert_eq!(verdict("GET / HTTP/1.1\r\n Host: a\r\n\r\n"), Err(Refusal::Fold));
}

#[test]
fn there_is_exactly_one_host() {
    assert_eq!(verdict("GET / HTTP/1.1\r\n\r\n"), Err(Refusal::NoHost));
    assert_eq!(verdict("GET http://a.example/ HTTP/1.1\r\n\r\n"), Err(Refusal::NoHost));
    assert_eq!(with("Host: a.example\r\n"), Err(Refusal::SeveralHosts));
    assert_eq!(with("HOST: b.example\r\n"), Err(Refusal::SeveralHosts));
}

#[test]
fn a_request_of_http_1_0_may_name_no_host() {
    for (request, host) in [
        ("GET / HTTP/1.0\r\n\r\n", ""),
        ("OPTIONS * HTTP/1.0\r\nX: a\r\n\r\n", ""),
        ("GET http://a.example:81/ HTTP/1.0\r\n\r\n", "a.example:81"),
        ("GET / HTTP/1.0\r\nHost: b\r\n\r\n", "b"),
    ] {
        let head = verdict(request).unwrap();
        assert_eq!(head.host(request.as_bytes()), host, "{request:?}");
        assert_eq!(head.is_absolute, request.contains("//"), "{request:?}");
    }
    assert_eq!(verdict("GET / HTTP/1.0\r\nHost:\r\n\r\n"), Err(Refusal::Host));
    let two = "GET http://a/ HTTP/1.0\r\nHost: b\r\n\r\n";
    assert_eq!(verdict(two), Err(Refusal::AuthorityDiffers));
}

#[test]
fn a_target_with_an_authority_becomes_a_path_and_the_only_host() {
    for (before, after) in [
        (
            "GET http://A.example:80/b?c HTTP/1.1\r\nX: y\r\nhost: a.example\r\nZ:\r\n\r\n",
            "GET /b?c HTTP/1.1\r\nHost: A.example:80\r\nX: y\r\nZ:\r\n\r\n",
        ),
        ("GET https://a?b HTTP/1.1\r\nHost: a\r\n\r\n", "GET /?b HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("GET http://a HTTP/1.0\r\n\r\n", "GET / HTTP/1.0\r\nHost: a\r\n\r\n"),
        ("OPTIONS http://a:81 HTTP/1.1\r\nHost: a:81\r\n\r\n", "OPTIONS * HTTP/1.1\r\nHost: a:81\r\n\r\n"),
        ("OPTIONS http://a/ HTTP/1.1\r\nHost: a\r\n\r\n", "OPTIONS / HTTP/1.1\r\nHost: a\r\n\r\n"),
    ] {
        let head = verdict(before).unwrap();
        assert!(head.is_absolute);
        let changed = to_origin_form(before.as_bytes(), &head);
        assert_eq!(str::from_utf8(&changed).unwrap(), after);
        let changed_head = check(&changed).unwrap();
        assert!(!changed_head.is_absolute);
        assert_eq!(changed_head.host(&changed), head.host(before.as_bytes()));
    }
}

#[test]
fn a_host_is_a_name_or_an_address_with_an_optional_port() {
    for good in [
        "a",
        "A.b-c_d.e.",
        "10.0.0.1",
        "10.0.0.1:1",
        "[::1]",
        "[2001:db8::1]:65535",
        "a%2Eb",
        "a:0",
        "a:00080",
    ] {
        assert!(host(good).is_ok(), "{good:?}");
    }
    for bad in [
        "",
        "  ",
        ".",
        ":",
        ":80",
        "a:",
        "a:x",
        "a:-1",
        "a:65536",
        "a:000080",
        "a:80:80",
        "u@a",
        "a b",
        "a/b",
        "a?b",
        "a#b",
        "a\\b",
        "a\"b",
        "a%2",
        "a%zz",
        "%",
        "::1",
        "[::1",
        "[]",
        "[::1]x",
        "[::1]:",
        "[a]",
        "[::1%25eth0]",
        "[v1.x]",
        "a[",
        "\u{e9}",
        "http://a",
    ] {
        assert_eq!(host(bad), Err(Refusal::Host), "{bad:?}");
    }
}

#[test]
fn a_content_length_is_one_plain_number() {
    let framing = |value: &str| with(&format!("Content-Length:{value}\r\n")).map(|head| head.framing);
    for (value, length) in [(" 0", 0), ("7", 7), ("\t0012 ", 12), ("18446744073709551615", u64::MAX)] {
        assert_eq!(framing(value), Ok(Framing::Length(length)), "{value:?}");
    }
    for value in ["", " ", "+1", "-1", "1,1", "1, 1", "1 1", "0x1", "1.0", "1e3", "a", "18446744073709551616"]
    {
        assert_eq!(framing(value), Err(Refusal::Length), "{value:?}");
    }
    assert_eq!(with("Content-Length: 1\r\nContent-Length: 1\r\n"), Err(Refusal::SeveralLengths));
    assert_eq!(with("Content-Length: 1\r\ncontent-LENGTH: 2\r\n"), Err(Refusal::SeveralLengths));
}

#[test]
fn a_transfer_encoding_is_chunked_alone() {
    assert_eq!(with("Transfer-Encoding: chunked\r\n").unwrap().framing, Framing::Chunked);
    assert_eq!(with("transfer-encoding:\tCHUNKED \r\n").unwrap().framing, Framing::Chunked);
    for value in [
        "",
        "identity",
        "gzip",
        "gzip, chunked",
        "chunked, chunked",
        "chunked,",
        ",chunked",
        "chunked;q=1",
        "xchunked",
        "\"chunked\"",
        "chunked chunked",
    ] {
        assert_eq!(with(&format!("Transfer-Encoding: {value}\r\n")), Err(Refusal::Encoding), "{value:?}");
    }
    let twice = "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n";
    assert_eq!(with(twice), Err(Refusal::SeveralEncodings));
    assert_eq!(
        verdict("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"),
        Err(Refusal::EncodingOnHttp10)
    );
    for both in [
        "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
    ] {
        assert_eq!(with(both), Err(Refusal::LengthAndEncoding), "{both:?}");
    }
}

#[test]
fn an_upgrade_is_a_get_for_a_websocket_on_http_1_1() {
    let upgrade = |request: &str, lines: &str| {
        verdict(&format!("{request}\r\n{HOST}{lines}\r\n")).map(|head| head.is_websocket_upgrade)
    };
    const GET: &str = "GET /ws HTTP/1.1";
    const ASKS: &str = "Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n";
    assert_eq!(upgrade(GET, ASKS), Ok(true));
    assert_eq!(upgrade(GET, &format!("Connection: x\r\n{ASKS}Content-Length: 0\r\n")), Ok(true));
    assert_eq!(upgrade("POST /ws HTTP/1.1", ASKS), Ok(false));
    assert_eq!(upgrade("GET /ws HTTP/1.0", ASKS), Ok(false));
    assert_eq!(upgrade(GET, "Upgrade: websocket\r\n"), Ok(false));
    assert_eq!(upgrade(GET, "Connection: upgraded\r\nUpgrade: websocket\r\n"), Ok(false));
    assert_eq!(upgrade(GET, "Connection: upgrade\r\nUpgrade: h2c\r\n"), Ok(false));
    assert_eq!(upgrade(GET, "Connection: upgrade\r\nUpgrade: h2c, websocket\r\n"), Ok(false));
    assert_eq!(upgrade(GET, &format!("Upgrade: h2c\r\n{ASKS}")), Ok(false));
    assert_eq!(upgrade(GET, &format!("{ASKS}Content-Length: 1\r\n")), Err(Refusal::UpgradeWithBody));
    assert_eq!(upgrade(GET, &format!("{ASKS}Transfer-Encoding: chunked\r\n")), Err(Refusal::UpgradeWithBody));
}

#[test]
fn connection_close_and_expect_continue_are_reported() {
    assert!(with("Connection: x , CLOSE\r\n").unwrap().is_last_exchange);
    assert!(!with("Connection: closed\r\n").unwrap().is_last_exchange);
    assert!(line("GET / HTTP/1.0").unwrap().is_last_exchange);
    let kept = verdict("GET / HTTP/1.0\r\nHost: a\r\nConnection: Keep-Alive\r\n\r\n").unwrap();
    assert!(!kept.is_last_exchange);
    assert!(with("Expect: 100-Continue\r\n").unwrap().has_expect_continue);
    assert!(!with("Expect: 200-ok\r\n").unwrap().has_expect_continue);
    let old = verdict("GET / HTTP/1.0\r\nHost: a\r\nExpect: 100-continue\r\n\r\n").unwrap();
    assert!(!old.has_expect_continue);
}

#[test]
fn too_many_fields_and_too_long_a_head_are_refused_and_the_limits_themselves_pass() {
    let fields = |n: usize| with(&"X: a\r\n".repeat(n - 1));
    assert!(fields(MAX_FIELDS).is_ok());
    assert_eq!(fields(MAX_FIELDS + 1), Err(Refusal::TooManyFields));

    let rest = format!("GET / HTTP/1.1\r\n{HOST}X: \r\n\r\n").len();
    let long = |len: usize| with(&format!("X: {}\r\n", "a".repeat(len - rest)));
    assert_eq!(long(MAX_HEAD_BYTES).unwrap().len, MAX_HEAD_BYTES);
    assert_eq!(long(MAX_HEAD_BYTES + 1), Err(Refusal::HeadTooLarge));
}

#[test]
fn each_kind_has_its_status() {
    assert_eq!(Refusal::BareLf.status(), 400);
    assert_eq!(Refusal::HeadTimeout.status(), 408);
    assert_eq!(Refusal::HeadTooLarge.status(), 431);
    assert_eq!(Refusal::TooManyFields.status(), 431);
}

#[test]
fn the_end_is_the_empty_line_or_a_line_that_can_only_be_refused() {
    for (buf, end) in [
        ("", None),
        ("GET / HTTP/1.1\r\nHost: a\r\n", None),
        ("GET / HTTP/1.1\r\nHost: a\r\n\r", None),
        ("GET / HTTP/1.1\r\n\r\nrest", Some(18)),
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n\r\n\r\n", Some(27)),
        ("\r\nGET", Some(2)),
        ("\nGET", Some(1)),
        ("GET / HTTP/1.1\nHost", Some(15)),
        ("GET / HTTP/1.1\r\n\nHost", Some(17)),
    ] {
        assert_eq!(find_end(buf.as_bytes(), 0), end, "{buf:?}");
    }
}

/// Bytes that are almost a head: real pieces and noise in any order.
fn almost_a_head() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        prop::sample::select(vec![
            "GET / HTTP/1.1\r\n",
            "GET http://a/ HTTP/1.1\r\n",
            "Host: a\r\n",
            "Host:",
            "\r\n",
            "\n",
            "\r",
            " ",
            ":",
            "Content-Length: 5\r\n",
            "Transfer-Encoding: chunked\r\n",
            "Upgrade: websocket\r\n",
            "Connection: upgrade",
            "http://",
            "[::",
            "%",
            ",",
            "\r\n\r\n",
            "HTTP/1.0",
        ])
        .prop_map(|piece| piece.as_bytes().to_vec()),
        prop::collection::vec(any::<u8>(), 0..8),
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(crate::proptest_config())]

    #[test]
    fn no_bytes_make_the_check_panic(bytes in almost_a_head()) {
        if let Ok(head) = check(&bytes) {
            prop_assert!(head.len == bytes.len() && !head.host(&bytes).is_empty());
        }
        if let Some(end) = find_end(&bytes, 0) {
            let _ = check(&bytes[..end]);
        }
    }

    #[test]
    fn the_origin_form_means_the_same(
        target in "http://[a-zA-Z]{1,3}(:80)?(/[a-z/]{0,3})?([?][a-z/?]{0,3})?",
        lines in prop::collection::vec(prop::sample::select(vec![
            "X: y", "Connection: close", "Content-Length: 5", "Expect: 100-continue", "Hostile: z",
        ]), 0..4),
    ) {
        let authority = target[7..].split(['/', '?']).next().unwrap();
        for host in ["", &format!("HOST: {}\r\n", authority.to_lowercase())] {
            let version = if host.is_empty() { "HTTP/1.0" } else { "HTTP/1.1" };
            let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
            let sent = format!("POST {target} {version}\r\n{lines}{host}\r\n");
            let Ok(before) = check(sent.as_bytes()) else { continue };
            let changed = to_origin_form(sent.as_bytes(), &before);
            let after = check(&changed).unwrap();
            prop_assert_eq!(after.host(&changed), authority);
            let expected = Head { len: changed.len(), host: after.host.clone(), is_absolute: false, ..before };
            prop_assert_eq!(after, expected);
        }
    }

    #[test]
    fn what_passes_is_the_first_head_that_the_search_finds(bytes in almost_a_head()) {
        if check(&bytes).is_ok() {
            prop_assert_eq!(find_end(&bytes, 0), Some(bytes.len()));
        }
    }

    #[test]
    fn the_end_is_found_alike_however_the_bytes_arrive(bytes in almost_a_head(), cuts in prop::collection::vec(1usize..9, 0..60)) {
        let (mut len, mut searched, mut found) = (0, 0, None);
        for cut in cuts.into_iter().chain([bytes.len()]) {
            len = (len + cut).min(bytes.len());
            found = find_end(&bytes[..len], searched);
            if found.is_some() {
                break;
            }
            searched = len;
        }
        prop_assert_eq!(found, find_end(&bytes, 0));
    }
}
