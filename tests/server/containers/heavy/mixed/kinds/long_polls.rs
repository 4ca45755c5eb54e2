//! Requests that the app answers late.

use super::super::apps::Apps;
use super::super::random::Random;

async fn poll_with(apps: &Apps, number: u64, version: &str, delay: u64) {
    let (token, named) = (Random::new(number).token(), &apps.red[number as usize % 2]);
    let mut connection = apps.connect().await;
    let path = format!("/poll?delay={delay}&token={token}");
    connection.send(format!("GET {path} HTTP/{version}\r\nHost: {}\r\n\r\n", named.host)).await;
    let answer = connection.read_answer().await;
    assert_eq!((answer.status, answer.text()), (200, format!("polled {token} {}", named.name)));
}

pub(super) async fn poll(apps: &Apps, number: u64) {
    poll_with(apps, number, "1.1", 1500).await;
}

pub(super) async fn poll_by_http10(apps: &Apps, number: u64) {
    poll_with(apps, number, "1.0", 800).await;
}
