//! Handovers under a steady load: no request fails, and no instance is assigned twice or lost.
//!
//! `HANDOVERS` (2), `HANDOVER_PAGES` (200) and `HANDOVER_ACQUIRES` (5) set how many processes take the place of the server,
//! and how many pages and acquires a second there are meanwhile. `make handovers` does it at a high rate. A host makes
//! fewer instances a second than visitors may come for in a moment, so the pool is filled before each handover, and
//! acquires come from some seconds before it to some seconds after it.

use std::collections::BTreeSet;
use std::env;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};
use try_it_now::telemetry::task;

use crate::containers::{ContainerHost, FULL_TIMEOUT, release, shut_down};
use crate::support::harness::{AcquiredInstance, Answer, RawConnection, Server, eventually_within};
use crate::support::stack::Stack;

/// The connections of each kind, all of which stay open between two requests.
const PAGE_CONNECTIONS: usize = 32;
const API_CONNECTIONS: usize = 8;
/// How long the load goes on before and after each handover: the time in which so many requests are to be answered.
const SECONDS_BEFORE: u32 = 2;
const SECONDS_AFTER: u32 = 1;

/// What a busy host takes at most to make one instance beside the pages.
const SLOWEST_START: Duration = Duration::from_millis(500);

fn setting(name: &str, default: u32) -> u32 {
    env::var(name).map_or(default, |value| value.parse().unwrap())
}

/// What the clients saw.
#[derive(Default)]
struct Seen {
    acquired: Mutex<Vec<String>>,
    /// Those of the acquired instances that are not released.
    held: Mutex<Vec<String>>,
    failures: Mutex<Vec<String>>,
    pages: Latencies,
    acquires: Latencies,
    /// Whether no acquires come.
    is_refilling: AtomicBool,
    is_over: AtomicBool,
}

/// How long requests took, each from the moment at which it was to be sent.
#[derive(Default)]
struct Latencies(Mutex<Vec<Duration>>);

impl Latencies {
    fn record(&self, intended: Instant) {
        self.0.lock().push(intended.elapsed());
    }

    fn count(&self) -> usize {
        self.0.lock().len()
    }

    fn quantiles(&self) -> String {
        let mut sorted = self.0.lock().clone();
        sorted.sort();
        let quantile = |share: f64| sorted[((sorted.len() - 1) as f64 * share) as usize];
        format!("p50 {:?}, p99 {:?}, longest {:?}", quantile(0.5), quantile(0.99), quantile(1.0))
    }
}

/// A connection that is opened again only after an answer that said that it closes.
struct KeptConnection {
    port: u16,
    open: Option<RawConnection>,
}

impl KeptConnection {
    async fn ask(&mut self, method: &str, host: &str, path: &str) -> Result<Answer, String> {
        let mut connection = match self.open.take() {
            Some(open) => open,
            None => RawConnection::connect(self.port).await,
        };
        let request = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n\r\n");
        connection.try_send(request).await.map_err(|error| format!("{method} {path}: {error}"))?;
        let head = connection.try_read_head().await;
        let head = head.ok_or_else(|| format!("{method} {path}: closed before its answer"))?;
        let closes = head.headers.get("connection").is_some_and(|value| value == "close");
        let answer = connection.read_body(head).await;
        if !closes {
            self.open = Some(connection);
        }
        match answer.status {
            200 | 204 => Ok(answer),
            status => Err(format!("{method} {path}: {status} {}", answer.text())),
        }
    }
}

/// The moments at which one of several connections sends a request, so that all together send `rate` a second. A late
/// request counts from when it was to be sent.
fn moments(number: usize, connections: usize, rate: u32) -> Interval {
    let period = Duration::from_secs(1) * connections as u32 / rate;
    let mut moments = interval_at(Instant::now() + period * number as u32 / connections as u32, period);
    moments.set_missed_tick_behavior(MissedTickBehavior::Burst);
    moments
}

async fn read_pages(mut kept: KeptConnection, mut moments: Interval, host: String, seen: Arc<Seen>) {
    while !seen.is_over.load(SeqCst) {
        let intended = moments.tick().await;
        match kept.ask("GET", &host, "/").await {
            Ok(_) => seen.pages.record(intended),
            Err(failure) => seen.failures.lock().push(failure),
        }
    }
}

