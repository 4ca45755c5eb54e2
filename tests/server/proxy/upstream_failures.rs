//! Apps that fail: the visitor is told, plainly and soon, and nobody else is harmed.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::support::harness::{Answer, Demo, Server, Wire, eventually, get, h2_ask, h2_get, h2c, request};

/// The same failure as a page and as JSON, on each kind of connection.
async fn told(server: &Server, demo: &Demo, path: &str, status: u16, code: &str) {
    let page = request(server.port, "GET", &demo.host, path, &[("accept", "text/html,*/*")], "").await;
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
    json(request(server.port, "GET", &demo.host, path, &[("accept", "application/json")], "").await);
    let mut wire = Wire::connect(server.port).await;
    assert_eq!(wire.get("localhost", "/health").await.status, 200);
    wire.send(format!("GET {path} HTTP/1.1\r\nHost: {}\r\nAccept: application/json\r\n\r\n", demo.host))
        .await;
    json(wire.answer().await);
    let send = h2c(server.port).await;
    let asked =
        http::Request::get(format!("http://{}{path}", demo.host)).header("accept", "application/json");
    json(h2_ask(&send, asked.body(()).unwrap()).await.unwrap());
    // The other streams of the connection are not concerned.
    assert_eq!(h2_get(&send, "localhost", "/health").await.status, 200);
}

#[tokio::test]
async fn an_app_that_breaks_off_talks_nonsense_or_stays_silent_is_told_of() {
    let server = Server::with_stand_in(&[]).await;
    let demo = server.acquire().await;
    told(&server, &demo, "/reset", 502, "INSTANCE_UNREACHABLE").await;
    told(&server, &demo, "/junk", 502, "INSTANCE_UNREACHABLE").await;
    let start = Instant::now();
    told(&server, &demo, "/silent", 504, "INSTANCE_SILENT").await;
    assert!(start.elapsed() >= Duration::from_secs(4), "four times the second that it may be silent");
    // It recovers with its app.
    assert_eq!(get(server.port, &demo.host, "/").await.text(), demo.id);
}

#[tokio::test]
async fn an_app_that_nobody_can_connect_to_any_more_is_told_of() {
    let server = Server::with_stand_in(&[]).await;
    let (demo, other) = (server.acquire().await, server.acquire().await);
    assert_eq!(get(server.port, &demo.host, "/deaf").await.text(), "deaf");
    told(&server, &demo, "/", 502, "INSTANCE_UNREACHABLE").await;
    assert_eq!(get(server.port, &other.host, "/").await.text(), other.id);
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_never_taken_for_a_whole_one() {
    let server = Server::with_stand_in(&[]).await;
    let demo = server.acquire().await;
    for path in ["/cut", "/cut-chunked", "/silent-midway"] {
        for first in [None, Some("localhost")] {
            let mut wire = Wire::connect(server.port).await;
            if let Some(first) = first {
                assert_eq!(wire.get(first, "/health").await.status, 200);
            }
            wire.send(format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", demo.host)).await;
            assert_eq!(wire.head().await.status, 200);
            let rest = wire.rest().await;
            let rest = String::from_utf8_lossy(&rest);
            assert!(rest.len() < 1_000 && !rest.ends_with("0\r\n\r\n"), "{path} after {first:?}: {rest:?}");
        }
        let send = h2c(server.port).await;
        let request = http::Request::get(format!("http://{}{path}", demo.host)).body(()).unwrap();
        assert!(h2_ask(&send, request).await.is_err(), "{path} over h2 looks whole");
        assert_eq!(h2_get(&send, &demo.host, "/").await.text(), demo.id);
    }
}

#[tokio::test]
async fn what_an_app_says_without_being_asked_is_no_ones_answer() {
    let server = Server::with_stand_in(&[]).await;
    let demo = server.acquire().await;
    for _ in 0..20 {
        let mut wire = Wire::connect(server.port).await;
        assert_eq!(wire.get(&demo.host, "/stray").await.text(), "first");
        for _ in 0..3 {
            assert_eq!(get(server.port, &demo.host, "/").await.text(), demo.id);
        }
    }
}

#[tokio::test]
async fn an_upload_to_an_app_that_breaks_off_does_not_hang() {
    let server = Server::with_stand_in(&[]).await;
    let demo = server.acquire().await;
    for path in ["/reset", "/silent", "/early"] {
        for first in [None, Some("localhost")] {
            let mut wire = Wire::connect(server.port).await;
            if let Some(first) = first {
                assert_eq!(wire.get(first, "/health").await.status, 200);
            }
            wire.send(format!(
                "POST {path} HTTP/1.1\r\nHost: {}\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
                demo.host
            ))
            .await;
            let answer = timeout(Duration::from_secs(5), wire.answer()).await.expect("an answer soon");
            assert!([502, 504, 413].contains(&answer.status), "{path}: {}", answer.status);
        }
    }
}

#[tokio::test]
async fn an_app_may_be_silent_for_as_long_as_it_is_being_sent_an_upload() {
    let server = Server::with_stand_in(&[]).await;
    let demo = server.acquire().await;
    for first in [None, Some("localhost")] {
        let mut wire = Wire::connect(server.port).await;
        if let Some(first) = first {
            assert_eq!(wire.get(first, "/health").await.status, 200);
        }
        wire.send(format!("POST / HTTP/1.1\r\nHost: {}\r\nContent-Length: 6\r\n\r\n", demo.host)).await;
        let mut pieces = tokio::time::interval(Duration::from_millis(400));
        for _ in 0..6 {
            pieces.tick().await;
            wire.send("a").await;
        }
        assert_eq!(wire.answer().await.text(), demo.id, "after {first:?}");
    }
}

#[tokio::test]
async fn a_kept_connection_never_serves_the_next_instance_at_its_address() {
    // Four ports for twelve instances, below those of outgoing connections and, most likely, of no other server.
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
        visitors.push(Wire::connect(server.port).await);
    }
    let send = h2c(server.port).await;
    let mut gone: Option<Demo> = None;
    for _ in 0..12 {
        let demo = eventually("an instance is ready", async || {
            let answer = server.call("POST", "/api/v1/demo/acquire", "").await;
            (answer.status == 200).then(|| Demo::from_json(&answer.json()))
        })
        .await;
        for visitor in &mut visitors {
            let answer = visitor.get(&demo.host, "/whoami").await;
            assert_eq!((answer.status, &answer.json()["id"]), (200, &demo.id.clone().into()));
            if let Some(gone) = &gone {
                assert_eq!(visitor.get(&gone.host, "/whoami").await.status, 404);
            }
        }
        assert_eq!(h2_get(&send, &demo.host, "/whoami").await.json()["id"], demo.id.as_str());
        assert_eq!(server.call("DELETE", &format!("/api/v1/demo/{}", demo.id), "").await.status, 200);
        gone = Some(demo);
    }
}
