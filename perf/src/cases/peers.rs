//! Requests through the server and through other proxies, in the same run: the same load, the same app, as many hosts with
//! kept connections of their own, and the same fields added. Each proxy has one thread on the core of the server.

use crate::bench::{Bench, hosts, in_turn, micros};
use crate::child::ChildProcess;
use crate::failure::Failure;
use crate::load::CONNECTIONS;
use crate::peers::Role;
use crate::progress;
use crate::proxies::{CADDY, HAPROXY, InstalledProxy, NGINX, ProxyKind, Setup, TRAEFIK};
use crate::report::{Bound, Row};
use crate::server::{RuntimeKind, ServerOptions};
use crate::traffic::Spread;

/// The proxies beside which the server is measured.
static KINDS: [&ProxyKind; 4] = [&NGINX, &HAPROXY, &CADDY, &TRAEFIK];

/// A size of the app's responses.
struct BodySize {
    name: &'static str,
    path: &'static str,
    connections: usize,
    /// The bounds for the forwarder beside nginx: of the requests per second, and of the processor time.
    bounds: [Bound; 2],
}

const BODY_SIZES: [BodySize; 3] = [
    BodySize {
        name: "0.6 KiB",
        path: "/",
        connections: CONNECTIONS,
        bounds: [Bound::AtLeast(1.0), Bound::AtMost(1.0)],
    },
    BodySize {
        name: "16 KiB",
        path: concat!("/bytes/", 16384),
        connections: CONNECTIONS,
        bounds: [Bound::AtLeast(1.0), Bound::AtMost(1.0)],
    },
    BodySize {
        name: "10 MiB",
        path: concat!("/bytes/", 10485760),
        connections: 8,
        bounds: [Bound::AtLeast(1.0), Bound::None],
    },
];

/// The engines for HTTP/1.1, in the order of the targets.
pub(super) const ENGINES: [&str; 2] = ["forwarder", "pingora"];

/// Measures the server with both engines, and each proxy that is installed.
pub(super) fn measure(bench: &Bench) -> Result<Vec<Row>, Failure> {
    let app = ChildProcess::role(Role::Plain, bench.cores.load)?;
    let ready = bench.size.hosts;
    let mut targets = Vec::new();
    for engine in ENGINES {
        let options = ServerOptions { engine: Some(engine), ..ServerOptions::new(ready, app.address) };
        let server = bench.programs.server(options, bench.cores.server)?;
        let hosts = hosts(&bench.acquire(&server, ready)?);
        targets.push((server, hosts));
    }
    let mut installed = Vec::new();
    for kind in KINDS {
        let Some(proxy) = InstalledProxy::find(kind)? else { continue };
        bench.findings.add_version(&proxy.version);
        let hosts = targets[0].1.clone();
        let setup = Setup { app: app.address, hosts: &hosts, certificate: None };
        targets.push((proxy.start(&setup, bench.cores.server)?, hosts));
        installed.push(kind);
    }
    let mut rows = Vec::new();
    // The sample app, which an instance runs as a process, has one page.
    let sizes = if bench.programs.runtime == RuntimeKind::Process { 1 } else { BODY_SIZES.len() };
    for body in &BODY_SIZES[..sizes] {
        let rounds = measure_rounds(bench, &targets, body)?;
        add_bars(bench, &rounds, body, &installed);
        for (number, peer) in installed.iter().enumerate() {
            for engine in 0..ENGINES.len() {
                rows.extend(compare(&rounds, body, peer, engine, ENGINES.len() + number, ready));
            }
        }
    }
    if let Some(at) = installed.iter().position(|peer| peer.has_bounds) {
        rows.push(longest_times(bench, &targets[0], &targets[ENGINES.len() + at], installed[at])?);
    }
    Ok(rows)
}

/// A proxy, and the hosts for which it is configured.
type Target = (ChildProcess, Vec<String>);

/// The requests per second of a target, and the microseconds of processor time of each.
type Figures = (f64, f64);

