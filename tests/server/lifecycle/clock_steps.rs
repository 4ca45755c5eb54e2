//! The wall clock of a node, or of the host of Valkey, is set by eight hours while visitors have instances: each keeps
//! its instance for as long as was promised, and the limits hold.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;

use crate::support::harness::{AcquiredInstance, EventStream, Server, eventually, get};
use crate::support::valkey_server::{Persistence, ValkeyServer};
use crate::support::wall_clock::{WallClock, ahead_of_host, seconds_of_host};

const TTL: Duration = Duration::from_secs(8);
/// How much longer than promised a busy machine may take.
const SLACK: Duration = Duration::from_secs(5);
const HOUR: Duration = Duration::from_secs(3600);

/// The settings of each server: short leases and two acquires an hour.
const SETTINGS: [(&str, &str); 5] = [
    ("POOL_DEFAULT_TTL", "8s"),
    ("RATE_LIMIT_HOURLY", "2"),
    ("RATE_LIMIT_CONCURRENT", "0"),
    ("POOL_TARGET_SIZE", "3"),
    ("POOL_MIN_SIZE", "0"),
];

/// From which difference to the host's clock to which other one, in hours.
const STEPS: [(i64, i64); 2] = [(8, 0), (0, 8)];

async fn state(server: &Server, instance: &AcquiredInstance) -> String {
    let answer = server.call("GET", &format!("/api/v1/demo/{}", instance.id), "").await;
    answer.json()["state"].as_str().unwrap().to_owned()
}

async fn visit(server: &Server, instance: &AcquiredInstance) -> u16 {
    let name = instance.host.split(':').next().unwrap();
    get(server.port, &format!("{name}:{}", server.port), "/").await.status
}

/// Acquires an instance, sets the clock to `after` hours, and checks what must go on as before. `shown` is the
/// difference to the host's clock of the moments that the server shows by then, in hours.
async fn assert_steady(server: &Server, clock: &WallClock, after: i64, shown: i64) {
    let begun = Instant::now();
    let instance = server.acquire().await;
    let path = format!("/api/v1/demo/{}/status", instance.id);
    let mut events = EventStream::open(server.port, "localhost", &path).await;
    assert_eq!(events.next_event().await.unwrap().0, "ttl");
    clock.set(after);

    // The instance is not ended early, and the events of its stream count down.
    let mut remaining = Vec::new();
    while let Some((name, data)) = events.next_event().await {
        match name.as_str() {
            "ttl" => remaining.push(data["ttl_remaining"].as_u64().unwrap()),
            other => {
                assert_eq!(other, "expired");
                break;
            }
        }
        if begun.elapsed() + Duration::from_secs(2) < TTL {
            assert_eq!(state(server, &instance).await, "assigned", "after {:?}", begun.elapsed());
            assert_eq!(visit(server, &instance).await, 200);
        }
    }
    let took = begun.elapsed();
    assert!(remaining.len() >= 5 && remaining.is_sorted_by(|a, b| a >= b), "{remaining:?}");
    assert!(took + Duration::from_millis(100) >= TTL && took < TTL + SLACK, "it ended after {took:?}");
    assert_eq!(state(server, &instance).await, "expired");
    assert_eq!(visit(server, &instance).await, 410);

    // The limit has room for one more, and its window goes on.
    let answer = server.call("POST", "/api/v1/demo/acquire", "").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let promised = ahead_of_host(answer.json()["expires_at"].as_str().unwrap());
    let expected = HOUR * u32::try_from(shown).unwrap() + TTL;
    assert!(promised.abs_diff(expected) < SLACK, "{promised:?} is shown, expected {expected:?}");
    let refused = server.call("POST", "/api/v1/demo/acquire", "").await;
    assert_eq!((refused.status, refused.json()["code"].as_str()), (429, Some("RATE_LIMITED")));
    let retry_after: u64 = refused.header("retry-after").parse().unwrap();
    assert!((3500..=3600).contains(&retry_after), "{retry_after}");

    // The pool goes on: what ended is replaced, and all is cleaned up.
    eventually("the pool is full and the second instance has ended", async || {
        let stats = server.stats().await;
        (stats["ready"] == 3 && stats["assigned"] == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_wall_clock_of_a_server_is_set_by_eight_hours() {
    join_all(STEPS.map(async |(before, after)| {
        let clock = WallClock::new(before);
        let server = Server::start(&[&SETTINGS[..], &clock.variables()].concat()).await;
        assert_steady(&server, &clock, after, after).await;
    }))
    .await;
}

#[tokio::test]
async fn the_wall_clock_of_a_node_is_set_by_eight_hours() {
    join_all(STEPS.map(async |(before, after)| {
        let clock = WallClock::new(before);
        let Some(valkey) = ValkeyServer::start(Persistence::None, &[]) else { return };
        let address = valkey.host_and_port();
        let settings = [&SETTINGS[..], &[("VALKEY_ADDR", &*address)]].concat();
        let server = Server::start(&[&settings[..], &clock.variables()].concat()).await;
        // The other node's clock is that of the host all the time.
        let other = Server::start_with(&[&settings[..], &[("POOL_TARGET_SIZE", "0")]].concat(), &[]).await;
        assert_steady(&server, &clock, after, after).await;
        let nodes = other.call("GET", "/api/v1/nodes", "").await.json();
        assert_eq!(nodes["nodes"].as_array().unwrap().len(), 2, "{nodes}");
    }))
    .await;
}

#[tokio::test]
async fn the_wall_clock_of_the_host_of_valkey_is_set_by_eight_hours() {
    join_all(STEPS.map(async |(before, after)| {
        let clock = WallClock::new(before);
        let Some(valkey) = ValkeyServer::start_with(Persistence::None, &[], &clock.variables()) else {
            return;
        };
        let address = valkey.host_and_port();
        let settings = [&SETTINGS[..], &[("VALKEY_ADDR", &*address)]].concat();
        let server = Server::start(&settings).await;
        let (seconds, _): (String, String) = valkey.query(&["TIME"]).unwrap();
        let off = before * 3600 - seconds.parse::<i64>().unwrap() + seconds_of_host();
        assert!(off.abs() < 60, "Valkey goes by the clock of this test");
        let other = Server::start_with(&[&settings[..], &[("POOL_TARGET_SIZE", "0")]].concat(), &[]).await;
        assert_steady(&server, &clock, after, 0).await;
        let nodes = other.call("GET", "/api/v1/nodes", "").await.json();
        assert_eq!(nodes["nodes"].as_array().unwrap().len(), 2, "{nodes}");
        // A node that joins after the step goes by the same time.
        let late = Server::start_with(&settings, &[]).await;
        eventually("the late node has joined", async || {
            let nodes = late.call("GET", "/api/v1/nodes", "").await.json();
            (nodes["nodes"].as_array()?.len() == 3).then_some(())
        })
        .await;
        let refused = late.call("POST", "/api/v1/demo/acquire", "").await;
        assert_eq!(refused.status, 429, "{}", refused.text());
    }))
    .await;
}
