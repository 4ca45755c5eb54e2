//! Requests over TLS with HTTP/2, through the server and through other proxies, in the same run: the same load, the same
//! app, as many hosts with kept connections of their own, and the same fields added.

use crate::bench::{Bench, hosts};
use crate::certificate::Certificate;
use crate::child::ChildProcess;
use crate::failure::Failure;
use crate::http2::{CONNECTIONS, STREAMS};
use crate::peers::Role;
use crate::progress;
use crate::proxies::{HAPROXY, InstalledProxy, NGINX, ProxyKind, Setup};
use crate::report::{Bound, Row};
use crate::server::{RuntimeKind, ServerOptions};
use crate::stats::median;

/// Most ratio of the processor time of a request to that of nginx.
const CPU_BOUND: Bound = Bound::AtMost(1.6);

/// Sizes of the app's responses, with their paths. The first has a bound.
const BODY_SIZES: [(&str, &str); 2] = [("0.6 KiB", "/"), ("16 KiB", concat!("/bytes/", 16384))];

/// What one measurement returns: requests per second, microseconds of processor time of each, and the part of the time
/// in which the proxy was busy.
type Figures = (f64, f64, f64);

/// Measures the server, and each proxy that is installed.
pub(super) fn measure(bench: &Bench) -> Result<Vec<Row>, Failure> {
    let certificate = Certificate::create()?;
    let app = ChildProcess::role(Role::Plain, bench.cores.load)?;
    let ready = bench.size.hosts;
    let options = ServerOptions { certificate: Some(&certificate), ..ServerOptions::new(ready, app.address) };
    let server = bench.programs.server(options, bench.cores.server)?;
    let hosts = hosts(&bench.acquire_from(&server, Some(&certificate), ready)?);
    let (mut kinds, mut targets): (Vec<&ProxyKind>, _) = (Vec::new(), vec![server]);
    for kind in [&NGINX, &HAPROXY] {
        let Some(proxy) = InstalledProxy::find(kind)? else { continue };
        bench.findings.add_version(&proxy.version);
        let setup = Setup { app: app.address, hosts: &hosts, certificate: Some(&certificate) };
        targets.push(proxy.start(&setup, bench.cores.server)?);
        kinds.push(kind);
    }
    // The sample app, which an instance runs as a process, has one page.
    let sizes = if bench.programs.runtime == RuntimeKind::Process { 1 } else { BODY_SIZES.len() };
    let mut rows = Vec::new();
    for (size, path) in &BODY_SIZES[..sizes] {
        let rounds = rounds(bench, &targets, &certificate, &hosts, path)?;
        for (number, kind) in kinds.iter().enumerate() {
            let bound = if kind.has_bounds && *path == "/" { CPU_BOUND } else { Bound::None };
            rows.extend(compare(&rounds, number + 1, kind, size, bound));
        }
        for number in 0..targets.len() {
            let name = number.checked_sub(1).map_or("Try It Now", |number| kinds[number].name);
            let of = |figure: fn(&Figures) -> f64| -> Vec<f64> {
                rounds.iter().map(|figures| figure(&figures[number])).collect()
            };
            let findings = &bench.findings;
            findings.add_bar(
                &format!("HTTP/2 over TLS, {size}"),
                "requests/s",
                name,
                &of(|figures| figures.0),
            );
            findings.add_bar(
                &format!("HTTP/2 over TLS, {size}: processor time"),
                "us per request",
                name,
                &of(|figures| figures.1),
            );
        }
    }
    Ok(rows)
}

/// Returns the figures of each target in each round. Every second round goes backwards, so that drifts affect all equally.
fn rounds(
    bench: &Bench,
    targets: &[ChildProcess],
    certificate: &Certificate,
    hosts: &[String],
    path: &str,
) -> Result<Vec<Vec<Figures>>, Failure> {
    let mut rounds = Vec::new();
    for round in 0..bench.size.tight_pairs {
        progress::step(&format!("{path}, round"), round + 1, bench.size.tight_pairs);
        let mut figures = vec![(0.0, 0.0, 0.0); targets.len()];
        for step in 0..targets.len() {
            let at = if round % 2 == 0 { step } else { targets.len() - 1 - step };
            figures[at] = bench.http2_burst(&targets[at], certificate, hosts, path)?;
        }
        rounds.push(figures);
    }
    Ok(rounds)
}

/// Returns the rows of the server beside a proxy.
fn compare(rounds: &[Vec<Figures>], other: usize, kind: &ProxyKind, size: &str, bound: Bound) -> Vec<Row> {
    let of = |at: usize, figure: fn(&Figures) -> f64| -> Vec<f64> {
        rounds.iter().map(|figures| figure(&figures[at])).collect()
    };
    let pairs = |figure: fn(&Figures) -> f64| -> Vec<(f64, f64)> {
        of(0, figure).into_iter().zip(of(other, figure)).collect()
    };
    let middle = |at: usize, figure: fn(&Figures) -> f64| median(&of(at, figure)).value;
    let note = format!(
        "{} {:.0} /s; busy {:.0} % and {:.0} %; {CONNECTIONS} connections, {STREAMS} streams each",
        kind.name,
        middle(other, |figures| figures.0),
        100.0 * middle(0, |figures| figures.2),
        100.0 * middle(other, |figures| figures.2),
    );
    let rates = pairs(|figures| figures.0);
    let mut rows = vec![Row::of(
        format!("proxied, HTTP/2 over TLS, {size}"),
        "/s",
        &rates,
        kind.name,
        Bound::None,
        note,
    )];
    let times = pairs(|figures| figures.1);
    // A quick run is too short for the clock of processor time.
    if times.iter().all(|(one, other)| *one > 0.0 && *other > 0.0) {
        let note = format!("{} {:.1} us", kind.name, middle(other, |figures| figures.1));
        rows.push(Row::of(
            format!("processor, HTTP/2 over TLS, {size}"),
            "us",
            &times,
            kind.name,
            bound,
            note,
        ));
    }
    rows
}
