//! Clients that close their side of the connection after the request, as `nc -N` and some health checks do.

use crate::support::harness::RawConnection;

use super::super::apps::Apps;
use super::super::random::{NUMBERS_LENGTH, Random, numbers, sha256};

pub(super) async fn get(apps: &Apps, number: u64) {
    let mut random = Random::new(number);
    let from = random.below(NUMBERS_LENGTH - 20_000);
    let host = &apps.nginx[random.below(2)].host;
    let range = format!("Range: bytes={from}-{}", from + 19_999);
    let mut connection = apps.connect().await;
    connection.send(format!("GET /numbers/all.txt HTTP/1.1\r\nHost: {host}\r\n{range}\r\n\r\n")).await;
    connection.shutdown_write().await;
    let answer = connection.read_answer().await;
    assert_eq!(answer.status, 206, "{}", answer.text());
    assert_eq!(answer.body, numbers(from, 20_000));
    connection.assert_closed().await;
}

pub(super) async fn post(apps: &Apps, number: u64) {
    let mut random = Random::new(number);
    let length = random.below(100_000);
    let body = random.bytes(length);
    let host = &apps.red[random.below(2)].host;
    let mut connection = apps.connect().await;
    let head = format!(
        "POST /sum HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/octet-stream\r\nContent-Length: {length}\r\n\r\n"
    );
    connection.send(head).await;
    connection.send(&body).await;
    connection.shutdown_write().await;
    expect_sum(&mut connection, &body).await;
}

async fn expect_sum(connection: &mut RawConnection, body: &[u8]) {
    let answer = connection.read_answer().await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.text(), format!("{} {}", body.len(), sha256(body)));
    connection.assert_closed().await;
}

pub(super) async fn api(apps: &Apps, _number: u64) {
    let mut connection = apps.connect().await;
    connection.send("GET /api/v1/pool/stats HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    connection.shutdown_write().await;
    let answer = connection.read_answer().await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.json()["templates"].as_array().unwrap().len(), 5);
    connection.assert_closed().await;
}
