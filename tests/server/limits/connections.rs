//! What one client may take of the server.

use std::time::Duration;

use tokio::time::Instant;

use crate::support::harness::{Server, Wire, eventually, h2_ask, h2_get, h2_whole, h2c};

#[tokio::test]
async fn one_connection_too_many_is_told_503_and_closed() {
    let server = Server::start(&[("MAX_CONNECTIONS", "3")]).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        // The place of the harness's last connection is free a moment after it has closed.
        held.push(
            eventually("there is a place", async || {
                let mut wire = Wire::connect(server.port).await;
                wire.try_send("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").await.ok()?;
                (wire.answer().await.status == 200).then_some(wire)
            })
            .await,
        );
    }
    for _ in 0..5 {
        let mut wire = Wire::connect(server.port).await;
        let answer = wire.answer().await;
        assert_eq!((answer.status, &answer.json()["code"]), (503, &"TOO_MANY_CONNECTIONS".into()));
        assert_eq!(answer.header("connection"), "close");
        assert!(!answer.header("retry-after").is_empty() && !answer.header("x-request-id").is_empty());
        wire.closed().await;
    }
    // Those that are in go on, and a place that is left can be taken.
    assert_eq!(held[0].get("localhost", "/health").await.status, 200);
    held.pop();
    eventually("the place is free", async || {
        let mut wire = Wire::connect(server.port).await;
        wire.try_send("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").await.ok()?;
        (wire.answer().await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_client_told_503_gets_it_whole_although_it_has_sent_a_request() {
    let server = Server::start(&[("MAX_CONNECTIONS", "1")]).await;
    let _held = eventually("there is a place", async || {
        let mut wire = Wire::connect(server.port).await;
        wire.try_send("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").await.ok()?;
        (wire.answer().await.status == 200).then_some(wire)
    })
    .await;
    for _ in 0..200 {
        let mut wire = Wire::connect(server.port).await;
        // May be late.
        let _ = wire.try_send("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        assert_eq!(wire.answer().await.json()["code"], "TOO_MANY_CONNECTIONS");
    }
}

/// Sends a head byte by byte, never its end, and returns how long that was borne and the answer's status.
async fn drip(wire: &mut Wire, head: &str) -> (Duration, u16) {
    let start = Instant::now();
    wire.send(head).await;
    let status = loop {
        tokio::select! {
            head = wire.head() => break head.status,
            () = tokio::time::sleep(Duration::from_millis(500)) => {}
        }
        // After the answer it may not be taken any more.
        let _ = wire.try_send("a").await;
    };
    (start.elapsed(), status)
}

#[tokio::test]
async fn a_head_that_drips_in_is_given_up_after_ten_seconds_wherever_it_stands() {
    let server = Server::start(&[]).await;
    let demo = server.acquire().await;
    let kinds = [None, Some("localhost"), Some(demo.host.as_str())];
    let slow = kinds.map(async |first| {
        let mut wire = Wire::connect(server.port).await;
        if let Some(first) = first {
            assert_eq!(wire.get(first, "/health").await.status, 200);
        }
        let (took, status) =
            drip(&mut wire, &format!("GET / HTTP/1.1\r\nHost: {}\r\nX-A: ", demo.host)).await;
        assert_eq!(status, 408, "after {first:?}");
        assert!(took > Duration::from_secs(9) && took < Duration::from_secs(14), "{took:?} after {first:?}");
    });
    futures_util::future::join_all(slow).await;
}

#[tokio::test]
async fn a_body_that_stops_is_given_up_on_both_sides() {
    let server = Server::start(&[("SERVER_READ_TIMEOUT", "1s")]).await;
    let demo = server.acquire().await;
    for (host, path) in [("localhost", "/api/v1/demo/acquire"), (demo.host.as_str(), "/upload")] {
        for first in [None, Some("localhost"), Some(demo.host.as_str())] {
            let mut wire = Wire::connect(server.port).await;
            if let Some(first) = first {
                assert_eq!(wire.get(first, "/health").await.status, 200);
            }
            wire.send(format!("POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 10\r\n\r\nabc")).await;
            let answer = wire.answer().await;
            assert_eq!(answer.status, 408, "{host} after {first:?}: {}", answer.text());
            wire.closed().await;
        }
    }
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_frees_its_place() {
    let server = Server::start(&[("MAX_CONNECTIONS", "2")]).await;
    let demo = eventually("a place", async || {
        let answer = server.call("POST", "/api/v1/demo/acquire", "").await;
        (answer.status == 200).then(|| crate::support::harness::Demo::from_json(&answer.json()))
    })
    .await;
    let (host, status) = (&demo.host, format!("/api/v1/demo/{}/status", demo.id));
    for bytes in [
        "GET / HTT".to_owned(),
        format!("POST /upload HTTP/1.1\r\nHost: {host}\r\nContent-Length: 10\r\n\r\nabc"),
        "POST /api/v1/demo/acquire HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nabc".to_owned(),
        format!("GET /download?bytes=1000000000 HTTP/1.1\r\nHost: {host}\r\n\r\n"),
        format!("GET /events HTTP/1.1\r\nHost: {host}\r\n\r\n"),
        format!("GET {status} HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        format!(
            "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /events HTTP/1.1\r\nHost: {host}\r\n\r\n"
        ),
    ] {
        let mut left = Wire::connect(server.port).await;
        left.send(&bytes).await;
        drop(left);
    }
    let both = eventually("both places are free", async || {
        let mut wires = [Wire::connect(server.port).await, Wire::connect(server.port).await];
        for wire in &mut wires {
            wire.try_send("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").await.ok()?;
            if wire.answer().await.status != 200 {
                return None;
            }
        }
        Some(wires)
    })
    .await;
    drop(both);
}

#[tokio::test]
async fn a_stream_of_http2_has_the_same_limits_on_its_head_and_body() {
    let server = Server::start(&[]).await;
    let demo = server.acquire().await;
    let send = h2c(server.port).await;
    for host in ["localhost", demo.host.as_str()] {
        let mut request = http::Request::get(format!("http://{host}/health"));
        for n in 0..101 {
            request = request.header(format!("x-{n}"), "1");
        }
        let answer = h2_ask(&send, request.body(()).unwrap()).await.unwrap();
        assert_eq!((answer.status, &answer.json()["code"]), (431, &"HEADERS_TOO_LARGE".into()), "{host}");
    }
    let mut asking = send.clone().ready().await.unwrap();
    let request = http::Request::post("http://localhost/api/v1/demo/acquire").body(()).unwrap();
    let (answer, mut body) = asking.send_request(request, false).unwrap();
    body.send_data(vec![b' '; 70_000].into(), true).unwrap();
    let answer = h2_whole(answer.await.unwrap()).await.unwrap();
    assert_eq!((answer.status, &answer.json()["code"]), (413, &"TOO_LARGE".into()));
    assert_eq!(h2_get(&send, "localhost", "/health").await.status, 200);
}
