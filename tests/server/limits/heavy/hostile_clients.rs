//! Hostile clients hold what they can get of the server, beside good clients who must not notice.
//!
//! The latency of a good request counts from the moment at which it was due, whether or not the one before it had ended:
//! a server that stops for a second delays every request of that second, not one. The same good clients visit a second
//! server, which is not attacked, at the same moments. Whatever else slows the machine, slows both.
//!
//! The test is heavy because it measures: beside other tests it would measure those. `HOSTILE_CLIENTS` (100) sets how many
//! there are; `make hostile` has 500.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{join, join_all};
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use try_it_now::telemetry::task;

use crate::support::harness::{AcquiredInstance, MAX_WAIT, Server, eventually_within};

/// How long the good clients are measured without hostile ones, before and after.
const QUIET: Duration = Duration::from_secs(5);
/// How long they are measured beside each hundred of them. With 500 it is longer than each timeout of the server that
/// ends a hostile connection, so that these begin again.
const ATTACKED_PER_HUNDRED: Duration = Duration::from_secs(8);
const GOOD_CLIENTS: u32 = 20;
/// Time between two requests of one good client.
const REQUEST_INTERVAL: Duration = Duration::from_millis(500);
/// A good request that takes longer counts as failed.
const REQUEST_DEADLINE: Duration = Duration::from_secs(5);

/// The hostile clients have five addresses: many connections each, as a few machines would have.
const HOSTILE_ADDRESSES: usize = 5;
/// What the hostile clients' kernels receive ahead of a client that reads nothing.
const HOSTILE_RECEIVE_BUFFER: u32 = 4096;
/// Time between the first connections of two hostile clients. Opening a connection and its streams costs the server
/// time that nothing can save, so the clients do not begin at once.
const HOSTILE_START_INTERVAL: Duration = Duration::from_millis(40);
/// Time until a hostile client that was refused or cut off connects again.
const RECONNECT_INTERVAL: Duration = Duration::from_millis(500);
/// Time between two bytes of a trickled head or body.
const TRICKLE_INTERVAL: Duration = Duration::from_millis(500);
/// Time between two streams that are opened and reset. A reset stream costs the server and the app as much as a good
/// request, and no limit can tell the first ones from a browser's. So the rate leaves the machine time: what is measured
/// is that a reset costs nothing that stays.
const RESET_INTERVAL: Duration = Duration::from_millis(500);
/// Time between two streams that one connection opens and does not read. It keeps the opening from being a burst.
const STREAM_INTERVAL: Duration = Duration::from_millis(100);
/// Streams of one HTTP/2 connection whose answers are not read.
const UNREAD_STREAMS: usize = 20;

/// The 99th percentile may be twice that of the other server, and is allowed so many medians of this machine in any case.
/// The clients, the servers and the apps share its cores: a good request waits for several others whenever these have
/// the core, so a small percentile doubles by chance.
const MEDIANS_ALLOWED: u32 = 5;

/// What the server may use besides what its connections hold: allocator, routes, the good clients.
const BASE_MEMORY: u64 = 64 << 20;
/// What the server may hold of answers that their clients do not read: a sixteenth of `MAX_BUFFERED_BYTES` for each
/// address of hostile clients.
const UNREAD_ANSWERS: u64 = HOSTILE_ADDRESSES as u64 * (512 << 20) / 16;
/// What one connection may hold besides: its buffers for heads, and of TLS and HTTP/2 for frames.
const MEMORY_PER_CONNECTION: u64 = 64 << 10;

/// What a hostile client does with its connections.
#[derive(Debug, Clone, Copy)]
enum Attack {
    /// Reads nothing of a large download.
    StalledReader,
    /// Opens an event stream, of an app or of the API, and reads nothing.
    UnreadStream,
    /// Connects and sends nothing.
    Silent,
    TrickledHead,
    TrickledBody,
    /// Opens streams of HTTP/2 and resets each at once.
    StreamResets,
    /// Opens streams of HTTP/2 whose answers it never reads.
    UnreadStreams,
    IdleWebSocket,
}

impl Attack {
    const ALL: [Attack; 8] = [
        Attack::StalledReader,
        Attack::UnreadStream,
        Attack::Silent,
        Attack::TrickledHead,
        Attack::TrickledBody,
        Attack::StreamResets,
        Attack::UnreadStreams,
        Attack::IdleWebSocket,
    ];
}

