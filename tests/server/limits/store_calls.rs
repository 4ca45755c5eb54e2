//! What anonymous clients cost the store: floods of event streams, refused acquires and invented ids, beside good
//! clients.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::{StreamExt, stream};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::support::harness::{
    AcquiredInstance, Answer, EventStream, MAX_WAIT, Server, eventually, get, request,
};
use crate::support::valkey_server::{Persistence, ValkeyServer};

/// The longest time of an acquire beside a flood. Only a failure or a very busy machine takes longer.
const MAX_ACQUIRE_TIME: Duration = Duration::from_secs(1);
/// Requests of a flood that are in flight at a time.
const CONCURRENCY: usize = 20;

/// All commands that a Valkey gets.
struct Monitor<'a> {
    valkey: &'a ValkeyServer,
    lines: Lines<BufReader<TcpStream>>,
}

impl<'a> Monitor<'a> {
    async fn start(valkey: &'a ValkeyServer) -> Self {
        let mut monitor = BufReader::new(TcpStream::connect(valkey.address()).await.unwrap());
        monitor.write_all(b"MONITOR\r\n").await.unwrap();
        let mut lines = monitor.lines();
        assert_eq!(lines.next_line().await.unwrap().as_deref(), Some("+OK"));
        Self { valkey, lines }
    }

    /// Returns the commands since the start, without those that a script executed.
    async fn commands(mut self) -> Vec<String> {
        self.valkey.query::<String>(&["ECHO", "done"]).unwrap();
        let mut commands = Vec::new();
        loop {
            let line = timeout(MAX_WAIT, self.lines.next_line()).await.unwrap().unwrap().unwrap();
            let (from, command) = line.split_once("] ").unwrap();
            if command.starts_with("\"ECHO\"") {
                return commands;
            }
            if !from.ends_with(" lua") {
                commands.push(command.to_owned());
            }
        }
    }
}

/// Returns how many commands contain this text.
fn count(commands: &[String], text: &str) -> usize {
    commands.iter().filter(|command| command.contains(text)).count()
}

/// Returns the n-th of many loopback addresses.
fn source(n: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 9, (n / 200) as u8, (n % 200) as u8 + 1)
}

/// Opens event streams, ten from each address.
async fn open_streams(server: &Server, path: &str, count: usize) -> Vec<EventStream> {
    let open = |n: usize| EventStream::open_from(source(n / 10), server.port, "localhost", path);
    stream::iter(0..count).map(open).buffer_unordered(CONCURRENCY).collect().await
}

async fn acquire_as(server: &Server, visitor: &str) -> Answer {
    server.request("POST", "/api/v1/demo/acquire", &[("x-forwarded-for", visitor)], "").await
}

/// Returns an id that no instance has.
fn invented_id() -> String {
    let name = try_it_now::instance::TemplateName::new("default").unwrap();
    try_it_now::instance::InstanceId::random(&name).to_string()
}

/// Calls `ask` with `count` invented ids. Returns the ids.
async fn ask_for_invented_ids(count: usize, ask: impl AsyncFn(usize, &str)) -> HashSet<String> {
    let ids: Vec<String> = (0..count).map(|_| invented_id()).collect();
    let ask = &ask;
    stream::iter(ids.iter().enumerate())
        .for_each_concurrent(CONCURRENCY, |(n, id)| async move { ask(n, id).await })
        .await;
    ids.into_iter().collect()
}

/// Returns how many commands contain one of these ids.
fn count_ids(commands: &[String], ids: &HashSet<String>) -> usize {
    commands.iter().filter(|command| command.split('"').any(|word| ids.contains(word))).count()
}

