//! Chunks in both directions.

use super::super::apps::Apps;
use super::super::random::Random;
use super::uploads::in_frames;

pub(super) async fn both_ways(apps: &Apps, number: u64) {
    let mut random = Random::new(number);
    let length = 1 + random.below(100_000);
    let body = random.bytes(length);
    let mut connection = apps.connect().await;
    let host = &apps.red[random.below(2)].host;
    connection
        .send(format!(
            "POST /echo HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/octet-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        ))
        .await;
    for piece in in_frames(&body, &mut random).chunks(9_000) {
        connection.send(piece).await;
    }
    let answer = connection.read_answer().await;
    assert_eq!((answer.status, answer.header("transfer-encoding")), (200, "chunked"), "{}", answer.text());
    assert_eq!(answer.body, body);
}