/// Returns the figures of each target in each round. Every second round goes backwards, so that drifts affect all equally.
fn measure_rounds(bench: &Bench, targets: &[Target], body: &BodySize) -> Result<Vec<Vec<Figures>>, Failure> {
    let mut rounds = Vec::new();
    for round in 0..bench.size.tight_pairs {
        progress::step(&format!("{}, round", body.name), round + 1, bench.size.tight_pairs);
        let mut figures = vec![(0.0, 0.0); targets.len()];
        for step in 0..targets.len() {
            let at = if round % 2 == 0 { step } else { targets.len() - 1 - step };
            let (target, hosts) = &targets[at];
            let mut traffic = Spread::new(hosts, body.path, body.connections);
            let (outcome, each) = bench.burst(target, &mut traffic)?;
            figures[at] = (outcome.rate, each.as_secs_f64() * 1e6);
        }
        rounds.push(figures);
    }
    Ok(rounds)
}

/// Adds the bars of all targets to the charts of this size.
fn add_bars(bench: &Bench, rounds: &[Vec<Figures>], body: &BodySize, installed: &[&ProxyKind]) {
    let ours = ENGINES.iter().map(|engine| format!("Try It Now, {engine}"));
    let names = ours.chain(installed.iter().map(|kind| kind.name.to_owned()));
    for (at, name) in names.enumerate() {
        let of = |figure: fn(&Figures) -> f64| -> Vec<f64> {
            rounds.iter().map(|figures| figure(&figures[at])).collect()
        };
        let chart = format!("HTTP/1.1, {}", body.name);
        bench.findings.add_bar(&chart, "requests/s", &name, &of(|figures| figures.0));
        let chart = format!("{chart}: processor time");
        bench.findings.add_bar(&chart, "us per request", &name, &of(|figures| figures.1));
    }
}

/// Returns the rows of one engine beside a peer.
fn compare(
    rounds: &[Vec<Figures>],
    body: &BodySize,
    peer: &ProxyKind,
    engine: usize,
    other: usize,
    hosts: usize,
) -> Vec<Row> {
    let pairs = |figure: fn(&Figures) -> f64| -> Vec<(f64, f64)> {
        rounds.iter().map(|figures| (figure(&figures[engine]), figure(&figures[other]))).collect()
    };
    let bounds = match (peer.has_bounds, ENGINES[engine], body.path) {
        (true, "forwarder", _) => body.bounds,
        (true, _, "/") => [Bound::None, Bound::AtMost(1.9)],
        _ => [Bound::None; 2],
    };
    let name = |figure: &str| format!("{figure}, {}, {}", body.name, ENGINES[engine]);
    let note = |pairs: &[Figures], unit: &str| {
        let of_peer: Vec<f64> = pairs.iter().map(|(_, other)| *other).collect();
        format!("{} {:.1} {unit}; {hosts} hosts", peer.name, crate::stats::median(&of_peer).value)
    };
    let (rates, times) = (pairs(|figure| figure.0), pairs(|figure| figure.1));
    let mut rows = vec![Row::of(name("proxied"), "/s", &rates, peer.name, bounds[0], note(&rates, "/s"))];
    // A quick run is too short for the clock of processor time.
    if times.iter().all(|(one, other)| *one > 0.0 && *other > 0.0) {
        rows.push(Row::of(name("processor"), "us", &times, peer.name, bounds[1], note(&times, "us")));
    }
    rows
}

/// Returns the 99th percentile of the server beside that of a peer, both at half of what the peer can.
fn longest_times(bench: &Bench, server: &Target, other: &Target, peer: &ProxyKind) -> Result<Row, Failure> {
    let body = &BODY_SIZES[0];
    let traffic = |hosts: &[String]| Spread::new(hosts, body.path, body.connections);
    let (outcome, _) = bench.burst(&other.0, &mut traffic(&other.1))?;
    let rate = outcome.rate / 2.0;
    let window = |target: &Target| bench.window(target.0.address, rate, &mut traffic(&target.1));
    let windows = in_turn(bench.size.tight_pairs, || window(server), || window(other))?;
    let chart = format!("HTTP/1.1, {}, {rate:.0} requests per second", body.name);
    bench.findings.add_line(&chart, "Try It Now", windows.iter().map(|(server, _)| &server.times));
    bench.findings.add_line(&chart, peer.name, windows.iter().map(|(_, other)| &other.times));
    let pairs: Vec<_> = windows.iter().map(|(a, b)| (micros(a, 0.99), micros(b, 0.99))).collect();
    let note = format!("{rate:.0} requests per second");
    Ok(Row::of("proxied p99 at half of its rate", "us", &pairs, peer.name, Bound::AtMost(1.2), note))
}
