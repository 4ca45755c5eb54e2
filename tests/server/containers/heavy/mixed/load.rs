//! Exchanges at a fixed rate: each begins at its time, whether those before it have ended or not, and its latency counts
//! from that time.

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use futures_util::FutureExt;
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::apps::Apps;

/// The longest time that one exchange may take.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(30);
/// More exchanges in flight than this mean that the server does not keep up.
const MAX_IN_FLIGHT: usize = 3000;
/// After so many failures the run ends early.
const MAX_FAILURES: usize = 25;

type Exchange = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A kind of traffic.
pub(super) struct Kind {
    pub(super) name: &'static str,
    /// How many exchanges of this kind are in one cycle.
    pub(super) weight: usize,
    /// How many requests one exchange sends.
    pub(super) requests: usize,
    /// How long the app takes on purpose. It is not part of the latency.
    pub(super) takes: Duration,
    /// Does one exchange. The number decides what is sent. Panics if an answer is wrong.
    pub(super) run: fn(Arc<Apps>, u64) -> Exchange,
}

/// What happened.
#[derive(Default)]
pub(super) struct Report {
    /// For each kind, the latencies of its exchanges in milliseconds.
    latencies: Mutex<BTreeMap<&'static str, Vec<u64>>>,
    failures: Mutex<Vec<String>>,
    requests: AtomicUsize,
    in_flight: AtomicUsize,
}

impl Report {
    /// Does one exchange, and records how it went.
    pub(super) async fn record(
        &self,
        name: &'static str,
        number: u64,
        (intended, takes): (Instant, Duration),
        exchange: impl Future<Output = ()>,
    ) {
        let run = AssertUnwindSafe(tokio::time::timeout(EXCHANGE_TIMEOUT, exchange)).catch_unwind().await;
        let failure = match run {
            Ok(Ok(())) => None,
            Ok(Err(_)) => Some(format!("no end within {EXCHANGE_TIMEOUT:?}")),
            Err(panic) => Some(panic_text(&*panic)),
        };
        let latency = intended.elapsed().saturating_sub(takes);
        self.latencies.lock().entry(name).or_default().push(latency.as_millis() as u64);
        if let Some(failure) = failure {
            self.failures.lock().push(format!("{name} {number} after {latency:?}: {failure}"));
        }
    }

    pub(super) fn failures(&self) -> Vec<String> {
        self.failures.lock().clone()
    }

    pub(super) fn has_too_many_failures(&self) -> bool {
        self.failures.lock().len() >= MAX_FAILURES
    }

    pub(super) fn requests(&self) -> usize {
        self.requests.load(SeqCst)
    }

    /// Returns a quantile of the latencies of all kinds, in milliseconds.
    pub(super) fn quantile(&self, quantile: f64) -> u64 {
        quantile_of(self.latencies.lock().values().flatten().copied().collect(), quantile)
    }

    /// Returns one line for each kind: count, median, 99th percentile and maximum in milliseconds.
    pub(super) fn table(&self) -> String {
        let latencies = self.latencies.lock();
        let line = |(name, values): (&&str, &Vec<u64>)| {
            let [half, most, all] = [0.5, 0.99, 1.0].map(|quantile| quantile_of(values.clone(), quantile));
            format!("{name:<28} {:>7} {half:>6} {most:>6} {all:>6}\n", values.len())
        };
        latencies.iter().map(line).collect()
    }
}

fn quantile_of(mut values: Vec<u64>, quantile: f64) -> u64 {
    values.sort_unstable();
    let at = ((values.len() as f64 * quantile).ceil() as usize).clamp(1, values.len().max(1)) - 1;
    values.get(at).copied().unwrap_or(0)
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    text.unwrap_or("panic payload is no text").chars().take(400).collect()
}

/// Returns the order of a cycle: each kind as often as its weight says, spread evenly.
fn cycle(kinds: &[Kind]) -> Vec<usize> {
    let total: usize = kinds.iter().map(|kind| kind.weight).sum();
    let mut credit = vec![0_isize; kinds.len()];
    let next = |_| {
        for (credit, kind) in credit.iter_mut().zip(kinds) {
            *credit += kind.weight as isize;
        }
        let chosen = (0..kinds.len()).max_by_key(|at| credit[*at]).unwrap();
        credit[chosen] -= total as isize;
        chosen
    };
    (0..total).map(next).collect()
}

