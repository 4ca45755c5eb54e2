//! Answers of an app that two readers could read in two ways reach no client of the forwarder, and no part of an answer
//! is ever taken for the answer to another request.

use std::time::Duration;

use tokio::time::timeout;

use crate::support::harness::{AcquiredInstance, RawConnection, Server, eventually, get};

/// An answer that no app should send after the one that was asked for.
const SMUGGLED: &str = "HTTP/1.1 200 OK\nContent-Length: 8\n\nsmuggled";

/// Answers, in which each LF stands for CR LF, `␊` for a bare LF and `␍` for a bare CR.
const REFUSED: [(&str, &str); 24] = [
    (
        "a length beside an encoding",
        "HTTP/1.1 200 OK\nContent-Length: 5\nTransfer-Encoding: chunked\n\n0\n\n",
    ),
    (
        "an encoding beside a length",
        "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\nContent-Length: 5\n\n0\n\n",
    ),
    ("two lengths", "HTTP/1.1 200 OK\nContent-Length: 0\nContent-Length: 50\n\n"),
    ("the same length twice", "HTTP/1.1 200 OK\nContent-Length: 0\nContent-Length: 0\n\n"),
    ("a list of lengths", "HTTP/1.1 200 OK\nContent-Length: 0, 0\n\n"),
    ("a length with a sign", "HTTP/1.1 200 OK\nContent-Length: +0\n\n"),
    ("a length in hexadecimal", "HTTP/1.1 200 OK\nContent-Length: 0x0\n\n"),
    ("a length of more than 64 bits", "HTTP/1.1 200 OK\nContent-Length: 18446744073709551616\n\n"),
    ("an unknown encoding", "HTTP/1.1 200 OK\nTransfer-Encoding: xchunked\n\n0\n\n"),
    ("chunked twice", "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\nTransfer-Encoding: chunked\n\n0\n\n"),
    ("a list of encodings", "HTTP/1.1 200 OK\nTransfer-Encoding: gzip, chunked\n\n0\n\n"),
    ("an encoding on HTTP/1.0", "HTTP/1.0 200 OK\nTransfer-Encoding: chunked\n\n0\n\n"),
    ("a blank before the colon", "HTTP/1.1 200 OK\nContent-Length : 0\n\n"),
    ("a folded length", "HTTP/1.1 200 OK\nContent-Length:\n 0\n\n"),
    ("a bare LF that hides a header", "HTTP/1.1 200 OK\nX: a␊Content-Length: 0\n\n"),
    ("bare LFs only", "HTTP/1.1 200 OK␊Content-Length: 0␊␊"),
    ("a bare CR", "HTTP/1.1 200 OK\nX: a␍b\nContent-Length: 0\n\n"),
    ("a NUL", "HTTP/1.1 200 OK\nX: a\0\nContent-Length: 0\n\n"),
    ("a header without a colon", "HTTP/1.1 200 OK\nno colon\nContent-Length: 0\n\n"),
    ("a status of two digits", "HTTP/1.1 20 OK\nContent-Length: 0\n\n"),
    ("another version", "HTTP/1.2 200 OK\nContent-Length: 0\n\n"),
    ("a switch of protocols that was not asked for", "HTTP/1.1 101 X\nUpgrade: x\nConnection: upgrade\n\n"),
    ("a chunk size that is none", "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\nx\n"),
    ("a bad interim answer", "HTTP/1.1 103 X\nX: a␊\n\nHTTP/1.1 200 OK\nContent-Length: 0\n\n"),
];

/// Answers that begin well and then break the framing of their body.
const CUT: [(&str, &str); 5] = [
    ("a chunk longer than its size", "3\nabcdef\n0\n\n"),
    ("a bare LF after a chunk", "3\nabc␊0\n\n"),
    ("a chunk size with a sign", "3\nabc\n-1\n"),
    ("a length among the trailers", "3\nabc\n0\nContent-Length: 50\n\n"),
    ("a bare LF after the last chunk", "3\nabc\n0\n␊"),
];

fn encoded(text: &str) -> String {
    hex::encode(text.replace('\n', "\r\n").replace('␊', "\n").replace('␍', "\r"))
}

