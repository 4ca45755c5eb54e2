//! Handovers under a steady load: no request fails, and no instance is assigned twice or lost.
//!
//! `HANDOVERS` (2), `HANDOVER_PAGES` (200) and `HANDOVER_ACQUIRES` (5) set how many processes take the place of the server,
//! and how many pages and acquires a second there are meanwhile. `make handovers` does it at a high rate.

use std::collections::BTreeSet;
use std::env;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};
use try_it_now::telemetry::task;

use crate::containers::{ContainerHost, FULL_TIMEOUT, release, shut_down};
use crate::support::harness::{AcquiredInstance, Answer, RawConnection, eventually_within};
use crate::support::stack::Stack;

/// The connections of each kind, all of which stay open between two requests.
const PAGE_CONNECTIONS: usize = 32;
const API_CONNECTIONS: usize = 8;
/// How long the load goes on between two handovers.
const BETWEEN: Duration = Duration::from_secs(2);

fn setting(name: &str, default: u32) -> u32 {
    env::var(name).map_or(default, |value| value.parse().unwrap())
}

/// What the clients saw.
#[derive(Default)]
struct Seen {
    acquired: Mutex<Vec<String>>,
    failures: Mutex<Vec<String>>,
    /// Of each page, from the moment at which it was to be requested.
    latencies: Mutex<Vec<Duration>>,
    is_over: AtomicBool,
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
            Ok(_) => seen.latencies.lock().push(intended.elapsed()),
            Err(failure) => seen.failures.lock().push(failure),
        }
    }
}

async fn acquire_and_release(mut kept: KeptConnection, mut moments: Interval, seen: Arc<Seen>) {
    while !seen.is_over.load(SeqCst) {
        moments.tick().await;
        let visit = async {
            let acquired = kept.ask("POST", "localhost", "/api/v1/demo/acquire").await?;
            let instance = AcquiredInstance::from_json(&acquired.json());
            seen.acquired.lock().push(instance.id.clone());
            kept.ask("DELETE", "localhost", &format!("/api/v1/demo/{}", instance.id)).await
        };
        if let Err(failure) = visit.await {
            seen.failures.lock().push(failure);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handovers_under_a_steady_load_fail_no_request() {
    let Some(stack) = Stack::find() else { return };
    let Some(host) = ContainerHost::new(stack, "sample", "", "path = \"/\"") else { return };
    let (pages, acquires) = (setting("HANDOVER_PAGES", 200), setting("HANDOVER_ACQUIRES", 5));
    let size = (acquires * 4).to_string();
    let settings = [
        ("POOL_TARGET_SIZE", &*size),
        ("POOL_MAX_SIZE", "2000"),
        ("POOL_REPLENISH_THRESHOLD", "1"),
        ("ACQUIRE_TIMEOUT", "20s"),
    ];
    let mut server = host.start_server(&settings).await.full_within(FULL_TIMEOUT).await;
    let visited = server.acquire().await;
    let seen = Arc::new(Seen::default());
    let kept = || KeptConnection { port: server.port, open: None };
    let mut clients = Vec::new();
    for number in 0..PAGE_CONNECTIONS {
        let moments = moments(number, PAGE_CONNECTIONS, pages);
        let reading = read_pages(kept(), moments, visited.host.clone(), seen.clone());
        clients.push(task::spawn("pages", reading));
    }
    for number in 0..API_CONNECTIONS {
        let moments = moments(number, API_CONNECTIONS, acquires);
        clients.push(task::spawn("acquires", acquire_and_release(kept(), moments, seen.clone())));
    }
    let wait_for = async |pages: usize, acquires: usize| {
        eventually_within(FULL_TIMEOUT, "as many pages and acquires", async || {
            let answered = (seen.latencies.lock().len(), seen.acquired.lock().len());
            (answered.0 >= pages && answered.1 >= acquires).then_some(())
        })
        .await;
    };
    let (between, handovers) = (BETWEEN.as_secs() as usize, setting("HANDOVERS", 2));
    for _ in 0..handovers {
        let (read, acquired) = (seen.latencies.lock().len(), seen.acquired.lock().len());
        wait_for(read + between * pages as usize, acquired + between * acquires as usize).await;
        server.replace().await;
    }
    let (read, acquired) = (seen.latencies.lock().len(), seen.acquired.lock().len());
    wait_for(read + pages as usize, acquired + acquires as usize).await;
    seen.is_over.store(true, SeqCst);
    for client in clients {
        client.await.unwrap();
    }

    let (mut latencies, acquired) = (seen.latencies.lock().clone(), seen.acquired.lock().clone());
    latencies.sort();
    let quantile = |share: f64| latencies[((latencies.len() - 1) as f64 * share) as usize];
    println!(
        "{handovers} handovers: {} pages, {} acquires, {} failures; pages p50 {:?}, p99 {:?}, longest {:?}",
        latencies.len(),
        acquired.len(),
        seen.failures.lock().len(),
        quantile(0.5),
        quantile(0.99),
        quantile(1.0)
    );
    assert_eq!(*seen.failures.lock(), Vec::<String>::new());
    let different: BTreeSet<_> = acquired.iter().collect();
    assert_eq!(different.len(), acquired.len(), "no instance is assigned twice");
    release(&server, &visited.id).await;
    shut_down(&mut server).await;
    host.assert_nothing_left().await;
}
