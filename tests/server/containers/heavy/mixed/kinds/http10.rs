//! Clients of HTTP/1.0, which know no chunks and no interim answers.

use crate::support::harness::{Answer, RawConnection};

use super::super::apps::Apps;
use super::super::random::Random;

/// Reads an answer, and asserts that it has nothing that HTTP/1.0 does not know.
async fn read(connection: &mut RawConnection) -> Answer {
    let head = connection.read_head().await;
    assert!(head.status >= 200, "no interim answer: {head:?}");
    assert!(!head.headers.contains_key("transfer-encoding"), "{head:?}");
    assert!(!head.headers.contains_key("trailer"), "{head:?}");
    connection.read_body(head).await
}

pub(super) async fn get(apps: &Apps, number: u64) {
    let host = &apps.nginx[number as usize % 2].host;
    let mut connection = apps.connect().await;
    connection.send(format!("GET /numbers/ HTTP/1.0\r\nHost: {host}\r\n\r\n")).await;
    let answer = read(&mut connection).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, "text/html"));
    let text = "<!doctype html><title>nginx of your own</title><p>Numbers of your own.</p>\n";
    assert_eq!(answer.text(), text);
    connection.assert_closed().await;
}

/// The app answers in chunks, so the end of the connection is the end of the answer.
pub(super) async fn post(apps: &Apps, number: u64) {
    let mut random = Random::new(number);
    let length = 1 + random.below(60_000);
    let body = random.bytes(length);
    let host = &apps.red[random.below(2)].host;
    let mut connection = apps.connect().await;
    let head = format!(
        "POST /echo HTTP/1.0\r\nHost: {host}\r\nContent-Type: application/octet-stream\r\nContent-Length: {length}\r\n\r\n"
    );
    connection.send(head).await;
    connection.send(&body).await;
    let answer = read(&mut connection).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("content-length"), "", "its length is unknown when it begins");
    assert_eq!(answer.body, body);
    connection.assert_closed().await;
}

pub(super) async fn keep_alive(apps: &Apps, number: u64) {
    let mut connection = apps.connect().await;
    for at in [number, number + 1] {
        let named = &apps.red[at as usize % 2];
        let request = format!("GET /who HTTP/1.0\r\nHost: {}\r\nConnection: keep-alive\r\n\r\n", named.host);
        if connection.try_send(request).await.is_err() {
            return;
        }
        let answer = read(&mut connection).await;
        assert_eq!((answer.status, answer.text()), (200, named.name.clone()));
        if !answer.header("connection").eq_ignore_ascii_case("keep-alive") {
            // The server may close it.
            return connection.assert_closed().await;
        }
    }
}

/// What load balancers send: no `Host`.
pub(super) async fn health_check(apps: &Apps, _number: u64) {
    let mut connection = apps.connect().await;
    connection.send("GET /health HTTP/1.0\r\n\r\n").await;
    let answer = read(&mut connection).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.json()["status"], "ok", "{}", answer.text());
    connection.assert_closed().await;
}
