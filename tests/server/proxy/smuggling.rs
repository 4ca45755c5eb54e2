//! Messages that two parsers could read in two ways are refused at every position on a connection and for every
//! destination, and a request hidden behind them reaches no app.

use crate::support::harness::{RawConnection, Server, get};

/// The path of the hidden request, which no instance may receive.
const MARK: &str = "smuggled";

/// A message that must be refused. In its bytes, `{host}` is its destination, `{smuggled}` is a complete request for an
/// instance, each LF stands for CR LF, `␊` for a bare LF and `␍` for a bare CR.
struct Case {
    name: &'static str,
    bytes: String,
    status: u16,
}

fn case(name: &'static str, bytes: &str) -> Case {
    Case { name, bytes: bytes.to_owned(), status: 400 }
}

const POST: &str = "POST /attack HTTP/1.1\nHost: {host}\nAccept: application/json\n";
const GET: &str = "GET /attack HTTP/1.1\nHost: {host}\nAccept: application/json\n";

fn cases() -> Vec<Case> {
    let post = |name, rest: &str| case(name, &format!("{POST}{rest}{{smuggled}}"));
    let get = |name, rest: &str| case(name, &format!("{GET}{rest}{{smuggled}}"));
    let chunked = |name, body: &str| post(name, &format!("Transfer-Encoding: chunked\n\n{body}"));
    let line = |name, line: &str| case(name, &format!("{line}\nHost: {{host}}\n\n{{smuggled}}"));
    let mut cases = vec![
        post("a length beside an encoding", "Content-Length: 4\nTransfer-Encoding: chunked\n\n0\n\n"),
        post("an encoding beside a length", "Transfer-Encoding: chunked\nContent-Length: 4\n\n0\n\n"),
        post("two lengths", "Content-Length: 0\nContent-Length: 40\n\n"),
        post("the same length twice", "Content-Length: 0\nContent-Length: 0\n\n"),
        post("a list of lengths", "Content-Length: 0, 0\n\n"),
        post("a length with a sign", "Content-Length: +0\n\n"),
        post("a length in hexadecimal", "Content-Length: 0x0\n\n"),
        post("a length of more than 64 bits", "Content-Length: 18446744073709551616\n\n"),
        post("an empty length", "Content-Length:\n\n"),
        post("an unknown encoding", "Transfer-Encoding: xchunked\n\n0\n\n"),
        post("chunked twice in a list", "Transfer-Encoding: chunked, chunked\n\n0\n\n"),
        post("chunked twice", "Transfer-Encoding: chunked\nTransfer-Encoding: chunked\n\n0\n\n"),
        post("identity before chunked", "Transfer-Encoding: identity, chunked\n\n0\n\n"),
        post("an encoding in quotes", "Transfer-Encoding: \"chunked\"\n\n0\n\n"),
        post("an encoding after a vertical tab", "Transfer-Encoding: \u{b}chunked\n\n0\n\n"),
        post("a blank before the colon", "Transfer-Encoding : chunked\n\n0\n\n"),
        post("a folded encoding", "Transfer-Encoding:\n chunked\n\n0\n\n"),
        get("a folded header", "X-A: b\n c\n\n"),
        get("a blank before the first header's name", " X-A: b\n\n"),
        get("a bare LF after a header", "X-A: b␊\n"),
        get("a bare LF that hides a header", "X-A: b␊Content-Length: 40\n\n"),
        get("a bare CR in a header", "X-A: b␍c\n\n"),
        case("bare LFs only", "GET /attack HTTP/1.1␊Host: {host}␊␊{smuggled}"),
        get("a NUL in a header", "X-A: b\0c\n\n"),
        get("a NUL in a header's name", "X\0A: b\n\n"),
        get("a header without a name", ": b\n\n"),
        get("a header without a colon", "no colon\n\n"),
        get("a second Host", "Host: {host}\n\n"),
        get("a second Host that differs", "Host: other.example.test\n\n"),
        case("no Host", "GET /attack HTTP/1.1\n\n{smuggled}"),
        case("an empty Host", "GET /attack HTTP/1.1\nHost:\n\n{smuggled}"),
        case(
            "an encoded slash in Host",
            "GET /attack HTTP/1.1\nHost: localhost%2f{host}\nAccept: application/json\n\n{smuggled}",
        ),
        case("user information in Host", "GET /attack HTTP/1.1\nHost: a@{host}\n\n{smuggled}"),
        case("a path in Host", "GET /attack HTTP/1.1\nHost: {host}/x\n\n{smuggled}"),
        case("two hosts in Host", "GET /attack HTTP/1.1\nHost: {host}, {host}\n\n{smuggled}"),
        case("a blank in Host", "GET /attack HTTP/1.1\nHost: a {host}\n\n{smuggled}"),
        line("a target that differs from Host", "GET http://other.example.test/attack HTTP/1.1"),
        line("user information in the target", "GET http://a@{host}/attack HTTP/1.1"),
        line("a target of another scheme", "GET ftp://{host}/attack HTTP/1.1"),
        line("a target without a slash", "GET attack HTTP/1.1"),
        line("a blank in the target", "GET /attack x HTTP/1.1"),
        line("a NUL in the target", "GET /att\0ack HTTP/1.1"),
        line("a tab before the version", "GET /attack\tHTTP/1.1"),
        line("an unknown version", "GET /attack HTTP/1.2"),
        line("the version of long ago", "GET /attack"),
        line("a version in lower case", "GET /attack http/1.1"),
        line("a method that is no token", "G(T /attack HTTP/1.1"),
        line("CONNECT", "CONNECT {host} HTTP/1.1"),
        line("CONNECT with a path", "CONNECT /attack HTTP/1.1"),
        case(
            "an encoding on HTTP/1.0",
            "POST /attack HTTP/1.0\nHost: {host}\nTransfer-Encoding: chunked\n\n0\n\n{smuggled}",
        ),
        case(
            "a WebSocket's handshake with a body",
            "GET /live HTTP/1.1\nHost: {host}\nConnection: Upgrade\nUpgrade: websocket\nSec-WebSocket-Version: 13\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\nContent-Length: 4\n\nabcd{smuggled}",
        ),
        chunked("a chunk size that is none", "x\n"),
        chunked("a chunk size with a sign", "-1\nabc\n0\n\n"),
        chunked("a chunk size with a prefix", "0x3\nabc\n0\n\n"),
        chunked("a chunk size of more than 64 bits", "10000000000000003\nabc\n0\n\n"),
        chunked("an empty chunk size", "\n0\n\n"),
        chunked("a bare LF after a chunk size", "3␊abc\n0\n\n"),
        chunked("a bare CR after a chunk size", "3␍abc\n0\n\n"),
        chunked("a chunk longer than its size", "3\nabcdef\n0\n\n"),
        chunked("a bare LF after a chunk", "3\nabc␊0\n\n"),
        chunked("a bare LF in a chunk extension", "3;a␊b\nabc\n0\n\n"),
        chunked("a NUL in a chunk extension", "3;a\0b\nabc\n0\n\n"),
        chunked("a chunk extension without a semicolon", "3 a\nabc\n0\n\n"),
        chunked("a chunk extension without end", &format!("3;{}\nabc\n0\n\n", "a".repeat(300))),
        chunked(
            "too many chunk extensions",
            &format!("{}0\n\n", "1;a=bcdefghijklmnopqrstuvw\na\n".repeat(700)),
        ),
        chunked("a length among the trailers", "0\nContent-Length: 40\n\n"),
        chunked("a Host among the trailers", "0\nHost: {host}\n\n"),
        chunked("a bare LF after the last chunk", "0\n␊"),
        chunked("a folded trailer", "0\nX-A: b\n c\n\n"),
        chunked("101 trailers", &format!("0\n{}\n", "X-A: b\n".repeat(101))),
        chunked("trailers of more than 32 KiB", &format!("0\nX-A: {}\n\n", "a".repeat(33_000))),
    ];
    let too_large = [
        get("a head of more than 32 KiB", &format!("X-A: {}\n\n", "a".repeat(33_000))),
        get("a header that never ends", &format!("X-A: {}", "a".repeat(40_000))),
        get("a target of more than 32 KiB", &format!("X-B: b\nX-A: {}\n\n", "a".repeat(33_000))),
        get("101 headers", &format!("{}\n", "X-A: b\n".repeat(99))),
    ];
    cases.extend(too_large.map(|case| Case { status: 431, ..case }));
    cases
}

