//! Uploads over HTTP/2 without a length, which are forwarded to the app in chunks.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use h2::client::SendRequest;
use http::Request;
use tokio::time::timeout;

use crate::support::harness::{AcquiredInstance, Answer, Server, get, h2_collect, h2_get, h2c};

const UPLOADS: usize = 1_000;
/// The number of connections, each of which stands for another visitor. Their requests share the connections to the
/// app.
const VISITORS: usize = 5;

/// Returns the DATA frames of upload `n`.
fn pieces(n: usize) -> Vec<Bytes> {
    let sizes: &[usize] = [&[][..], &[1], &[5, 7], &[16_384], &[100, 0, 100], &[9_000, 9_000]][n % 6];
    sizes.iter().enumerate().map(|(i, size)| Bytes::from(vec![(n + i) as u8; *size])).collect()
}

/// Uploads without a content-length and ends the body with an empty DATA frame.
async fn upload(send: &SendRequest<Bytes>, instance: &AcquiredInstance, n: usize) {
    let mut send = send.clone().ready().await.unwrap();
    let request = Request::post(format!("http://{}/upload?{n}", instance.host)).body(()).unwrap();
    let (answer, mut body) = send.send_request(request, false).unwrap();
    let pieces = pieces(n);
    for piece in &pieces {
        body.send_data(piece.clone(), false).unwrap();
        if n.is_multiple_of(2) {
            // Lets the frame be sent alone.
            tokio::task::yield_now().await;
        }
    }
    body.send_data(Bytes::new(), true).unwrap();
    let answer: Answer = h2_collect(answer.await.unwrap()).await.unwrap();
    assert_eq!(answer.status, 200, "upload {n}: {}", answer.text());
    let all = pieces.concat();
    let sum = answer.json();
    assert_eq!(sum["bytes"], all.len(), "upload {n}");
    assert_eq!(sum["xor"], all.iter().fold(0, |sum, byte| sum ^ byte), "upload {n}");
}

#[tokio::test]
async fn of_a_thousand_uploads_without_a_length_none_disturbs_another_request() {
    let server = Server::start(&[]).await;
    let instance = server.acquire().await;
    let mut visitors = Vec::new();
    for _ in 0..VISITORS {
        visitors.push(h2c(server.port).await);
    }
    let asked = (0..UPLOADS).map(async |n| {
        let visitor = &visitors[n % VISITORS];
        upload(visitor, &instance, n).await;
        // Another visitor most likely uses the connection to the app that the upload has just left.
        let seen = h2_get(&visitors[(n + 1) % VISITORS], &instance.host, &format!("/whoami?{n}")).await;
        assert_eq!(seen.status, 200, "the request after upload {n}: {}", seen.text());
        assert_eq!(seen.json()["query"], n.to_string());
        if n.is_multiple_of(10) {
            assert_eq!(get(server.port, &instance.host, "/health").await.text(), "ok");
        }
    });
    let all = futures_util::stream::iter(asked).buffer_unordered(32).collect::<Vec<()>>();
    timeout(Duration::from_secs(60), all).await.expect("every answer");
}