async fn acquire(mut kept: KeptConnection, mut moments: Interval, seen: Arc<Seen>) {
    while !seen.is_over.load(SeqCst) {
        let intended = moments.tick().await;
        if seen.is_refilling.load(SeqCst) {
            continue;
        }
        match kept.ask("POST", "localhost", "/api/v1/demo/acquire").await {
            Ok(answer) => {
                seen.acquires.record(intended);
                let id = AcquiredInstance::from_json(&answer.json()).id;
                seen.acquired.lock().push(id.clone());
                seen.held.lock().push(id);
            }
            Err(failure) => seen.failures.lock().push(failure),
        }
    }
}

/// Releases the instances that were acquired, while no acquires come, until the pool is full.
async fn refill(server: &Server, kept: &mut KeptConnection, size: u32, seen: &Seen) {
    seen.is_refilling.store(true, SeqCst);
    eventually_within(FULL_TIMEOUT + SLOWEST_START * size, "the pool is full", async || {
        let held = std::mem::take(&mut *seen.held.lock());
        for id in &held {
            if let Err(failure) = kept.ask("DELETE", "localhost", &format!("/api/v1/demo/{id}")).await {
                seen.failures.lock().push(failure);
            }
        }
        (held.is_empty() && server.stats().await["ready"] == size).then_some(())
    })
    .await;
    seen.is_refilling.store(false, SeqCst);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handovers_under_a_steady_load_fail_no_request() {
    let Some(stack) = Stack::find() else { return };
    let Some(host) = ContainerHost::new(stack, "sample", "", "path = \"/\"") else { return };
    let (pages, acquires) = (setting("HANDOVER_PAGES", 200), setting("HANDOVER_ACQUIRES", 5));
    // The acquires around one handover leave half of them, so that they do not wait for a refill.
    let size = acquires * 10;
    let target = size.to_string();
    let settings = [("POOL_TARGET_SIZE", &*target), ("POOL_MAX_SIZE", "2000"), ("ACQUIRE_TIMEOUT", "20s")];
    let mut server =
        host.start_server(&settings).await.full_within(FULL_TIMEOUT + SLOWEST_START * size).await;
    let visited = server.acquire().await;
    let seen = Arc::new(Seen::default());
    let kept = || KeptConnection { port: server.port, open: None };
    let (mut clients, mut releasing) = (Vec::new(), kept());
    for number in 0..PAGE_CONNECTIONS {
        let moments = moments(number, PAGE_CONNECTIONS, pages);
        let reading = read_pages(kept(), moments, visited.host.clone(), seen.clone());
        clients.push(task::spawn("pages", reading));
    }
    for number in 0..API_CONNECTIONS {
        let moments = moments(number, API_CONNECTIONS, acquires);
        clients.push(task::spawn("acquires", acquire(kept(), moments, seen.clone())));
    }
    let counts = || (seen.pages.count(), seen.acquires.count());
    let seconds_pass = async |seconds: u32| {
        let (read, acquired) = counts();
        eventually_within(FULL_TIMEOUT, "as many pages and acquires", async || {
            let now = counts();
            let enough = now.0 - read >= (seconds * pages) as usize
                && now.1 - acquired >= (seconds * acquires) as usize;
            enough.then_some(())
        })
        .await;
    };
    let handovers = setting("HANDOVERS", 2);
    let (mut loaded, mut around) = (Duration::ZERO, (0, 0));
    for _ in 0..handovers {
        refill(&server, &mut releasing, size, &seen).await;
        let (begun, before) = (Instant::now(), counts());
        seconds_pass(SECONDS_BEFORE).await;
        server.replace().await;
        seconds_pass(SECONDS_AFTER).await;
        let after = counts();
        loaded += begun.elapsed();
        around = (around.0 + after.0 - before.0, around.1 + after.1 - before.1);
    }
    seen.is_over.store(true, SeqCst);
    for client in clients {
        client.await.unwrap();
    }

    let rate = |count: usize| count as f64 / loaded.as_secs_f64();
    println!(
        "{handovers} handovers: {} pages, {} acquires, {} failures; around handovers {:.0} pages and {:.1} acquires a \
         second",
        seen.pages.count(),
        seen.acquires.count(),
        seen.failures.lock().len(),
        rate(around.0),
        rate(around.1),
    );
    println!("pages {}; acquires {}", seen.pages.quantiles(), seen.acquires.quantiles());
    assert_eq!(*seen.failures.lock(), Vec::<String>::new());
    let acquired = seen.acquired.lock().clone();
    let different: BTreeSet<_> = acquired.iter().collect();
    assert_eq!(different.len(), acquired.len(), "no instance is assigned twice");
    let held = std::mem::take(&mut *seen.held.lock());
    for id in held.iter().chain([&visited.id]) {
        release(&server, id).await;
    }
    shut_down(&mut server).await;
    host.assert_nothing_left().await;
}
