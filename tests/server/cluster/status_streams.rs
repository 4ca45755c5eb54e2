//! The status stream of an instance that another node runs, and during an outage of Valkey: it comes from memory.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::harness::{EventStream, Server, eventually};
use crate::support::valkey_server::{Persistence, ValkeyServer};

/// Returns the first event for which `wanted` is true, and the time until then.
async fn event_until(
    events: &mut EventStream,
    wanted: impl Fn(&str, &Value) -> bool,
) -> (Duration, String, Value) {
    let start = Instant::now();
    loop {
        let (name, data) = events.next_event().await.expect("the stream goes on");
        if wanted(&name, &data) {
            return (start.elapsed(), name, data);
        }
    }
}

#[tokio::test]
async fn a_status_stream_of_another_nodes_instance_shows_its_extension_and_its_release() {
    let Some(valkey) = ValkeyServer::start(Persistence::None, &[]) else { return };
    let address = valkey.host_and_port();
    let settings = [("VALKEY_ADDR", &*address), ("POOL_DEFAULT_TTL", "60s")];
    let (own, other) = (Server::start(&settings).await, Server::start(&settings).await);
    let instance = own.acquire().await;
    let path = format!("/api/v1/demo/{}", instance.id);
    let mut events = EventStream::open(other.port, "localhost", &format!("{path}/status")).await;
    assert_eq!(events.status, 200, "the other node asks the store if the stream has not brought it yet");
    let (_, _, data) = event_until(&mut events, |name, _| name == "ttl").await;
    assert_eq!((&data["id"], &data["state"]), (&json!(instance.id), &json!("assigned")));

    assert_eq!(own.call("POST", &format!("{path}/extend"), r#"{"minutes":5}"#).await.status, 200);
    let is_extended = |_: &str, data: &Value| data["ttl_remaining"].as_u64().is_some_and(|left| left > 300);
    event_until(&mut events, is_extended).await;

    assert_eq!(own.call("DELETE", &path, "").await.status, 200);
    let (took, _, data) = event_until(&mut events, |name, _| name == "gone").await;
    assert_eq!(data, json!({"id": instance.id}));
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert_eq!(events.next_event().await, None);
}

#[tokio::test]
async fn a_status_stream_continues_during_an_outage_of_valkey_until_the_deadline() {
    let Some(mut valkey) = ValkeyServer::start(Persistence::AppendOnly, &[]) else { return };
    let address = valkey.host_and_port();
    let server = Server::start(&[("VALKEY_ADDR", &address), ("POOL_DEFAULT_TTL", "6s")]).await;
    let instance = server.acquire().await;
    let path = format!("/api/v1/demo/{}", instance.id);
    let mut events = EventStream::open(server.port, "localhost", &format!("{path}/status")).await;
    let (_, _, first) = event_until(&mut events, |name, _| name == "ttl").await;
    valkey.kill();
    eventually("the store is away", async || {
        (server.call("GET", &path, "").await.status == 503).then_some(())
    })
    .await;
    // The stream shows the remaining time, and a new one does too.
    let (_, _, second) = event_until(&mut events, |name, _| name == "ttl").await;
    assert!(second["ttl_remaining"].as_u64() < first["ttl_remaining"].as_u64(), "{first} {second}");
    let mut more = EventStream::open(server.port, "localhost", &format!("{path}/status")).await;
    for stream in [&mut events, &mut more] {
        let (_, _, data) = event_until(stream, |name, _| name == "expired").await;
        assert_eq!(data, json!({"id": instance.id}));
        assert_eq!(stream.next_event().await, None);
    }
}
