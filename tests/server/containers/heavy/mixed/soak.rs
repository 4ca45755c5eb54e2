//! The mix of all kinds for a while: no wrong answer, and the server's memory and descriptors stay flat.
//!
//! `SOAK_SECONDS` (60, at least 40) and `SOAK_RATE` (100 requests in a second) set how much. `make soak` runs it at 300 requests in a
//! second for ten minutes.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::containers::{ContainerHost, release, shut_down};
use crate::support::harness::{Server, get};

use super::apps::{Apps, host};
use super::kinds::{KINDS, publish};
use super::load::{self, Report};
use super::usage::{check_flat, sample};
use super::visits::visit;

/// The first start installs WordPress.
const BAKE_TIMEOUT: Duration = Duration::from_secs(240);
/// The highest 99th percentile of all latencies, in milliseconds, on a busy machine too.
const MAX_LATENCY: u64 = 5_000;
/// Beside the mix, a post of WordPress is published once in so many seconds.
const SECONDS_BETWEEN_POSTS: u64 = 4;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |value| value.parse().unwrap())
}

/// Runs the mix, and beside it one visit a second. Returns what happened in both.
async fn run(
    server: &Server,
    host: &ContainerHost,
    apps: &Arc<Apps>,
    rate: usize,
    time: Duration,
) -> [Arc<Report>; 2] {
    let (report, beside, done) = (Arc::new(Report::default()), Report::default(), CancellationToken::new());
    let mix = async {
        load::run(KINDS, apps, &report, rate, time).await;
        done.cancel();
    };
    let visits = load::every_second(&beside, &done, |number| {
        let post = number.is_multiple_of(SECONDS_BETWEEN_POSTS);
        let visits = async move {
            if post {
                futures_util::join!(
                    visit(server, &host.template, number),
                    publish(apps, number / SECONDS_BETWEEN_POSTS)
                );
            } else {
                visit(server, &host.template, number).await;
            }
        };
        ("acquire and release", visits)
    });
    futures_util::join!(mix, visits);
    [report, Arc::new(beside)]
}

/// Returns the last lines of the log that are warnings or errors.
fn warnings(server: &Server) -> Vec<String> {
    let is_warning = |line: &String| ["WARN", "ERROR"].iter().any(|level| line.contains(level));
    server.log().into_iter().filter(is_warning).rev().take(40).collect()
}

/// Asserts that no line of the log is an error and that no answer had a status of 500 or more.
async fn check_server(server: &Server) {
    let errors: Vec<_> =
        server.log().into_iter().filter(|line| line.contains(r#""level":"ERROR""#)).collect();
    assert!(errors.is_empty(), "{errors:#?}");
    let metrics = get(server.port, "localhost", "/metrics").await.text();
    let failed: Vec<_> = metrics
        .lines()
        .filter(|line| {
            line.starts_with("demo_http_request_duration_seconds_count") && line.contains("status=\"5")
        })
        .collect();
    assert!(metrics.contains("demo_http_request_duration_seconds_count"), "{metrics}");
    assert!(failed.is_empty(), "{failed:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_apps_answer_every_kind_of_request_correctly_and_memory_stays_flat() {
    let (time, rate) = (Duration::from_secs(setting("SOAK_SECONDS", 60)), setting("SOAK_RATE", 100) as usize);
    let Some(host) = host() else { return };
    let sizes = [
        ("POOL_TARGET_SIZE", "2"),
        ("POOL_MAX_SIZE", "10"),
        ("POOL_REPLENISH_INTERVAL", "1s"),
        ("LOG_LEVEL", "info"),
    ];
    let mut server = host.start_server(&sizes).await.full_within(BAKE_TIMEOUT).await;
    let apps = Arc::new(Apps::acquire(&host, &server).await);

    let done = CancellationToken::new();
    let running = async {
        let reports = run(&server, &host, &apps, rate, time).await;
        done.cancel();
        reports
    };
    let (samples, [report, beside]) = futures_util::join!(sample(server.pid(), &done), running);
    println!("{} requests in {time:?}; milliseconds: median, 99 %, maximum", report.requests());
    println!("{}{}", report.table(), beside.table());
    let flat = check_flat(&samples);
    println!("{flat:?}");
    let failures = [report.failures(), beside.failures()].concat();
    if !failures.is_empty() {
        println!("{:#?}", warnings(&server));
    }
    assert!(failures.is_empty(), "{failures:#?}");
    apps.check_state().await;
    check_server(&server).await;
    flat.expect("memory and descriptors are flat");
    assert!(report.quantile(0.99) <= MAX_LATENCY, "{} ms", report.quantile(0.99));
    // Assigned instances would outlive the server.
    futures_util::future::join_all(apps.ids().into_iter().map(|id| release(&server, id))).await;
    shut_down(&mut server).await;
    host.assert_nothing_left().await;
}
