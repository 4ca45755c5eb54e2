//! Events are forwarded one by one and not when a buffer is full.

use std::time::Duration;

use tokio::time::Instant;

use crate::support::harness::{RawConnection, Server, h2_collect, h2_get, h2c};

#[tokio::test]
async fn an_apps_events_arrive_one_by_one() {
    let server = Server::start(&[]).await;
    let instance = server.acquire().await;
    for first in [None, Some("localhost")] {
        let mut connection = RawConnection::connect(server.port).await.after(first).await;
        connection
            .send(format!(
                "GET /events HTTP/1.1\r\nHost: {}\r\nAccept: text/event-stream\r\n\r\n",
                instance.host
            ))
            .await;
        let head = connection.read_head().await;
        assert_eq!(head.headers["content-type"], "text/event-stream");
        let start = Instant::now();
        for n in 0..3 {
            let data = loop {
                let line = connection.read_line().await;
                // The line may be part of the chunk framing.
                if let Some((_, data)) = line.split_once("data: ") {
                    break data.to_owned();
                }
            };
            assert!(data.contains(&format!(r#""n":{n}"#)), "{data}");
            // The app sends event n n seconds after the first.
            let late = start.elapsed().as_secs_f64() - n as f64;
            assert!(late < 0.9, "event {n} is {late} s late");
        }
        assert!(start.elapsed() > Duration::from_millis(1_500));
    }
}

#[tokio::test]
async fn an_apps_events_arrive_one_by_one_over_http2() {
    let server = Server::start(&[]).await;
    let instance = server.acquire().await;
    let mut send = h2c(server.port).await;
    let request = http::Request::get(format!("http://{}/events", instance.host)).body(()).unwrap();
    let (answer, _) = send.send_request(request, true).unwrap();
    let mut body = answer.await.unwrap().into_body();
    for n in 0..3 {
        let piece = body.data().await.unwrap().unwrap();
        body.flow_control().release_capacity(piece.len()).unwrap();
        assert!(String::from_utf8_lossy(&piece).contains(&format!(r#""n":{n}"#)), "{piece:?}");
    }
}

#[tokio::test]
async fn an_event_stream_may_be_silent_for_longer_than_other_answers() {
    // The fake upstream may be silent for one second. This limit does not apply to event streams.
    let server = Server::with_fake_upstream(&[]).await;
    let instance = server.acquire().await;
    let mut connection = RawConnection::connect(server.port).await;
    connection
        .send(format!(
            "GET /silent-midway HTTP/1.1\r\nHost: {}\r\nAccept: text/event-stream\r\n\r\n",
            instance.host
        ))
        .await;
    assert_eq!(connection.read_head().await.status, 200);
    assert_eq!(connection.read_bytes(5).await, b"hello");
    assert!(
        tokio::time::timeout(Duration::from_secs(3), connection.read_to_end()).await.is_err(),
        "the stream was cut off"
    );
}

#[tokio::test]
async fn the_apis_events_arrive_one_by_one_on_every_kind_of_connection() {
    let server = Server::start(&[]).await;
    let instance = server.acquire().await;
    for (first, version) in [
        (None, "1.1"),
        (Some("localhost"), "1.1"),
        (Some(instance.host.as_str()), "1.1"),
        (None, "1.0"),
        (Some(instance.host.as_str()), "1.0"),
    ] {
        let mut connection = RawConnection::connect(server.port).await.after(first).await;
        connection
            .send(format!(
                "GET /api/v1/demo/{}/status HTTP/{version}\r\nHost: localhost\r\n\r\n",
                instance.id
            ))
            .await;
        let head = connection.read_head().await;
        assert_eq!(head.headers["content-type"], "text/event-stream");
        assert_eq!(
            head.headers.contains_key("transfer-encoding"),
            version == "1.1",
            "{version} after {first:?}"
        );
        let (start, mut text) = (Instant::now(), String::new());
        while text.matches("event: ttl").count() < 2 {
            text += &String::from_utf8_lossy(&connection.read_bytes(1).await);
        }
        let took = start.elapsed().as_secs_f64();
        assert!((0.5..1.8).contains(&took), "two events in {took} s on {version} after {first:?}");
    }
}

#[tokio::test]
async fn the_apis_events_end_by_themselves_when_the_instance_is_released() {
    let server = Server::start(&[]).await;
    let (instance, other) = (server.acquire().await, server.acquire().await);
    let path = format!("/api/v1/demo/{}/status", instance.id);
    let mut connections = Vec::new();
    let mut heads = Vec::new();
    for first in ["localhost", &other.host] {
        let mut connection = RawConnection::connect(server.port).await;
        assert_eq!(connection.get(first, "/health").await.status, 200);
        connection.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
        connections.push(connection);
    }
    let send = h2c(server.port).await;
    let asked = h2_get(&send, "localhost", &path);
    let released = async {
        for connection in &mut connections {
            heads.push(connection.read_head().await);
        }
        assert_eq!(server.call("DELETE", &format!("/api/v1/demo/{}", instance.id), "").await.status, 200);
    };
    let (answer, ()) = tokio::join!(asked, released);
    // The h2 stream may begin before or after the release.
    assert!(answer.status == 404 || answer.text().contains("event: gone"), "{}", answer.text());
    for (connection, head) in connections.iter_mut().zip(heads) {
        let answer = connection.read_body(head).await;
        assert!(
            answer.text().ends_with(&format!("event: gone\ndata: {{\"id\":\"{}\"}}\n\n", instance.id)),
            "{}",
            answer.text()
        );
        assert_eq!(connection.get("localhost", "/health").await.status, 200, "the connection stays open");
    }
}

#[tokio::test]
async fn a_download_in_flight_is_finished_when_the_server_shuts_down_and_idle_connections_are_closed() {
    let mut server = Server::start(&[]).await;
    let instance = server.acquire().await;
    let size = 64 << 20;
    let mut busy = Vec::new();
    for first in [None, Some("localhost")] {
        let mut connection = RawConnection::connect(server.port).await.after(first).await;
        connection
            .send(format!("GET /download?bytes={size} HTTP/1.1\r\nHost: {}\r\n\r\n", instance.host))
            .await;
        assert_eq!(connection.read_head().await.status, 200);
        busy.push((connection, size));
    }
    let mut send = h2c(server.port).await;
    let request =
        http::Request::get(format!("http://{}/download?bytes={size}", instance.host)).body(()).unwrap();
    let (answer, _) = send.send_request(request, true).unwrap();
    let answer = answer.await.unwrap();
    let mut idle = Vec::new();
    for host in ["localhost", instance.host.as_str()] {
        let mut connection = RawConnection::connect(server.port).await;
        assert_eq!(connection.get(host, "/health").await.status, 200);
        idle.push(connection);
    }
    server.signal("TERM");
    for connection in &mut idle {
        connection.assert_closed().await;
    }
    for (connection, left) in &mut busy {
        while *left > 0 {
            let most = (64 * 1024).min(*left);
            *left -= connection.read_bytes(most).await.len();
        }
        connection.assert_closed().await;
    }
    assert_eq!(h2_collect(answer).await.unwrap().body.len(), size);
    drop(send);
    assert_eq!(server.wait_for_exit().await, Some(0));
}

/// The app writes the head and the first event one after the other, and its kernel holds back a small write until the
/// one before is acknowledged, which a kernel delays by 40 ms.
#[tokio::test]
async fn the_first_event_of_an_app_that_writes_small_pieces_is_not_late() {
    let server = Server::with_fake_upstream(&[("HTTP1_ENGINE", "forwarder")]).await;
    let mut delays = Vec::new();
    for _ in 0..5 {
        let instance = server.acquire().await;
        let mut connection = RawConnection::connect(server.port).await;
        for _ in 0..4 {
            // The kernel acknowledges at once on a new connection.
            assert_eq!(connection.get(&instance.host, "/").await.status, 200);
        }
        let request = format!("GET /slow-events HTTP/1.1\r\nHost: {}\r\n\r\n", instance.host);
        connection.send(request).await;
        connection.read_head().await;
        let start = Instant::now();
        while !connection.read_line().await.contains("piece 1") {}
        delays.push(start.elapsed());
    }
    // On a busy machine some are late for other reasons.
    assert!(delays.iter().min() < Some(&Duration::from_millis(20)), "{delays:?}");
}
