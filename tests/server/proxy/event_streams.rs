//! Events come one by one, not when a buffer is full.

use std::time::Duration;

use tokio::time::Instant;

use crate::support::harness::{Server, Wire, h2_get, h2_whole, h2c};

#[tokio::test]
async fn an_apps_events_arrive_one_by_one() {
    let server = Server::start(&[]).await;
    let demo = server.acquire().await;
    for first in [None, Some("localhost")] {
        let mut wire = Wire::connect(server.port).await;
        if let Some(first) = first {
            assert_eq!(wire.get(first, "/health").await.status, 200);
        }
        wire.send(format!(
            "GET /events HTTP/1.1\r\nHost: {}\r\nAccept: text/event-stream\r\n\r\n",
            demo.host
        ))
        .await;
        let head = wire.head().await;
        assert_eq!(head.headers["content-type"], "text/event-stream");
        let start = Instant::now();
        for n in 0..3 {
            let data = loop {
                let line = wire.line().await;
                // A line of the chunk's framing, or the event.
                if let Some((_, data)) = line.split_once("data: ") {
                    break data.to_owned();
                }
            };
            assert!(data.contains(&format!(r#""n":{n}"#)), "{data}");
            // The event with number n is made n seconds after the first.
            let late = start.elapsed().as_secs_f64() - n as f64;
            assert!(late < 0.9, "event {n} is {late} s late");
        }
        assert!(start.elapsed() > Duration::from_millis(1_500));
    }
}

#[tokio::test]
async fn an_apps_events_arrive_one_by_one_over_http2() {
    let server = Server::start(&[]).await;
    let demo = server.acquire().await;
    let mut send = h2c(server.port).await;
    let request = http::Request::get(format!("http://{}/events", demo.host)).body(()).unwrap();
    let (answer, _) = send.send_request(request, true).unwrap();
    let mut body = answer.await.unwrap().into_body();
    for n in 0..3 {
        let piece = body.data().await.unwrap().unwrap();
        body.flow_control().release_capacity(piece.len()).unwrap();
        assert!(String::from_utf8_lossy(&piece).contains(&format!(r#""n":{n}"#)), "{piece:?}");
    }
}

#[tokio::test]
async fn events_may_be_rarer_than_an_app_may_be_silent_otherwise() {
    // The stand-in may be silent for one second; an event stream for as long as nothing happens.
    let server = Server::with_stand_in(&[]).await;
    let demo = server.acquire().await;
    let mut wire = Wire::connect(server.port).await;
    wire.send(format!(
        "GET /silent-midway HTTP/1.1\r\nHost: {}\r\nAccept: text/event-stream\r\n\r\n",
        demo.host
    ))
    .await;
    assert_eq!(wire.head().await.status, 200);
    assert_eq!(wire.bytes(5).await, b"hello");
    assert!(tokio::time::timeout(Duration::from_secs(3), wire.rest()).await.is_err(), "it was cut");
}

#[tokio::test]
async fn the_apis_events_arrive_one_by_one_on_every_kind_of_connection() {
    let server = Server::start(&[]).await;
    let demo = server.acquire().await;
    for (first, version) in [
        (None, "1.1"),
        (Some("localhost"), "1.1"),
        (Some(demo.host.as_str()), "1.1"),
        (None, "1.0"),
        (Some(demo.host.as_str()), "1.0"),
    ] {
        let mut wire = Wire::connect(server.port).await;
        if let Some(first) = first {
            assert_eq!(wire.get(first, "/health").await.status, 200);
        }
        wire.send(format!("GET /api/v1/demo/{}/status HTTP/{version}\r\nHost: localhost\r\n\r\n", demo.id))
            .await;
        let head = wire.head().await;
        assert_eq!(head.headers["content-type"], "text/event-stream");
        assert_eq!(
            head.headers.contains_key("transfer-encoding"),
            version == "1.1",
            "{version} after {first:?}"
        );
        let (start, mut text) = (Instant::now(), String::new());
        while text.matches("event: ttl").count() < 2 {
            text += &String::from_utf8_lossy(&wire.bytes(1).await);
        }
        let took = start.elapsed().as_secs_f64();
        assert!((0.5..1.8).contains(&took), "two events in {took} s on {version} after {first:?}");
    }
}

#[tokio::test]
async fn the_apis_events_end_by_themselves_when_the_instance_is_released() {
    let server = Server::start(&[]).await;
    let (demo, other) = (server.acquire().await, server.acquire().await);
    let path = format!("/api/v1/demo/{}/status", demo.id);
    let mut wires = Vec::new();
    let mut heads = Vec::new();
    for first in ["localhost", &other.host] {
        let mut wire = Wire::connect(server.port).await;
        assert_eq!(wire.get(first, "/health").await.status, 200);
        wire.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
        wires.push(wire);
    }
    let send = h2c(server.port).await;
    let asked = h2_get(&send, "localhost", &path);
    let released = async {
        for wire in &mut wires {
            heads.push(wire.head().await);
        }
        assert_eq!(server.call("DELETE", &format!("/api/v1/demo/{}", demo.id), "").await.status, 200);
    };
    let (answer, ()) = tokio::join!(asked, released);
    // Whether the h2 stream began before the release is chance.
    assert!(answer.status == 404 || answer.text().contains("event: gone"), "{}", answer.text());
    for (wire, head) in wires.iter_mut().zip(heads) {
        let answer = wire.body_of(head).await;
        assert!(
            answer.text().ends_with(&format!("event: gone\ndata: {{\"id\":\"{}\"}}\n\n", demo.id)),
            "{}",
            answer.text()
        );
        assert_eq!(wire.get("localhost", "/health").await.status, 200, "the connection is kept");
    }
}

#[tokio::test]
async fn a_download_under_way_is_finished_when_the_server_stops_and_idle_connections_are_closed() {
    let mut server = Server::start(&[]).await;
    let demo = server.acquire().await;
    let size = 64 << 20;
    let mut busy = Vec::new();
    for first in [None, Some("localhost")] {
        let mut wire = Wire::connect(server.port).await;
        if let Some(first) = first {
            assert_eq!(wire.get(first, "/health").await.status, 200);
        }
        wire.send(format!("GET /download?bytes={size} HTTP/1.1\r\nHost: {}\r\n\r\n", demo.host)).await;
        assert_eq!(wire.head().await.status, 200);
        busy.push((wire, size));
    }
    let mut send = h2c(server.port).await;
    let request = http::Request::get(format!("http://{}/download?bytes={size}", demo.host)).body(()).unwrap();
    let (answer, _) = send.send_request(request, true).unwrap();
    let answer = answer.await.unwrap();
    let mut idle = Vec::new();
    for host in ["localhost", demo.host.as_str()] {
        let mut wire = Wire::connect(server.port).await;
        assert_eq!(wire.get(host, "/health").await.status, 200);
        idle.push(wire);
    }
    server.signal("TERM");
    for wire in &mut idle {
        wire.closed().await;
    }
    for (wire, left) in &mut busy {
        while *left > 0 {
            let most = (64 * 1024).min(*left);
            *left -= wire.bytes(most).await.len();
        }
        wire.closed().await;
    }
    assert_eq!(h2_whole(answer).await.unwrap().body.len(), size);
    drop(send);
    assert_eq!(server.ended().await, Some(0));
}
