//! Limits on the connections of one client.

use std::time::Duration;

use tokio::time::Instant;

use crate::support::harness::{RawConnection, Server, eventually, h2_collect, h2_get, h2_request, h2c};

#[tokio::test]
async fn connections_over_the_limit_get_503_and_are_closed() {
    let server = Server::start(&[("MAX_CONNECTIONS", "3")]).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        // The slot of the harness's last connection is free a moment after that has closed.
        held.push(
            eventually("a slot is free", async || {
                let mut connection = RawConnection::connect(server.port).await;
                connection.try_send("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").await.ok()?;
                (connection.read_answer().await.status == 200).then_some(connection)
            })
            .await,
        );
    }
    for _ in 0..5 {
        let mut connection = RawConnection::connect(server.port).await;
        let answer = connection.read_answer().await;
        assert_eq!((answer.status, &answer.json()["code"]), (503, &"TOO_MANY_CONNECTIONS".into()));
        assert_eq!(answer.header("connection"), "close");
        assert!(!answer.header("retry-after").is_empty() && !answer.header("x-request-id").is_empty());
        connection.assert_closed().await;
    }
    // The other connections continue, and a free slot can be used.
    assert_eq!(held[0].get("localhost", "/health").await.status, 200);
    held.pop();
    eventually("the slot is free", async || {
        let mut connection = RawConnection::connect(server.port).await;
        connection.try_send("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").await.ok()?;
        (connection.read_answer().await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_refused_client_receives_the_complete_503_although_it_has_sent_a_request() {
    let server = Server::start(&[("MAX_CONNECTIONS", "1")]).await;
    let _held = eventually("a slot is free", async || {
        let mut connection = RawConnection::connect(server.port).await;
        connection.try_send("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").await.ok()?;
        (connection.read_answer().await.status == 200).then_some(connection)
    })
    .await;
    for _ in 0..200 {
        let mut connection = RawConnection::connect(server.port).await;
        // The connection may be closed already.
        let _ = connection.try_send("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        assert_eq!(connection.read_answer().await.json()["code"], "TOO_MANY_CONNECTIONS");
    }
}

/// Sends a head byte by byte and never its end. Returns how long the server waited and the status of its answer.
async fn send_slowly(connection: &mut RawConnection, head: &str) -> (Duration, u16) {
    let start = Instant::now();
    connection.send(head).await;
    let status = loop {
        tokio::select! {
            head = connection.read_head() => break head.status,
            () = tokio::time::sleep(Duration::from_millis(500)) => {}
        }
        // The server may refuse bytes after its answer.
        let _ = connection.try_send("a").await;
    };
    (start.elapsed(), status)
}

#[tokio::test]
async fn a_head_that_arrives_slowly_times_out_after_ten_seconds_on_every_kind_of_connection() {
    let server = Server::start(&[]).await;
    let instance = server.acquire().await;
    let kinds = [None, Some("localhost"), Some(instance.host.as_str())];
    let slow = kinds.map(async |first| {
        let mut connection = RawConnection::connect(server.port).await.after(first).await;
        let (took, status) =
            send_slowly(&mut connection, &format!("GET / HTTP/1.1\r\nHost: {}\r\nX-A: ", instance.host))
                .await;
        assert_eq!(status, 408, "after {first:?}");
        assert!(took > Duration::from_secs(9) && took < Duration::from_secs(14), "{took:?} after {first:?}");
    });
    futures_util::future::join_all(slow).await;
}

#[tokio::test]
async fn a_body_that_stalls_times_out_on_both_sides() {
    let server = Server::start(&[("SERVER_READ_TIMEOUT", "1s")]).await;
    let instance = server.acquire().await;
    for (host, path) in [("localhost", "/api/v1/demo/acquire"), (instance.host.as_str(), "/upload")] {
        for first in [None, Some("localhost"), Some(instance.host.as_str())] {
            let mut connection = RawConnection::connect(server.port).await.after(first).await;
            connection
                .send(format!("POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 10\r\n\r\nabc"))
                .await;
            let answer = connection.read_answer().await;
            assert_eq!(answer.status, 408, "{host} after {first:?}: {}", answer.text());
            connection.assert_closed().await;
        }
    }
}

#[tokio::test]
async fn a_client_that_disconnects_frees_its_slot() {
    let server = Server::start(&[("MAX_CONNECTIONS", "2")]).await;
    let instance = eventually("a slot is free", async || {
        let answer = server.call("POST", "/api/v1/demo/acquire", "").await;
        (answer.status == 200).then(|| crate::support::harness::AcquiredInstance::from_json(&answer.json()))
    })
    .await;
    let (host, status) = (&instance.host, format!("/api/v1/demo/{}/status", instance.id));
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
        let mut disconnected = RawConnection::connect(server.port).await;
        disconnected.send(&bytes).await;
        drop(disconnected);
    }
    let both = eventually("both slots are free", async || {
        let mut connections =
            [RawConnection::connect(server.port).await, RawConnection::connect(server.port).await];
        for connection in &mut connections {
            connection.try_send("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").await.ok()?;
            if connection.read_answer().await.status != 200 {
                return None;
            }
        }
        Some(connections)
    })
    .await;
    drop(both);
}

#[tokio::test]
async fn a_stream_of_http2_has_the_same_limits_on_its_head_and_body() {
    let server = Server::start(&[]).await;
    let instance = server.acquire().await;
    let send = h2c(server.port).await;
    for host in ["localhost", instance.host.as_str()] {
        let mut request = http::Request::get(format!("http://{host}/health"));
        for n in 0..101 {
            request = request.header(format!("x-{n}"), "1");
        }
        let answer = h2_request(&send, request.body(()).unwrap()).await.unwrap();
        assert_eq!((answer.status, &answer.json()["code"]), (431, &"HEADERS_TOO_LARGE".into()), "{host}");
    }
    let mut asking = send.clone().ready().await.unwrap();
    let request = http::Request::post("http://localhost/api/v1/demo/acquire").body(()).unwrap();
    let (answer, mut body) = asking.send_request(request, false).unwrap();
    body.send_data(vec![b' '; 70_000].into(), true).unwrap();
    let answer = h2_collect(answer.await.unwrap()).await.unwrap();
    assert_eq!((answer.status, &answer.json()["code"]), (413, &"TOO_LARGE".into()));
    assert_eq!(h2_get(&send, "localhost", "/health").await.status, 200);
}