/// What all hostile clients know and count.
struct Hostile {
    port: u16,
    instance: AcquiredInstance,
    /// Clients whose first connection was opened or refused.
    started: AtomicUsize,
    /// Connections that were opened.
    connections: AtomicUsize,
}

impl Hostile {
    /// Attacks until the task is aborted.
    async fn run(self: Arc<Self>, n: usize) {
        let attack = Attack::ALL[n % Attack::ALL.len()];
        sleep(HOSTILE_START_INTERVAL * n as u32).await;
        let mut is_first = true;
        loop {
            let stream = timeout(MAX_WAIT, self.connect(n)).await;
            if std::mem::take(&mut is_first) {
                self.started.fetch_add(1, Ordering::Relaxed);
            }
            if let Ok(Ok(stream)) = stream {
                self.connections.fetch_add(1, Ordering::Relaxed);
                // The server ends the connection, or refuses it.
                let _ = self.attack(attack, n, stream).await;
            }
            sleep(RECONNECT_INTERVAL).await;
        }
    }

    async fn connect(&self, n: usize) -> io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        socket.set_recv_buffer_size(HOSTILE_RECEIVE_BUFFER)?;
        socket.bind(SocketAddr::from(([127, 66, 0, 1 + (n % HOSTILE_ADDRESSES) as u8], 0)))?;
        socket.connect(SocketAddr::from(([127, 0, 0, 1], self.port))).await
    }

    async fn attack(&self, attack: Attack, n: usize, mut stream: TcpStream) -> io::Result<()> {
        let host = &self.instance.host;
        let get = |host: &str, path: &str| format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        match attack {
            Attack::StalledReader => {
                stream.write_all(get(host, "/download?bytes=1000000000").as_bytes()).await?;
                until_closed_unread(&mut stream).await
            }
            Attack::UnreadStream => {
                let status = format!("/api/v1/demo/{}/status", self.instance.id);
                let request = match n / Attack::ALL.len() % 3 {
                    0 => get(host, "/events"),
                    1 => get("localhost", &status),
                    _ => get("localhost", "/ready"),
                };
                stream.write_all(request.as_bytes()).await?;
                until_closed_unread(&mut stream).await
            }
            Attack::Silent => until_closed(&mut stream).await,
            Attack::TrickledHead => {
                trickle(&mut stream, &format!("GET / HTTP/1.1\r\nHost: {host}\r\nX-A: ")).await
            }
            Attack::TrickledBody => {
                let (host, path, length) = if (n / Attack::ALL.len()).is_multiple_of(2) {
                    (host.as_str(), "/upload", 1_000_000_000)
                } else {
                    ("localhost", "/api/v1/demo/acquire", 10_000)
                };
                let head =
                    format!("POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n\r\n");
                trickle(&mut stream, &head).await
            }
            Attack::StreamResets => self.reset_streams(stream).await.map_err(io::Error::other),
            Attack::UnreadStreams => self.leave_streams_unread(stream).await.map_err(io::Error::other),
            Attack::IdleWebSocket => {
                let handshake = get(host, "/live").replace(
                    "\r\n\r\n",
                    "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
                );
                stream.write_all(handshake.as_bytes()).await?;
                until_closed_unread(&mut stream).await
            }
        }
    }

    async fn reset_streams(&self, stream: TcpStream) -> Result<(), h2::Error> {
        let (send, connection) = h2::client::handshake(stream).await?;
        let resets = async {
            loop {
                let request = Request::get(format!("http://{}/", self.instance.host)).body(()).unwrap();
                let (_, mut stream) = send.clone().ready().await?.send_request(request, true)?;
                stream.send_reset(h2::Reason::CANCEL);
                sleep(RESET_INTERVAL).await;
            }
        };
        tokio::select! {
            ended = connection => ended,
            ended = resets => ended,
        }
    }

    async fn leave_streams_unread(&self, stream: TcpStream) -> Result<(), h2::Error> {
        let (send, connection) = h2::client::handshake(stream).await?;
        let requests = async {
            let mut unread = Vec::new();
            for _ in 0..UNREAD_STREAMS {
                let uri = format!("http://{}/download?bytes=1000000000", self.instance.host);
                let request = Request::get(uri).body(()).unwrap();
                unread.push(send.clone().ready().await?.send_request(request, true)?);
                sleep(STREAM_INTERVAL).await;
            }
            // The connection's flow-control window is never opened again.
            std::future::pending::<Result<(), h2::Error>>().await
        };
        tokio::select! {
            ended = connection => ended,
            ended = requests => ended,
        }
    }
}