#[tokio::test]
async fn many_event_streams_cost_the_store_no_more_than_one_and_an_acquire_beside_them_is_fast() {
    let Some(valkey) = ValkeyServer::start(Persistence::None, &[]) else { return };
    let address = valkey.host_and_port();
    let server = Server::start(&[("VALKEY_ADDR", &address), ("POOL_TARGET_SIZE", "6")]).await;
    let instance = server.acquire().await;
    let path = format!("/api/v1/demo/{}/status", instance.id);
    let mut ready = open_streams(&server, "/ready", 500).await;
    let mut status = open_streams(&server, &path, 200).await;
    let first = join_all(ready.iter_mut().map(EventStream::next_event)).await;
    assert!(first.iter().all(|event| event.as_ref().is_some_and(|(name, _)| name == "ready")));

    let (monitor, start) = (Monitor::start(&valkey).await, Instant::now());
    for _ in 0..4 {
        let begun = Instant::now();
        server.acquire().await;
        assert!(begun.elapsed() < MAX_ACQUIRE_TIME, "{:?}", begun.elapsed());
    }
    for _ in 0..5 {
        let events = join_all(status.iter_mut().map(EventStream::next_event)).await;
        assert!(events.iter().all(|event| event.as_ref().is_some_and(|(name, _)| name == "ttl")));
    }
    let commands = monitor.commands().await;
    let queries = count(&commands, "\"HGETALL\"");
    assert!(queries as u64 <= start.elapsed().as_secs() + 2, "{queries} in {:?}", start.elapsed());
    // The delivery of the instance may be confirmed meanwhile, and the check of all data names it once a second. The
    // streams ask the store for nothing.
    let calls = count(&commands, &instance.id) as u64;
    assert!(calls <= start.elapsed().as_secs() + 2, "{calls} in {:?}", start.elapsed());

    // Every stream shows what happens.
    assert_eq!(server.call("DELETE", &format!("/api/v1/demo/{}", instance.id), "").await.status, 200);
    let ends = join_all(status.iter_mut().map(async |events| {
        loop {
            match events.next_event().await.unwrap().0.as_str() {
                "ttl" => {}
                other => return other.to_owned(),
            }
        }
    }))
    .await;
    assert!(ends.iter().all(|end| end == "gone"), "{ends:?}");
}