/// The position of the message on its connection.
#[derive(Debug, Clone, Copy)]
enum Position {
    /// It is the first message.
    First,
    /// It follows a complete exchange with this destination.
    Exchange(Destination),
    /// It is in one packet with a valid request for this destination.
    SamePacket(Destination),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Destination {
    Api,
    Instance,
}

/// Returns the bytes of a case for a host.
fn bytes(case: &Case, host: &str, victim: &str) -> Vec<u8> {
    let smuggled = format!("POST /{MARK} HTTP/1.1\nHost: {victim}\nContent-Length: 0\n\n");
    let text = case.bytes.replace("{smuggled}", &smuggled).replace("{host}", host);
    text.replace('\n', "\r\n").replace('␊', "\n").replace('␍', "\r").into_bytes()
}

/// Sends each case at one position on a connection, for both destinations.
async fn all_are_refused(position: Position) {
    let server = Server::with_fake_upstream(&[]).await;
    let instance = server.acquire().await;
    let host =
        |destination| if destination == Destination::Api { "localhost" } else { instance.host.as_str() };
    let good = |destination| {
        format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\n\r\n",
            if destination == Destination::Api { "/health" } else { "/" },
            host(destination)
        )
    };
    let mut wrong = Vec::new();
    for destination in [Destination::Api, Destination::Instance] {
        for case in cases() {
            let attack = bytes(&case, host(destination), &instance.host);
            let mut connection = RawConnection::connect(server.port).await;
            match position {
                Position::First => connection.send(attack).await,
                Position::Exchange(first) => {
                    connection.send(good(first)).await;
                    assert_eq!(connection.read_answer().await.status, 200);
                    connection.send(attack).await;
                }
                Position::SamePacket(first) => {
                    connection.send([good(first).into_bytes(), attack].concat()).await;
                    assert_eq!(connection.read_answer().await.status, 200);
                }
            }
            let Some(head) = connection.try_read_head().await else {
                wrong.push(format!("{}, for {destination:?}: no answer", case.name));
                continue;
            };
            let answer = connection.read_body(head).await;
            let rest = String::from_utf8_lossy(&connection.read_to_end().await).into_owned();
            let json = serde_json::from_slice::<serde_json::Value>(&answer.body).unwrap_or_default();
            if answer.status != case.status
                || !rest.is_empty()
                || answer.header("x-request-id").is_empty()
                || json["code"].as_str().is_none()
                || json["error"].as_str().is_none()
                || json["request_id"] != answer.header("x-request-id")
            {
                wrong.push(format!(
                    "{}, for {destination:?}: {} {} then {rest:?}",
                    case.name,
                    answer.status,
                    &answer.text()[..answer.text().len().min(120)]
                ));
            }
            let seen = get(server.port, &instance.host, "/seen").await.text();
            assert!(!seen.contains(MARK), "{}, for {destination:?}: the app saw {seen}", case.name);
        }
    }
    assert!(wrong.is_empty(), "{position:?}:\n{}", wrong.join("\n"));
}