/// Waits until the server closes the connection, and discards what it sends.
async fn until_closed(stream: &mut TcpStream) -> io::Result<()> {
    let mut sink = [0; 512];
    while stream.read(&mut sink).await? > 0 {}
    Ok(())
}

/// Waits until the server ends the connection, and reads nothing.
async fn until_closed_unread(stream: &mut TcpStream) -> io::Result<()> {
    loop {
        let ready = stream.ready(Interest::READABLE | Interest::ERROR).await?;
        if ready.is_read_closed() || ready.is_error() {
            return Ok(());
        }
        // It stays readable, since nothing is read.
        sleep(RECONNECT_INTERVAL).await;
    }
}

/// Sends a head, and then one byte at a time until the server closes the connection.
async fn trickle(stream: &mut TcpStream, head: &str) -> io::Result<()> {
    stream.write_all(head.as_bytes()).await?;
    let mut sink = [0; 512];
    loop {
        match timeout(TRICKLE_INTERVAL, stream.read(&mut sink)).await {
            Ok(Ok(1..)) => {}
            Ok(ended) => return ended.map(drop),
            Err(_) => stream.write_all(b"a").await?,
        }
    }
}

/// What the good clients saw.
#[derive(Debug, Default)]
struct Seen {
    latencies: Vec<Duration>,
    failures: Vec<String>,
}

impl Seen {
    fn extend(&mut self, other: Seen) {
        self.latencies.extend(other.latencies);
        self.failures.extend(other.failures);
    }

    fn percentile(&self, percent: usize) -> Duration {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)]
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} requests, p50 {:?}, p99 {:?}, {} failed",
            self.latencies.len(),
            self.percentile(50),
            self.percentile(99),
            self.failures.len()
        )
    }
}

/// Opens a connection of a good client.
async fn good_connection(port: u16) -> Result<SendRequest<Empty<Bytes>>, String> {
    let stream =
        TcpStream::connect(("127.0.0.1", port)).await.map_err(|error| format!("connect: {error}"))?;
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (send, connection) = handshake.map_err(|error| format!("handshake: {error}"))?;
    task::spawn("good", connection);
    Ok(send)
}

async fn good_request(send: &mut SendRequest<Empty<Bytes>>, host: &str, path: &str) -> Result<(), String> {
    let request = Request::get(path).header("host", host).body(Empty::new()).unwrap();
    let answer = send.send_request(request).await.map_err(|error| format!("{host}{path}: {error}"))?;
    let status = answer.status();
    answer.into_body().collect().await.map_err(|error| format!("{host}{path}: {error}"))?;
    if status == 200 { Ok(()) } else { Err(format!("{host}{path}: {status}")) }
}

/// Visits an instance, on a connection that stays open, and by turns `/health` and the front page, on a new one. Measures
/// for this long.
async fn good_client(port: u16, host: String, first: Instant, phase: Duration) -> Seen {
    let mut seen = Seen::default();
    let mut kept: Option<SendRequest<Empty<Bytes>>> = None;
    let steps = (phase.as_millis() / REQUEST_INTERVAL.as_millis()) as u32;
    for step in 0..steps {
        let due = first + REQUEST_INTERVAL * step;
        sleep_until(due).await;
        let exchange = async {
            if step % 2 == 0 {
                let mut send = match kept.take().filter(|send| !send.is_closed()) {
                    Some(send) => send,
                    None => good_connection(port).await?,
                };
                good_request(&mut send, &host, "/").await?;
                kept = Some(send);
                Ok(())
            } else {
                let path = if step % 4 == 1 { "/health" } else { "/" };
                good_request(&mut good_connection(port).await?, "localhost", path).await
            }
        };
        match timeout(REQUEST_DEADLINE, exchange).await {
            Ok(Ok(())) => seen.latencies.push(due.elapsed()),
            Ok(Err(failure)) => seen.failures.push(failure),
            Err(_) => seen.failures.push(format!("no answer within {REQUEST_DEADLINE:?}")),
        }
    }
    seen
}

/// Runs all good clients for this long.
async fn good_clients(port: u16, host: String, phase: Duration) -> Seen {
    let start = Instant::now();
    let clients = (0..GOOD_CLIENTS).map(|n| {
        // The requests of all clients are evenly distributed over the interval.
        let first = start + REQUEST_INTERVAL * n / GOOD_CLIENTS;
        task::spawn("good", good_client(port, host.clone(), first, phase))
    });
    let mut all = Seen::default();
    for seen in join_all(clients).await {
        all.extend(seen.unwrap());
    }
    all
}