/// Sends a request on a connection of its own and reads until the server closes it.
async fn ask(server: &Server, instance: &AcquiredInstance, path: &str) -> String {
    let mut connection = RawConnection::connect(server.port).await;
    connection.send(format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", instance.host)).await;
    let all = timeout(Duration::from_secs(10), connection.read_to_end()).await.expect("the connection ends");
    String::from_utf8_lossy(&all).into_owned()
}

async fn hostile_server() -> (Server, AcquiredInstance) {
    let server = Server::with_fake_upstream(&[("HTTP1_ENGINE", "forwarder")]).await;
    let instance = server.acquire().await;
    (server, instance)
}

#[tokio::test]
async fn an_ambiguous_answer_is_refused_and_what_follows_it_reaches_no_client() {
    let (server, instance) = hostile_server().await;
    for (name, answer) in REFUSED {
        let path = format!("/raw-{}", encoded(&format!("{answer}{SMUGGLED}")));
        let got = ask(&server, &instance, &path).await;
        assert!(got.starts_with("HTTP/1.1 502 "), "{name}: {got}");
        assert!(!got.contains("smuggled"), "{name}: {got}");
        assert_eq!(get(server.port, &instance.host, "/").await.text(), instance.id, "{name}");
    }
}

#[tokio::test]
async fn an_answer_whose_body_breaks_its_framing_never_looks_whole() {
    let (server, instance) = hostile_server().await;
    for (name, body) in CUT {
        // The piece with the fault comes after the head was sent, or together with it.
        let answer = format!("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n{body}{SMUGGLED}");
        let got = ask(&server, &instance, &format!("/raw-{}", encoded(&answer))).await;
        assert!(got.starts_with("HTTP/1.1 502 ") || !got.ends_with("0\r\n\r\n"), "{name}: {got}");
        assert!(!got.contains("smuggled"), "{name}: {got}");
        assert_eq!(get(server.port, &instance.host, "/").await.text(), instance.id, "{name}");
    }
}

#[tokio::test]
async fn a_body_that_no_answer_of_its_kind_has_is_not_taken_for_the_next_answer() {
    let (server, instance) = hostile_server().await;
    for (method, answer, status) in [
        ("GET", "HTTP/1.1 204 No Content\nContent-Length: 46\n\n", 204),
        ("GET", "HTTP/1.1 204 No Content\nTransfer-Encoding: chunked\n\n", 204),
        ("GET", "HTTP/1.1 204 No Content\n\n", 204),
        ("GET", "HTTP/1.1 304 Not Modified\nContent-Length: 46\n\n", 304),
        ("HEAD", "HTTP/1.1 200 OK\nContent-Length: 46\n\n", 200),
        ("GET", "HTTP/1.1 200 OK\nContent-Length: 0\n\n", 200),
    ] {
        for _ in 0..5 {
            let mut connection = RawConnection::connect(server.port).await;
            let path = format!("/raw-{}", encoded(&format!("{answer}{SMUGGLED}")));
            connection.send(format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n\r\n", instance.host)).await;
            assert_eq!(connection.read_head().await.status, status, "{answer}");
            // The connection is in order, and so is that to the app.
            for _ in 0..3 {
                assert_eq!(connection.get(&instance.host, "/").await.text(), instance.id, "{answer}");
            }
        }
    }
}

#[tokio::test]
async fn interim_answers_come_in_any_number_and_a_head_that_never_ends_is_refused() {
    let (server, instance) = hostile_server().await;
    let hints = "HTTP/1.1 103 Early Hints\nLink: </a>\nContent-Length: 5\n\n".repeat(40);
    let path = format!("/raw-{}", encoded(&format!("{hints}HTTP/1.1 200 OK\nContent-Length: 2\n\nok")));
    let mut connection = RawConnection::connect(server.port).await;
    connection.send(format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", instance.host)).await;
    for _ in 0..40 {
        let head = connection.read_head().await;
        assert_eq!((head.status, head.headers.contains_key("content-length")), (103, false));
    }
    assert_eq!(connection.read_answer().await.text(), "ok");
    assert_eq!(connection.get(&instance.host, "/").await.text(), instance.id);
    assert!(ask(&server, &instance, "/endless-head").await.starts_with("HTTP/1.1 502 "));
}

#[tokio::test]
async fn a_request_that_meets_an_ended_socket_is_sent_again_once_if_it_may_be() {
    let (server, instance) = hostile_server().await;
    let answer = encoded("HTTP/1.1 200 OK\nContent-Length: 2\n\nok");
    for (method, again) in [("GET", true), ("PUT", true), ("POST", false)] {
        // The app closes the connection right after its answer, without saying so.
        for _ in 0..20 {
            let mut connection = RawConnection::connect(server.port).await;
            connection
                .send(format!("GET /raw-close-{answer} HTTP/1.1\r\nHost: {}\r\n\r\n", instance.host))
                .await;
            assert_eq!(connection.read_answer().await.text(), "ok");
            connection
                .send(format!(
                    "{method} / HTTP/1.1\r\nHost: {}\r\nContent-Length: 2\r\n\r\nab",
                    instance.host
                ))
                .await;
            let status = connection.read_answer().await.status;
            assert!(status == 200 || status == 502 && !again, "{method}: {status}");
        }
    }
    // A new connection that ends is no reason to try again.
    eventually("no kept socket remains", async || {
        (get(server.port, &instance.host, "/reset").await.status == 502).then_some(())
    })
    .await;
    let seen = get(server.port, &instance.host, "/seen").await.text();
    assert!(seen.matches("GET /reset ").count() <= 2, "{seen}");
}
