//! The HTTP contract: requests that are too large or arrive too slowly.

use crate::support::harness::{Server, send_raw};

async fn start() -> Server {
    Server::start(&[("POOL_TARGET_SIZE", "1")]).await
}

#[tokio::test]
async fn a_body_of_64_kib_is_read_and_a_larger_one_refused() {
    let server = start().await;
    let body = |bytes: usize| format!("{{}}{}", " ".repeat(bytes - 2));
    assert_eq!(server.call("POST", "/api/v1/demo/acquire", &body(65_536)).await.status, 200);
    let answer = server.call("POST", "/api/v1/demo/acquire", &body(65_537)).await;
    answer.assert_error(413, "TOO_LARGE");
    // A body without a content-length.
    let mut bytes =
        b"POST /api/v1/demo/acquire HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
            .to_vec();
    bytes.extend_from_slice(format!("10001\r\n{}\r\n0\r\n\r\n", body(65_537)).as_bytes());
    let answer = send_raw(server.port, &bytes).await;
    assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("TOO_LARGE"), "{answer}");
}

#[tokio::test]
async fn headers_beyond_the_limits_are_refused() {
    let server = start().await;
    let large = format!("GET /health HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(33 * 1024));
    let many = format!("GET /health HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "X: y\r\n".repeat(101));
    for bytes in [large, many] {
        let answer = send_raw(server.port, bytes.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
        assert!(
            answer.contains(r#""code":"HEADERS_TOO_LARGE""#) && answer.contains("request_id"),
            "{answer}"
        );
    }
    let most = format!(
        "GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{}\r\n",
        "X: y\r\n".repeat(98)
    );
    assert!(send_raw(server.port, most.as_bytes()).await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn a_body_that_does_not_arrive_times_out() {
    let server = Server::start(&[("SERVER_READ_TIMEOUT", "1s")]).await;
    let head = "POST /api/v1/demo/acquire HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{";
    let answer = send_raw(server.port, head.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(answer.contains(r#""code":"REQUEST_TIMEOUT""#), "{answer}");
    assert_eq!(server.stats().await["ready"], 2);
}

#[tokio::test]
async fn a_connection_over_the_limit_gets_an_error_and_is_closed() {
    use tokio::io::AsyncReadExt;
    let server = Server::start_with(&[("MAX_CONNECTIONS", "2")], &[]).await;
    let connect = async || tokio::net::TcpStream::connect(("127.0.0.1", server.port)).await.unwrap();
    let held = [connect().await, connect().await];
    let mut answer = String::new();
    let mut third = connect().await;
    tokio::time::timeout(crate::support::harness::MAX_WAIT, third.read_to_string(&mut answer))
        .await
        .unwrap()
        .unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains(r#""code":"TOO_MANY_CONNECTIONS""#), "{answer}");
    assert!(answer.to_ascii_lowercase().contains("\r\nretry-after: 1\r\n"), "{answer}");
    drop(held);
    crate::support::harness::eventually("a connection is accepted again", async || {
        let answer =
            send_raw(server.port, b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                .await;
        answer.starts_with("HTTP/1.1 200 ").then_some(())
    })
    .await;
}
