//! The HTTP contract: server-sent events.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use crate::support::harness::{EventStream, Server};

#[tokio::test]
async fn the_remaining_time_is_sent_immediately_and_each_second_until_the_end() {
    let server = Server::start(&[("POOL_DEFAULT_TTL", "3s")]).await;
    let instance = server.acquire().await;
    let start = Instant::now();
    let mut events =
        EventStream::open(server.port, "localhost", &format!("/api/v1/demo/{}/status", instance.id)).await;
    assert_eq!(events.status, 200);
    let header = |name: &str| events.headers[name].to_str().unwrap().to_owned();
    assert_eq!(header("content-type"), "text/event-stream");
    assert_eq!(header("cache-control"), "no-cache");
    assert_eq!(header("x-accel-buffering"), "no");
    assert!(events.next_block().await.unwrap().starts_with("retry: "));
    let mut seen = Vec::new();
    while let Some((name, data)) = events.next_event().await {
        seen.push((start.elapsed(), name, data));
    }
    let (_, last, data) = seen.pop().unwrap();
    assert_eq!((last.as_str(), data), ("expired", json!({"id": instance.id})));
    let sent: Vec<u64> = seen.iter().map(|(_, _, data)| data["ttl_remaining"].as_u64().unwrap()).collect();
    // The last second may be sent twice: when it begins and just before it ends.
    assert!(matches!(sent.as_slice(), [3, 2, 1] | [3, 2, 1, 1]), "{sent:?}");
    for (n, (at, name, data)) in seen.iter().take(3).enumerate() {
        assert_eq!(
            (name.as_str(), &data["id"], &data["state"]),
            ("ttl", &json!(instance.id), &json!("assigned"))
        );
        let due = Duration::from_secs(n as u64);
        assert!(
            *at + Duration::from_millis(50) >= due && *at < due + Duration::from_millis(900),
            "{n}: {at:?}"
        );
    }
}

#[tokio::test]
async fn a_release_elsewhere_ends_the_stream() {
    let server = Server::start(&[]).await;
    let instance = server.acquire().await;
    let path = format!("/api/v1/demo/{}", instance.id);
    let mut events = EventStream::open(server.port, "localhost", &format!("{path}/status")).await;
    assert_eq!(events.next_event().await.unwrap().0, "ttl");
    assert_eq!(server.call("DELETE", &path, "").await.status, 200);
    let (name, data) = loop {
        let (name, data) = events.next_event().await.unwrap();
        if name != "ttl" {
            break (name, data);
        }
    };
    assert_eq!((name.as_str(), data), ("gone", json!({"id": instance.id})));
    assert_eq!(events.next_event().await, None);
}

#[tokio::test]
async fn the_stream_of_an_expired_instance_reports_that_and_ends() {
    let server = Server::start(&[("POOL_DEFAULT_TTL", "1s")]).await;
    let instance = server.acquire().await;
    let path = format!("/api/v1/demo/{}", instance.id);
    crate::support::harness::eventually("it expires", async || {
        (server.call("GET", &path, "").await.json()["state"] == "expired").then_some(())
    })
    .await;
    let mut events = EventStream::open(server.port, "localhost", &format!("{path}/status")).await;
    assert_eq!(events.next_event().await, Some(("expired".to_owned(), json!({"id": instance.id}))));
    assert_eq!(events.next_event().await, None);
}

#[tokio::test]
async fn an_extension_shows_in_the_stream() {
    let server = Server::start(&[("POOL_DEFAULT_TTL", "2s")]).await;
    let instance = server.acquire().await;
    let path = format!("/api/v1/demo/{}", instance.id);
    let mut events = EventStream::open(server.port, "localhost", &format!("{path}/status")).await;
    assert!(events.next_event().await.unwrap().1["ttl_remaining"].as_u64().unwrap() <= 2);
    assert_eq!(server.call("POST", &format!("{path}/extend"), r#"{"minutes":1}"#).await.status, 200);
    let left = events.next_event().await.unwrap().1["ttl_remaining"].as_u64().unwrap();
    assert!((59..=62).contains(&left), "{left}");
}

#[tokio::test]
async fn no_timeout_of_the_server_cuts_a_live_stream() {
    let timeouts =
        [("SERVER_READ_TIMEOUT", "1s"), ("SERVER_WRITE_TIMEOUT", "1s"), ("POOL_DEFAULT_TTL", "5s")];
    let server = Server::start(&timeouts).await;
    let instance = server.acquire().await;
    let mut events =
        EventStream::open(server.port, "localhost", &format!("/api/v1/demo/{}/status", instance.id)).await;
    let mut names = Vec::new();
    while let Some((name, _)) = events.next_event().await {
        names.push(name);
    }
    assert_eq!(names.last().unwrap(), "expired");
    assert!(names.len() >= 5, "{names:?}");
}

#[tokio::test]
async fn the_ready_feed_sends_how_many_instances_are_ready() {
    let server = Server::start(&[("POOL_MAX_SIZE", "2")]).await;
    let mut events = EventStream::open(server.port, "localhost", "/ready").await;
    assert_eq!(events.headers["content-type"], "text/event-stream");
    assert_eq!(events.next_event().await, Some(("ready".to_owned(), json!({"default": 2}))));
    server.acquire().await;
    assert_eq!(events.next_event().await, Some(("ready".to_owned(), json!({"default": 1}))));
}
