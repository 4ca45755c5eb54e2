//! How long an app may be silent: the type of its answer decides. The fake upstream may be silent for one second.

use std::time::Duration;

use tokio::time::Instant;

use crate::support::harness::{AcquiredInstance, RawConnection, Server, get, h2_request, h2c, request};

/// Answers of three pieces with a pause of 1.5 seconds between two of them, which may be that slow.
const STREAMS: [&str; 6] =
    ["/slow-events", "/slow-lines", "/slow-frames", "/slow-grpc", "/slow-sequence", "/slow-unbuffered"];

/// Returns the body of an answer, and whether it is whole.
async fn over_http1(
    server: &Server,
    instance: &AcquiredInstance,
    first: Option<&str>,
    path: &str,
) -> (Vec<u8>, bool) {
    let mut connection = RawConnection::connect(server.port).await.after(first).await;
    // Nothing in the request says that its answer is a stream.
    connection
        .send(format!(
            "POST {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{{}}",
            instance.host
        ))
        .await;
    assert_eq!(connection.read_head().await.status, 200);
    let rest = connection.read_to_end().await;
    let is_whole = rest.ends_with(b"0\r\n\r\n");
    (rest, is_whole)
}

#[tokio::test]
async fn a_stream_may_be_silent_whatever_the_request_asked_for() {
    let server = Server::with_fake_upstream(&[]).await;
    let instance = server.acquire().await;
    let (server, instance) = (&server, &instance);
    let asks = STREAMS.iter().flat_map(|path| {
        [None, Some("localhost")].into_iter().map(move |first| async move {
            let (body, is_whole) = over_http1(server, instance, first, path).await;
            let text = String::from_utf8_lossy(&body);
            assert!(is_whole && text.contains("piece 3"), "{path} after {first:?}: {text}");
        })
    });
    futures_util::future::join_all(asks).await;
    let send = h2c(server.port).await;
    let asks = STREAMS.iter().map(|path| {
        let send = send.clone();
        async move {
            let request = http::Request::get(format!("http://{}{path}", instance.host)).body(()).unwrap();
            let answer = h2_request(&send, request).await.unwrap();
            assert!(answer.text().contains("piece 3"), "{path}: {}", answer.text());
        }
    });
    futures_util::future::join_all(asks).await;
}

#[tokio::test]
async fn an_ordinary_answer_that_falls_silent_is_cut_and_never_looks_whole() {
    let server = Server::with_fake_upstream(&[]).await;
    let instance = server.acquire().await;
    for path in ["/slow-plain", "/slow-plain-until-closed"] {
        for first in [None, Some("localhost")] {
            let start = Instant::now();
            let (body, is_whole) = over_http1(&server, &instance, first, path).await;
            let text = String::from_utf8_lossy(&body);
            assert!(!is_whole && text.contains("piece 1") && !text.contains("piece 2"), "{path}: {text}");
            assert!(start.elapsed() >= Duration::from_secs(1), "{path} {first:?}: {:?}", start.elapsed());
        }
        let send = h2c(server.port).await;
        let request = http::Request::get(format!("http://{}{path}", instance.host)).body(()).unwrap();
        assert!(h2_request(&send, request).await.is_err(), "{path} over h2 looks whole");
    }
    // The next visitor gets a connection of its own.
    assert_eq!(get(server.port, &instance.host, "/").await.text(), instance.id);
}

#[tokio::test]
async fn a_request_that_meets_silence_is_not_sent_again() {
    let server = Server::with_fake_upstream(&[]).await;
    let instance = server.acquire().await;
    // The connection to the app is kept, so that Pingora would take its end for one that was closed before.
    for _ in 0..3 {
        assert_eq!(get(server.port, &instance.host, "/").await.status, 200);
    }
    let json = [("accept", "application/json")];
    let answer = request(server.port, "GET", &instance.host, "/silent", &json, "").await;
    answer.assert_error(504, "INSTANCE_SILENT");
    let seen = get(server.port, &instance.host, "/seen").await.text();
    assert_eq!(seen.matches("GET /silent ").count(), 1, "{seen}");
}

#[tokio::test]
async fn a_client_that_reads_slowly_gets_the_whole_answer() {
    const BYTES: usize = 8_000_000;
    let server = Server::with_fake_upstream(&[]).await;
    let instance = server.acquire().await;
    for path in ["/large", "/large-until-closed"] {
        for first in [None, Some("localhost")] {
            let mut connection = RawConnection::connect(server.port).await.after(first).await;
            connection.send(format!("GET {path} HTTP/1.0\r\nHost: {}\r\n\r\n", instance.host)).await;
            assert_eq!(connection.read_head().await.status, 200);
            let mut got = connection.read_bytes(10_000).await.len();
            // Longer than the app may be silent, which is not the one that pauses.
            tokio::time::sleep(Duration::from_millis(2_500)).await;
            got += connection.read_to_end().await.len();
            assert_eq!(got, BYTES, "{path} after {first:?}");
        }
    }
}