/// Sends `rate` requests in a second for `time`, and waits for their answers. Leaves out the kinds with these names.
pub(super) async fn run(
    kinds: &'static [Kind],
    apps: &Arc<Apps>,
    report: &Arc<Report>,
    rate: usize,
    time: Duration,
) {
    let (begun, order) = (Instant::now(), cycle(kinds));
    let mut exchanges = tokio::task::JoinSet::new();
    for (number, chosen) in (0_u64..).zip(order.iter().cycle()) {
        let kind = &kinds[*chosen];
        let intended = begun + Duration::from_secs_f64(report.requests() as f64 / rate as f64);
        if intended > begun + time || report.has_too_many_failures() {
            break;
        }
        report.requests.fetch_add(kind.requests, SeqCst);
        tokio::time::sleep_until(intended).await;
        if report.in_flight.fetch_add(1, SeqCst) > MAX_IN_FLIGHT {
            report.failures.lock().push(format!("more than {MAX_IN_FLIGHT} exchanges are in flight"));
            break;
        }
        let (apps, report) = (apps.clone(), report.clone());
        while exchanges.try_join_next().is_some() {}
        exchanges.spawn(async move {
            report.record(kind.name, number, (intended, kind.takes), (kind.run)(apps, number)).await;
            report.in_flight.fetch_sub(1, SeqCst);
        });
    }
    while exchanges.join_next().await.is_some() {}
}

/// Begins an exchange every second, until `done` is cancelled.
pub(super) async fn every_second<F: Future<Output = ()>>(
    report: &Report,
    done: &CancellationToken,
    exchange: impl Fn(u64) -> (&'static str, F),
) {
    let begun = Instant::now();
    let mut running = futures_util::stream::FuturesUnordered::new();
    for number in 0_u64.. {
        let intended = begun + Duration::from_secs(number);
        let waiting = async {
            loop {
                match futures_util::StreamExt::next(&mut running).await {
                    Some(()) => {}
                    None => std::future::pending::<()>().await,
                }
            }
        };
        tokio::select! {
            () = done.cancelled() => break,
            () = tokio::time::sleep_until(intended) => {}
            () = waiting => {}
        }
        let (name, exchange) = exchange(number);
        running.push(report.record(name, number, (intended, Duration::ZERO), exchange));
    }
    while futures_util::StreamExt::next(&mut running).await.is_some() {}
}

#[test]
fn a_cycle_has_each_kind_as_often_as_its_weight_says() {
    let kind = |weight| Kind {
        name: "",
        weight,
        requests: 1,
        takes: Duration::ZERO,
        run: |_, _| Box::pin(std::future::ready(())),
    };
    assert_eq!(cycle(&[kind(1), kind(3)]), [1, 1, 0, 1]);
}

#[test]
fn quantiles_are_the_nearest_ranks() {
    let values: Vec<u64> = (1..=100).collect();
    assert_eq!([0.5, 0.99, 1.0].map(|quantile| quantile_of(values.clone(), quantile)), [50, 99, 100]);
    assert_eq!(quantile_of(Vec::new(), 0.5), 0);
}

#[tokio::test]
async fn a_wrong_answer_is_recorded_and_a_latency_counts_from_the_intended_start() {
    let report = Report::default();
    let since = (Instant::now() - Duration::from_millis(300), Duration::from_millis(100));
    report.record("right", 1, since, std::future::ready(())).await;
    assert!(report.failures().is_empty() && report.quantile(1.0) >= 200, "{}", report.table());
    report.record("wrong", 2, since, async { assert_eq!("wrong".len(), 6, "the answer") }).await;
    let failures = report.failures();
    assert_eq!(failures.len(), 1, "{failures:?}");
    assert!(failures[0].starts_with("wrong 2 ") && failures[0].contains("the answer"), "{failures:?}");
}
