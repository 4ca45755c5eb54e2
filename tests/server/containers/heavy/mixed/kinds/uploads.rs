//! Bodies of requests: with a length, in chunks, after `100 Continue`, and as a file that is read again.

use super::super::apps::Apps;
use super::super::random::{Random, sha256};

const TYPE: &str = "Content-Type: application/octet-stream";

/// Returns a host of Node-RED and a body of up to 200 kB.
fn upload(apps: &Apps, number: u64) -> (&str, Vec<u8>) {
    let mut random = Random::new(number);
    let length = random.below(200_000);
    (&apps.red[random.below(2)].host, random.bytes(length))
}

fn sum(body: &[u8]) -> (u16, String) {
    (200, format!("{} {}", body.len(), sha256(body)))
}

pub(super) async fn with_length(apps: &Apps, number: u64) {
    let (host, body) = upload(apps, number);
    let mut connection = apps.connect().await;
    let head =
        format!("POST /sum HTTP/1.1\r\nHost: {host}\r\n{TYPE}\r\nContent-Length: {}\r\n\r\n", body.len());
    connection.send(head).await;
    connection.send(&body).await;
    let answer = connection.read_answer().await;
    assert_eq!((answer.status, answer.text()), sum(&body));
}

/// Frames a body in chunks of different sizes.
pub(super) fn in_frames(body: &[u8], random: &mut Random) -> Vec<u8> {
    let (mut framed, mut rest) = (Vec::new(), body);
    while !rest.is_empty() {
        let (piece, after) = rest.split_at((1 + random.below(30_000)).min(rest.len()));
        framed.extend(format!("{:x}\r\n", piece.len()).into_bytes());
        framed.extend_from_slice(piece);
        framed.extend_from_slice(b"\r\n");
        rest = after;
    }
    framed.extend_from_slice(b"0\r\n\r\n");
    framed
}

pub(super) async fn in_chunks(apps: &Apps, number: u64) {
    let (host, body) = upload(apps, number);
    let mut connection = apps.connect().await;
    let head = format!("POST /sum HTTP/1.1\r\nHost: {host}\r\n{TYPE}\r\nTransfer-Encoding: chunked\r\n\r\n");
    connection.send(head).await;
    for piece in in_frames(&body, &mut Random::new(!number)).chunks(17_000) {
        connection.send(piece).await;
    }
    let answer = connection.read_answer().await;
    assert_eq!((answer.status, answer.text()), sum(&body));
}

pub(super) async fn after_continue(apps: &Apps, number: u64) {
    let (host, body) = upload(apps, number);
    let mut connection = apps.connect().await;
    let length = body.len();
    connection
        .send(format!(
            "POST /sum HTTP/1.1\r\nHost: {host}\r\n{TYPE}\r\nContent-Length: {length}\r\nExpect: 100-continue\r\n\r\n"
        ))
        .await;
    assert_eq!(connection.read_head().await.status, 100);
    connection.send(&body).await;
    let answer = connection.read_answer().await;
    assert_eq!((answer.status, answer.text()), sum(&body));
}

pub(super) async fn there_and_back(apps: &Apps, number: u64) {
    let mut random = Random::new(number);
    let length = 1 + random.below(100_000);
    let (body, host) = (random.bytes(length), &apps.nginx[random.below(2)].host);
    let path = format!("/uploads/file-{number}");
    let mut connection = apps.connect().await;
    connection.send(format!("PUT {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n\r\n")).await;
    connection.send(&body).await;
    let put = connection.read_answer().await;
    assert_eq!(put.status, 201, "{}", put.text());
    assert_eq!(put.header("location"), format!("http://{host}{path}"), "the public port");
    let got = connection.get(host, &path).await;
    assert_eq!(got.status, 200, "{}", got.text());
    assert_eq!(got.body, body);
    connection.send(format!("DELETE {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
    let deleted = connection.read_answer().await;
    assert_eq!((deleted.status, deleted.body.len()), (204, 0));
    assert_eq!(connection.get(host, &path).await.status, 404);
}
