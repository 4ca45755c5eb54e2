//! What a client costs the server that requests a large body and then reads nothing: memory of the process, and of the
//! kernel for the process's sockets.

use std::time::Duration;

use tokio::task::LocalSet;

use super::peers::ENGINES;
use crate::bench::{Bench, hosts};
use crate::bulk::BulkClient;
use crate::certificate::Certificate;
use crate::child::ChildProcess;
use crate::clock::now;
use crate::failure::Failure;
use crate::http2::{self, ClientConnection};
use crate::memory;
use crate::peers::{BYTES_PATH, Role};
use crate::progress;
use crate::proxies::{InstalledProxy, NGINX, Setup};
use crate::report::{Bound, Row};
use crate::server::ServerOptions;
use crate::socket_memory;
use crate::stats::Median;

/// Bytes of the body that a client requests.
const BODY_BYTES: u64 = 1 << 30;
/// Most KiB that each client costs.
const BOUND: Bound = Bound::AtMost(128.0);
/// The windows of a client with HTTP/2, as large as those of browsers: it is the socket that is not read.
const WINDOW: u32 = 16 << 20;

/// Time between two looks at the memory; how often it must be unchanged, in a quick run and in others; and maximum time until then.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
const UNCHANGED_LOOKS: [usize; 2] = [2, 10];
const SETTLE_TIMEOUT: Duration = Duration::from_secs(20);

/// Bytes of memory.
#[derive(Debug, Clone, Copy)]
struct Memory {
    process: u64,
    kernel: u64,
}

/// Measures HTTP/1 with both engines, and HTTP/2 over TLS, each beside nginx where it is installed.
pub(super) fn measure(bench: &Bench) -> Result<Vec<Row>, Failure> {
    let app = ChildProcess::role(Role::Bulk, bench.cores.load)?;
    let certificate = Certificate::create()?;
    let nginx = InstalledProxy::find(&NGINX)?;
    let mut rows = Vec::new();
    for (protocol, certificate) in [("HTTP/1", None), ("HTTP/2", Some(&certificate))] {
        let mut host = String::new();
        let mut costs = Vec::new();
        // HTTP/2 has only one engine.
        for engine in &ENGINES[..if certificate.is_some() { 1 } else { ENGINES.len() }] {
            let options = ServerOptions {
                engine: Some(engine),
                certificate,
                role: Some(Role::Bulk),
                returns_memory: true,
                ..ServerOptions::new(1, app.address)
            };
            let server = bench.programs.server(options, bench.cores.server)?;
            host = hosts(&bench.acquire_from(&server, certificate, 1)?).remove(0);
            let name = match certificate {
                Some(_) => protocol.to_owned(),
                None => format!("{protocol}, {engine}"),
            };
            progress::show(&name);
            costs.push((name, cost(bench, &server, &app, &host, certificate)?));
        }
        let mut note = String::new();
        if let Some(nginx) = &nginx {
            bench.findings.add_version(&nginx.version);
            progress::show(&format!("{protocol}, nginx"));
            let setup = Setup { app: app.address, hosts: std::slice::from_ref(&host), certificate };
            let proxy = nginx.start(&setup, bench.cores.server)?;
            let Memory { process, kernel } = cost(bench, &proxy, &app, &host, certificate)?;
            note = format!("; nginx {} KiB and {}", process / 1024, kernel / 1024);
        }
        rows.extend(costs.into_iter().map(|(name, Memory { process, kernel })| {
            let value = (process + kernel) as f64 / 1024.0;
            let note =
                format!("{} KiB of the process, {} of the kernel{note}", process / 1024, kernel / 1024);
            let value = Median { value, low: value, high: value };
            Row::absolute(
                format!("stalled reader, {name}"),
                "KiB",
                value,
                BOUND,
                bench.size.stalled_readers,
                note,
            )
        }));
    }
    Ok(rows)
}

/// Returns what each of many clients costs a proxy.
fn cost(
    bench: &Bench,
    proxy: &ChildProcess,
    app: &ChildProcess,
    host: &str,
    certificate: Option<&Certificate>,
) -> Result<Memory, Failure> {
    let count = bench.size.stalled_readers;
    let look = || {
        let kernel = socket_memory::bytes(proxy.address.port(), app.address.port())?;
        Ok(Memory { process: memory::of_process(proxy.id())?, kernel })
    };
    let looks = UNCHANGED_LOOKS[usize::from(bench.size.pairs > 1)];
    // The first clients cost what all have in common.
    let few = (count / 10).max(1);
    let (before, after) = match certificate {
        None => {
            let stalled = |count| -> Result<Vec<BulkClient>, Failure> {
                (0..count)
                    .map(|_| {
                        let mut client = BulkClient::connect(proxy.address)?;
                        client.begin_download(host, BODY_BYTES)?;
                        Ok(client)
                    })
                    .collect()
            };
            let _few = stalled(few)?;
            let before = settled(looks, &look)?;
            let _many = stalled(count)?;
            (before, settled(looks, &look)?)
        }
        Some(certificate) => {
            let runtime = http2::runtime()?;
            let stalled = |count| {
                LocalSet::new().block_on(&runtime, async {
                    let mut clients = Vec::new();
                    for _ in 0..count {
                        clients.push(stalled_stream(proxy, certificate, host).await?);
                    }
                    Ok::<_, Failure>(clients)
                })
            };
            let _few = stalled(few)?;
            let before = settled(looks, &look)?;
            let _many = stalled(count)?;
            (before, settled(looks, &look)?)
        }
    };
    let each = |before: u64, after: u64| after.saturating_sub(before) / count as u64;
    Ok(Memory { process: each(before.process, after.process), kernel: each(before.kernel, after.kernel) })
}

/// Connects, requests a body, and stops reading when its head has arrived. Returns what keeps the connection open.
async fn stalled_stream(
    proxy: &ChildProcess,
    certificate: &Certificate,
    host: &str,
) -> Result<(ClientConnection, h2::RecvStream), Failure> {
    let (mut sender, mut connection) = http2::connect(proxy.address, certificate, Some(WINDOW)).await?;
    std::future::poll_fn(|cx| sender.poll_ready(cx)).await?;
    let request = http2::request("GET", &format!("{BYTES_PATH}{BODY_BYTES}"), host)?;
    let (response, _) = sender.send_request(request, true)?;
    let response = tokio::select! {
        response = response => response?,
        ended = &mut connection => {
            ended?;
            return Err("the server closed the connection".into());
        }
    };
    if response.status() != 200 {
        return Err(format!("the server responded with {}", response.status()).into());
    }
    Ok((connection, response.into_body()))
}

/// Waits until the memory no longer changes, and returns it.
fn settled(looks: usize, look: &impl Fn() -> Result<Memory, Failure>) -> Result<Memory, Failure> {
    let deadline = now() + SETTLE_TIMEOUT;
    let (mut last, mut unchanged) = (look()?, 0);
    while unchanged < looks && now() < deadline {
        std::thread::sleep(LOOK_INTERVAL);
        let present = look()?;
        let is_near = |a: u64, b: u64| a.abs_diff(b) <= a / 200;
        let is_unchanged = is_near(last.process, present.process) && is_near(last.kernel, present.kernel);
        unchanged = if is_unchanged { unchanged + 1 } else { 0 };
        last = present;
    }
    Ok(last)
}
