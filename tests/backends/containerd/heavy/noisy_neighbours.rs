//! Whoever takes without end is stopped by its limits, and its neighbours hardly feel it.

use std::time::Duration;

use rustix::process::{Signal, kill_process};
use tokio::time::Instant;
use try_it_now::instance::{Endpoint, InstanceId};
use try_it_now::runtime::Runtime;
use try_it_now::template::ResourceLimits;

use crate::containerd::resource_limits::pids_of;
use crate::containerd::{App, KEEPER, Place, output, php, start, tell, until, within};

/// How often the neighbour is timed with and without.
const ROUNDS: usize = 9;
/// Answers of which each time takes the middle one.
const ANSWERS: usize = 15;
/// Most that a neighbour may be slowed down.
const MOST: f64 = 2.0;

const LIMITS: ResourceLimits = ResourceLimits {
    memory: Some(64 << 20),
    disk: Some(16 << 20),
    pids: Some(24),
    millicpus: Some(100),
    cpu_seconds: None,
    open_files: None,
    file_size: None,
};

/// The middle one of some answers' times.
async fn time(runtime: &dyn Runtime, neighbour: Endpoint) -> Duration {
    let mut times = Vec::new();
    for _ in 0..ANSWERS {
        let begun = Instant::now();
        tell(runtime, neighbour, "add").await;
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    times[ANSWERS / 2]
}

/// Starts one that takes without end, waits until its limit has `stopped` it and it tries on, and times a neighbour with
/// it and without, in turns, so that whatever else this machine does falls on both: it is held for the time without.
async fn is_hardly_felt(greedy: &str, stopped: impl AsyncFn(&dyn Runtime, &InstanceId) -> bool) {
    let Some(place) = Place::new() else { return };
    let runtime = place.open().await;
    let mut exits = runtime.exits();
    let (_, neighbour) = start(&runtime, &php(KEEPER)).await;
    let (id, _) = start(&runtime, &App { limits: LIMITS, ..php(greedy) }).await;
    until("it is stopped by its limit", async || stopped(&runtime, &id).await.then_some(())).await;

    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        signal(&id, Signal::STOP);
        let usual = time(&runtime, neighbour.endpoint).await;
        signal(&id, Signal::CONT);
        let beside = time(&runtime, neighbour.endpoint).await;
        rounds.push((beside.as_secs_f64() / usual.as_secs_f64(), usual, beside));
    }
    assert!(stopped(&runtime, &id).await);
    rounds.sort_unstable_by(|(a, ..), (b, ..)| a.total_cmp(b));
    assert!(rounds[ROUNDS / 2].0 <= MOST, "slowed down, usual time, time beside it: {rounds:?}");

    // Neither has ended by itself, and nothing of the greedy one stays.
    assert!(exits.try_recv().is_err());
    within(runtime.stop(&id)).await.unwrap();
    assert_eq!(place.all_of(id.as_str()), [""; 0]);
    assert_eq!(pids_of(id.as_str()), []);
}

/// Sends a signal to all its processes, its first before it makes more.
fn signal(id: &InstanceId, signal: Signal) {
    for process in pids_of(id.as_str()) {
        // One that ends meanwhile wants none.
        let _ = kill_process(process, signal);
    }
}

/// Whether it has said so of late.
async fn says(runtime: &dyn Runtime, id: &InstanceId, word: &str) -> bool {
    output(runtime, id).await.is_some_and(|text| text.contains(word))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_forks_without_end_is_hardly_felt() {
    let fork = r#"while (true) switch (@pcntl_fork()) { case 0: while (true); case -1: echo "no more\n"; }"#;
    is_hardly_felt(fork, async |runtime, id| {
        let processes = pids_of(id.as_str()).len();
        assert!(processes <= LIMITS.pids.unwrap() as usize, "{processes} processes");
        says(runtime, id, "no more").await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_fills_its_disk_is_hardly_felt() {
    let fill = r#"
        for ($n = 0; ; $n++) {
            if (@file_put_contents("/$n", str_repeat("x", 1 << 20)) === 1 << 20) continue;
            echo "full\n";
            while ($n >= 0) @unlink("/" . $n--);
        }"#;
    is_hardly_felt(fill, async |runtime, id| says(runtime, id, "full").await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_eats_memory_is_hardly_felt() {
    let eat = r#"
        ini_set("memory_limit", -1);
        while (true) {
            if (pcntl_fork() === 0) while (true) $eaten[] = str_repeat("x", 1 << 20);
            pcntl_wait($status);
            if (pcntl_wifsignaled($status) && pcntl_wtermsig($status) === 9) echo "killed\n";
        }"#;
    is_hardly_felt(eat, async |runtime, id| says(runtime, id, "killed").await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_floods_its_log_is_hardly_felt() {
    /// What is kept of each instance's output.
    const KEPT: usize = 256 << 10;
    let flood = r#"$line = str_repeat("x", 8191) . "\n"; while (true) fwrite(STDOUT, $line) && fwrite(STDERR, $line);"#;
    is_hardly_felt(flood, async |runtime, id| {
        let kept = runtime.logs(id).await.map_or(0, |log| log.len());
        assert!(kept <= KEPT, "{kept} bytes");
        kept == KEPT
    })
    .await;
}