#[tokio::test]
async fn an_ambiguous_first_message_is_refused() {
    all_are_refused(Position::First).await;
}

#[tokio::test]
async fn an_ambiguous_message_after_a_request_for_the_api_is_refused() {
    all_are_refused(Position::Exchange(Destination::Api)).await;
}

#[tokio::test]
async fn an_ambiguous_message_after_a_request_for_an_instance_is_refused() {
    all_are_refused(Position::Exchange(Destination::Instance)).await;
}

#[tokio::test]
async fn an_ambiguous_message_right_behind_a_request_for_the_api_is_refused() {
    all_are_refused(Position::SamePacket(Destination::Api)).await;
}

#[tokio::test]
async fn an_ambiguous_message_right_behind_a_request_for_an_instance_is_refused() {
    all_are_refused(Position::SamePacket(Destination::Instance)).await;
}

#[tokio::test]
async fn messages_within_the_limits_are_accepted_on_both_sides() {
    let server = Server::with_fake_upstream(&[]).await;
    let instance = server.acquire().await;
    for (host, path) in [("localhost", "/health"), (instance.host.as_str(), "/")] {
        let many = "X-A: b\r\n".repeat(99);
        let long = "a".repeat(32_000);
        for fields in [many, format!("X-A: {long}\r\n")] {
            let mut connection = RawConnection::connect(server.port).await;
            connection.send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n")).await;
            assert_eq!(connection.read_answer().await.status, 200, "{host}");
        }
        // The absolute form of the same host, an upper-case host, a host with a trailing dot, and an old client.
        let upper = host.to_ascii_uppercase();
        for head in [
            format!("GET http://{host}{path} HTTP/1.1\r\nHost: {host}\r\n\r\n"),
            format!("GET {path} HTTP/1.1\r\nHost: {upper}\r\n\r\n"),
            format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", host.replace(":", ".:")),
            format!("\r\nGET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"),
            format!("GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n"),
            format!("GET {path}?a[]=%00&b=a|b HTTP/1.1\r\nHost: {host}\r\n\r\n"),
        ] {
            let mut connection = RawConnection::connect(server.port).await;
            connection.send(&head).await;
            let answer = connection.read_answer().await;
            assert_eq!(answer.status, 200, "{head}");
            assert_eq!(answer.text().contains(&instance.id), host != "localhost", "{head}");
        }
    }
}

#[tokio::test]
async fn a_host_in_another_spelling_never_reaches_the_other_side() {
    let server = Server::with_fake_upstream(&[]).await;
    let instance = server.acquire().await;
    let instance_host = &instance.host;
    for (head, statuses) in [
        ("GET /health HTTP/1.1\r\nHost: %6cocalhost\r\n\r\n".to_owned(), &[400, 421][..]),
        (format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", instance_host.replace('.', "%2e")), &[400, 421]),
        (format!("GET / HTTP/1.1\r\nHost: x.{instance_host}\r\n\r\n"), &[400, 421]),
        (format!("GET / HTTP/1.1\r\nHost: {instance_host}:80\r\n\r\n"), &[400]),
        ("GET / HTTP/1.1\r\nHost: example.test\r\n\r\n".to_owned(), &[421]),
        (format!("GET //{instance_host}/ HTTP/1.1\r\nHost: localhost\r\n\r\n"), &[404]),
        (format!("GET /..%2f..%2f/api/v1/pool/stats HTTP/1.1\r\nHost: {instance_host}\r\n\r\n"), &[200]),
    ] {
        let mut connection = RawConnection::connect(server.port).await;
        connection.send(&head).await;
        let answer = connection.read_answer().await;
        assert!(statuses.contains(&answer.status), "{head}: {} {}", answer.status, answer.text());
        let is_the_apps = answer.status == 200;
        assert_eq!(answer.text() == instance.id, is_the_apps, "{head}");
    }
}
