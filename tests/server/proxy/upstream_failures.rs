//! Apps that fail: the visitor gets an error quickly, and other visitors are not affected.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::support::harness::{
    AcquiredInstance, Answer, RawConnection, Server, eventually, get, h2_get, h2_request, h2c, request,
};

/// What may carry HTTP/1 to an instance. Each fault is tried with both.
const ENGINES: [&str; 2] = ["pingora", "forwarder"];

/// Asserts that a request fails with this status and code, as a page and as JSON, on each kind of connection.
async fn assert_failure(server: &Server, instance: &AcquiredInstance, path: &str, status: u16, code: &str) {
    let page = request(server.port, "GET", &instance.host, path, &[("accept", "text/html,*/*")], "").await;
    assert_eq!(page.status, status, "{path}: {}", page.text());
    assert!(page.header("content-type").starts_with("text/html"));
    assert!(
        page.text().contains("<h1>") && page.text().contains(page.header("x-request-id")),
        "{}",
        page.text()
    );
    assert_eq!(page.header("cache-control"), "no-store");

    let json = |answer: Answer| {
        assert_eq!(
            (answer.status, &answer.json()["code"]),
            (status, &code.into()),
            "{path}: {}",
            answer.text()
        );
        assert_eq!(answer.json()["request_id"], answer.header("x-request-id"));
    };
    json(request(server.port, "GET", &instance.host, path, &[("accept", "application/json")], "").await);
    let mut connection = RawConnection::connect(server.port).await;
    assert_eq!(connection.get("localhost", "/health").await.status, 200);
    connection
        .send(format!("GET {path} HTTP/1.1\r\nHost: {}\r\nAccept: application/json\r\n\r\n", instance.host))
        .await;
    json(connection.read_answer().await);
    let send = h2c(server.port).await;
    let asked =
        http::Request::get(format!("http://{}{path}", instance.host)).header("accept", "application/json");
    json(h2_request(&send, asked.body(()).unwrap()).await.unwrap());
    // The other streams of the connection are not affected.
    assert_eq!(h2_get(&send, "localhost", "/health").await.status, 200);
}

#[tokio::test]
async fn an_app_that_resets_sends_junk_or_stays_silent_gives_an_error() {
    for engine in ENGINES {
        let server = Server::with_fake_upstream(&[("HTTP1_ENGINE", engine)]).await;
        let instance = server.acquire().await;
        assert_failure(&server, &instance, "/reset", 502, "INSTANCE_UNREACHABLE").await;
        assert_failure(&server, &instance, "/junk", 502, "INSTANCE_UNREACHABLE").await;
        let start = Instant::now();
        assert_failure(&server, &instance, "/silent", 504, "INSTANCE_SILENT").await;
        assert!(
            start.elapsed() >= Duration::from_secs(4),
            "each of four requests waits for the second that the app may be silent"
        );
        // The instance works again when its app does.
        assert_eq!(get(server.port, &instance.host, "/").await.text(), instance.id);
    }
}

#[tokio::test]
async fn an_app_that_accepts_no_connection_gives_an_error() {
    for engine in ENGINES {
        let server = Server::with_fake_upstream(&[("HTTP1_ENGINE", engine)]).await;
        let (instance, other) = (server.acquire().await, server.acquire().await);
        assert_eq!(get(server.port, &instance.host, "/stop-listening").await.text(), "done");
        assert_failure(&server, &instance, "/", 502, "INSTANCE_UNREACHABLE").await;
        assert_eq!(get(server.port, &other.host, "/").await.text(), other.id);
    }
}