/// The resident memory of a process, now or at its peak.
#[derive(Debug, Clone, Copy)]
struct Memory {
    now: u64,
    peak: u64,
}

impl Memory {
    fn of(pid: u32) -> Self {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
        };
        Self { now: field("VmRSS:"), peak: field("VmHWM:") }
    }
}

/// Counts the open descriptors of a process.
fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// A server and the instance that its good clients visit.
struct Visited {
    server: Server,
    good: AcquiredInstance,
}

impl Visited {
    async fn start() -> Self {
        let server = Server::start(&[("POOL_TARGET_SIZE", "3"), ("LOG_LEVEL", "info")]).await;
        let good = server.acquire().await;
        Self { server, good }
    }

    fn good_clients(&self, phase: Duration) -> impl Future<Output = Seen> {
        good_clients(self.server.port, self.good.host.clone(), phase)
    }
}

fn hostile_clients() -> usize {
    std::env::var("HOSTILE_CLIENTS").map_or(100, |value| value.parse().expect("a number of clients"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_clients_do_not_slow_twenty_good_ones() {
    let number = hostile_clients();
    let (attacked, other) = join(Visited::start(), Visited::start()).await;
    let (port, pid) = (attacked.server.port, attacked.server.pid());
    let instance = attacked.server.acquire().await;
    let measure = |phase| join(attacked.good_clients(phase), other.good_clients(phase));
    // Code and pages that are used for the first time are slow.
    measure(Duration::from_secs(2)).await;

    let before = measure(QUIET).await;
    let (memory_before, descriptors_before) = (Memory::of(pid), descriptors(pid));

    let hostile = Arc::new(Hostile { port, instance, started: 0.into(), connections: 0.into() });
    let attackers: Vec<_> = (0..number).map(|n| task::spawn("hostile", hostile.clone().run(n))).collect();
    // While they begin, they cost most.
    let start = measure(HOSTILE_START_INTERVAL * number as u32).await;
    eventually_within(MAX_WAIT, "all hostile clients began", async || {
        (hostile.started.load(Ordering::Relaxed) == number).then_some(())
    })
    .await;
    let later = measure(ATTACKED_PER_HUNDRED * number as u32 / 100).await;
    let (memory_attacked, descriptors_attacked) = (Memory::of(pid), descriptors(pid));
    let connections = hostile.connections.load(Ordering::Relaxed);
    for attacker in &attackers {
        attacker.abort();
    }
    join_all(attackers).await;
    let memory_after = eventually_within(MAX_WAIT * 2, "the hostile connections are closed", async || {
        (descriptors(pid) <= descriptors_before + GOOD_CLIENTS as usize).then(|| Memory::of(pid))
    })
    .await;
    let after = measure(QUIET).await;

    let mib = |bytes: u64| bytes >> 20;
    println!("{number} hostile clients, which opened {connections} connections");
    let mut beside = (Seen::default(), Seen::default());
    for (when, (here, there)) in
        [("before", &before), ("start", &start), ("later", &later), ("after", &after)]
    {
        println!("{when}: {here}; the other server: {there}");
    }
    for (here, there) in [start, later] {
        beside.0.extend(here);
        beside.1.extend(there);
    }
    println!("attacked: {}; the other server: {}", beside.0, beside.1);
    println!(
        "memory in MiB: before {}, attacked {}, peak {}, after {}; descriptors: before {descriptors_before}, attacked \
         {descriptors_attacked}",
        mib(memory_before.now),
        mib(memory_attacked.now),
        mib(memory_attacked.peak),
        mib(memory_after.now)
    );

    for (when, (here, there)) in [("before", &before), ("attacked", &beside), ("after", &after)] {
        for failures in [&here.failures, &there.failures] {
            assert!(failures.is_empty(), "{when}: {} failures, first {:?}", failures.len(), failures.first());
        }
    }
    assert!(connections >= number, "{connections} hostile connections were opened");
    let bound = BASE_MEMORY + UNREAD_ANSWERS + number as u64 * MEMORY_PER_CONNECTION;
    let grown = memory_attacked.peak.saturating_sub(memory_before.now);
    assert!(grown <= bound, "the memory grew by {} MiB of {}", mib(grown), mib(bound));
    let (p99, p99_of_other) = (beside.0.percentile(99), beside.1.percentile(99));
    let allowed = (p99_of_other * 2).max(beside.1.percentile(50) * MEDIANS_ALLOWED);
    assert!(p99 <= allowed, "p99 {p99:?}, allowed {allowed:?}");
}