#[tokio::test]
async fn without_a_client_that_watches_them_the_ready_counts_are_not_queried() {
    let Some(valkey) = ValkeyServer::start(Persistence::None, &[]) else { return };
    let server = Server::start(&[("VALKEY_ADDR", &valkey.host_and_port())]).await;
    let mut events = EventStream::open(server.port, "localhost", "/ready").await;
    assert_eq!(events.next_event().await.unwrap().0, "ready");
    drop(events);
    eventually("the counts are not queried for two seconds", async || {
        let monitor = Monitor::start(&valkey).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        (count(&monitor.commands().await, "\"HGETALL\"") == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn many_front_pages_cost_the_store_one_query_a_second() {
    let Some(valkey) = ValkeyServer::start(Persistence::None, &[]) else { return };
    let server = Server::start(&[("VALKEY_ADDR", &valkey.host_and_port())]).await;
    let (monitor, start) = (Monitor::start(&valkey).await, Instant::now());
    stream::iter(0..300)
        .for_each_concurrent(CONCURRENCY, async |_| {
            let page = get(server.port, "localhost", "/").await;
            assert_eq!(page.status, 200);
            assert!(page.text().contains("2 ready now"), "{}", page.text());
        })
        .await;
    let queries = count(&monitor.commands().await, "\"HGETALL\"");
    assert!(queries as u64 <= start.elapsed().as_secs() + 2, "{queries} in {:?}", start.elapsed());
}

#[tokio::test]
async fn a_refused_visitor_who_repeats_an_acquire_a_thousand_times_costs_the_store_two_calls() {
    let Some(valkey) = ValkeyServer::start(Persistence::None, &[]) else { return };
    let address = valkey.host_and_port();
    let limits = [("VALKEY_ADDR", &*address), ("RATE_LIMIT_HOURLY", "1"), ("POOL_TARGET_SIZE", "3")];
    let server = Server::start(&limits).await;
    let (hostile, good) = ("203.0.113.77", "203.0.113.78");
    assert_eq!(acquire_as(&server, hostile).await.status, 200);
    let monitor = Monitor::start(&valkey).await;
    // The first refusal comes before the flood: requests in flight together would each get their own.
    assert_eq!(acquire_as(&server, hostile).await.status, 429);
    stream::iter(0..1000)
        .for_each_concurrent(CONCURRENCY, async |n| {
            let refused = acquire_as(&server, hostile).await;
            assert_eq!(refused.status, 429, "{n}");
            let retry_after: u64 = refused.header("retry-after").parse().unwrap();
            assert!((3400..=3600).contains(&retry_after), "{retry_after}");
        })
        .await;
    assert_eq!(acquire_as(&server, good).await.status, 200);
    let commands = monitor.commands().await;
    let calls = [hostile, good].map(|visitor| count(&commands, visitor));
    assert!(calls[0] <= 2 && calls[1] >= 1, "{calls:?}");
}

#[tokio::test]
async fn a_thousand_invented_ids_cost_the_store_no_more_than_the_budget_of_their_client() {
    let Some(valkey) = ValkeyServer::start(Persistence::None, &[]) else { return };
    let server = Server::start(&[("VALKEY_ADDR", &valkey.host_and_port())]).await;
    let instance = server.acquire().await;
    let hostile = [("x-forwarded-for", "203.0.113.77"), ("content-type", "application/json")];
    let (monitor, start) = (Monitor::start(&valkey).await, Instant::now());
    let ids = ask_for_invented_ids(1000, async |n, id| {
        let path = format!("/api/v1/demo/{id}");
        let api = async |method, path: &str, body| server.request(method, path, &hostile, body).await.status;
        let host = format!("{id}.localhost:{}", server.port);
        let status = match n % 6 {
            0 => api("GET", &path, "").await,
            1 => api("POST", &format!("{path}/extend"), r#"{"minutes":1}"#).await,
            2 => api("DELETE", &path, "").await,
            3 => api("GET", &format!("{path}/status"), "").await,
            4 => api("GET", &format!("{path}/logs"), "").await,
            _ => request(server.port, "GET", &host, "/", &hostile[..1], "").await.status,
        };
        assert_eq!(status, 404, "{n}");
        // The flood is on its way: a good visitor is not affected.
        if n % 100 == 99 {
            assert_eq!(get(server.port, &instance.host, "/").await.status, 200);
            let good = server.call("GET", &format!("/api/v1/demo/{}", instance.id), "").await;
            assert_eq!(good.status, 200, "{}", good.text());
        }
    })
    .await;
    let took = start.elapsed();
    // An id of another client is asked for.
    let other = invented_id();
    assert_eq!(server.call("GET", &format!("/api/v1/demo/{other}"), "").await.status, 404);
    let commands = monitor.commands().await;
    assert_eq!(count(&commands, &other), 1);
    let calls = count_ids(&commands, &ids);
    assert!((1..=21 + took.as_secs() as usize).contains(&calls), "{calls} in {took:?}");
}

#[tokio::test]
async fn invented_ids_from_many_addresses_cost_the_store_no_more_than_the_budget_of_all_clients() {
    let Some(valkey) = ValkeyServer::start(Persistence::None, &[]) else { return };
    let server = Server::start(&[("VALKEY_ADDR", &valkey.host_and_port())]).await;
    let (monitor, start) = (Monitor::start(&valkey).await, Instant::now());
    let ids = ask_for_invented_ids(1500, async |n, id| {
        let address = format!("198.51.{}.{}", 100 + n / 200, n % 200);
        let host = format!("{id}.localhost:{}", server.port);
        let answer = request(server.port, "GET", &host, "/", &[("x-forwarded-for", &address)], "").await;
        assert_eq!(answer.status, 404);
    })
    .await;
    let (commands, took) = (monitor.commands().await, start.elapsed());
    let calls = count_ids(&commands, &ids);
    assert!(calls <= 101 + took.as_millis() as usize / 10, "{calls} in {took:?}");
}

#[tokio::test]
async fn a_client_with_the_api_key_may_ask_for_any_number_of_ids() {
    let Some(valkey) = ValkeyServer::start(Persistence::None, &[]) else { return };
    let server =
        Server::start_with(&[("VALKEY_ADDR", &valkey.host_and_port()), ("API_KEY", "key")], &[]).await;
    let monitor = Monitor::start(&valkey).await;
    let ids = ask_for_invented_ids(60, async |_, id| {
        let path = format!("/api/v1/demo/{id}");
        assert_eq!(server.request("GET", &path, &[("x-api-key", "key")], "").await.status, 404);
    })
    .await;
    assert_eq!(count_ids(&monitor.commands().await, &ids), 60);
}

#[tokio::test]
async fn a_visitor_behind_a_flooded_address_reaches_what_another_node_assigned_just_now() {
    let Some(valkey) = ValkeyServer::start(Persistence::None, &[]) else { return };
    let address = valkey.host_and_port();
    let settings = [("VALKEY_ADDR", &*address), ("POOL_TARGET_SIZE", "3")];
    let nodes = [Server::start(&settings).await, Server::start(&settings).await];
    // The nodes know each other: each assigns instances that the other reaches.
    eventually("the nodes know each other", async || {
        let answer = nodes[1].call("GET", "/api/v1/nodes", "").await;
        (answer.json()["nodes"].as_array()?.len() == 2).then_some(())
    })
    .await;
    let visit = async |instance: &AcquiredInstance| {
        let label = instance.host.split('.').next().unwrap();
        get(nodes[1].port, &format!("{label}.localhost:{}", nodes[1].port), "/").await.status
    };
    eventually("the second node reaches the first", async || {
        let instance = nodes[0].acquire().await;
        let status = visit(&instance).await;
        nodes[0].call("DELETE", &format!("/api/v1/demo/{}", instance.id), "").await;
        (status == 200).then_some(())
    })
    .await;
    // This test's own address is the flooded one.
    ask_for_invented_ids(200, async |_, id| {
        let host = format!("{id}.localhost:{}", nodes[1].port);
        assert_eq!(get(nodes[1].port, &host, "/").await.status, 404);
    })
    .await;
    for _ in 0..3 {
        let instance = nodes[0].acquire().await;
        assert_eq!(visit(&instance).await, 200);
    }
}