#[tokio::test]
async fn a_truncated_answer_never_looks_complete() {
    for engine in ENGINES {
        let server = Server::with_fake_upstream(&[("HTTP1_ENGINE", engine)]).await;
        let instance = server.acquire().await;
        for path in ["/cut", "/cut-chunked", "/silent-midway"] {
            for first in [None, Some("localhost")] {
                let mut connection = RawConnection::connect(server.port).await.after(first).await;
                connection.send(format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", instance.host)).await;
                assert_eq!(connection.read_head().await.status, 200);
                let rest = connection.read_to_end().await;
                let rest = String::from_utf8_lossy(&rest);
                assert!(
                    rest.len() < 1_000 && !rest.ends_with("0\r\n\r\n"),
                    "{path} after {first:?}: {rest:?}"
                );
            }
            let send = h2c(server.port).await;
            let request = http::Request::get(format!("http://{}{path}", instance.host)).body(()).unwrap();
            assert!(h2_request(&send, request).await.is_err(), "{path} over h2 looks complete");
            assert_eq!(h2_get(&send, &instance.host, "/").await.text(), instance.id);
        }
    }
}

#[tokio::test]
async fn an_unrequested_answer_of_an_app_reaches_no_visitor() {
    for engine in ENGINES {
        let server = Server::with_fake_upstream(&[("HTTP1_ENGINE", engine)]).await;
        let instance = server.acquire().await;
        for _ in 0..20 {
            let mut connection = RawConnection::connect(server.port).await;
            assert_eq!(connection.get(&instance.host, "/stray").await.text(), "first");
            for _ in 0..3 {
                assert_eq!(get(server.port, &instance.host, "/").await.text(), instance.id);
            }
        }
    }
}

#[tokio::test]
async fn an_upload_to_an_app_that_fails_does_not_hang() {
    for engine in ENGINES {
        let server = Server::with_fake_upstream(&[("HTTP1_ENGINE", engine)]).await;
        let instance = server.acquire().await;
        for path in ["/reset", "/silent", "/early"] {
            for first in [None, Some("localhost")] {
                let mut connection = RawConnection::connect(server.port).await.after(first).await;
                connection.send(format!(
                    "POST {path} HTTP/1.1\r\nHost: {}\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
                    instance.host
                ))
                .await;
                let answer = timeout(Duration::from_secs(5), connection.read_answer())
                    .await
                    .expect("an answer within the limit");
                assert!([502, 504, 413].contains(&answer.status), "{path}: {}", answer.status);
            }
        }
    }
}

#[tokio::test]
async fn an_app_may_be_silent_while_it_receives_an_upload() {
    for engine in ENGINES {
        let server = Server::with_fake_upstream(&[("HTTP1_ENGINE", engine)]).await;
        let instance = server.acquire().await;
        for first in [None, Some("localhost")] {
            let mut connection = RawConnection::connect(server.port).await.after(first).await;
            connection
                .send(format!("POST / HTTP/1.1\r\nHost: {}\r\nContent-Length: 6\r\n\r\n", instance.host))
                .await;
            let mut pieces = tokio::time::interval(Duration::from_millis(400));
            for _ in 0..6 {
                pieces.tick().await;
                connection.send("a").await;
            }
            assert_eq!(connection.read_answer().await.text(), instance.id, "after {first:?}");
        }
    }
}

#[tokio::test]
async fn a_kept_connection_never_serves_the_next_instance_at_its_address() {
    // Four ports for twelve instances, below the ports of outgoing connections and most likely unused by other servers.
    let first = 12_000 + std::process::id() % 2_000 * 4;
    let (start, end) = (first.to_string(), (first + 3).to_string());
    let server = Server::start(&[
        ("POOL_TARGET_SIZE", "1"),
        ("POOL_MAX_SIZE", "2"),
        ("POOL_REPLENISH_INTERVAL", "100ms"),
        ("CONTAINER_PORT_RANGE_START", &start),
        ("CONTAINER_PORT_RANGE_END", &end),
    ])
    .await;
    let mut visitors = Vec::new();
    for _ in 0..4 {
        visitors.push(RawConnection::connect(server.port).await);
    }
    let send = h2c(server.port).await;
    let mut gone: Option<AcquiredInstance> = None;
    for _ in 0..12 {
        let instance = eventually("an instance is ready", async || {
            let answer = server.call("POST", "/api/v1/demo/acquire", "").await;
            (answer.status == 200).then(|| AcquiredInstance::from_json(&answer.json()))
        })
        .await;
        for visitor in &mut visitors {
            let answer = visitor.get(&instance.host, "/whoami").await;
            assert_eq!((answer.status, &answer.json()["id"]), (200, &instance.id.clone().into()));
            if let Some(gone) = &gone {
                assert_eq!(visitor.get(&gone.host, "/whoami").await.status, 404);
            }
        }
        assert_eq!(h2_get(&send, &instance.host, "/whoami").await.json()["id"], instance.id.as_str());
        assert_eq!(server.call("DELETE", &format!("/api/v1/demo/{}", instance.id), "").await.status, 200);
        gone = Some(instance);
    }
}
