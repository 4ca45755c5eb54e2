//! An instance that consumes resources without end is stopped by its limits and hardly slows its neighbour.

use std::time::Duration;

use rustix::process::{Signal, kill_process};
use tokio::time::Instant;
use try_it_now::instance::{Endpoint, InstanceId};
use try_it_now::runtime::Runtime;
use try_it_now::template::ResourceLimits;

use crate::containerd::resource_limits::pids_of;
use crate::containerd::{
    App, COUNTER_APP, TestNode, output, php, send_command, start, wait_until, with_timeout,
};

/// How often the neighbour is timed, each time with and without the greedy instance.
const ROUNDS: usize = 9;
/// How many answers are timed for one median.
const ANSWERS: usize = 15;
/// The largest factor by which the neighbour may become slower.
const MAX_SLOWDOWN: f64 = 2.0;

const LIMITS: ResourceLimits = ResourceLimits {
    memory: Some(64 << 20),
    disk: Some(16 << 20),
    pids: Some(24),
    millicpus: Some(100),
    cpu_seconds: None,
    open_files: None,
    file_size: None,
};

/// Returns the median time of an answer.
async fn median_time(runtime: &dyn Runtime, neighbour: Endpoint) -> Duration {
    let mut times = Vec::new();
    for _ in 0..ANSWERS {
        let begun = Instant::now();
        send_command(runtime, neighbour, "add").await;
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    times[ANSWERS / 2]
}

/// Starts an instance that consumes resources without end, waits until its limit has stopped it, and times a neighbour
/// with it and without it in turns, so that the other load of this machine affects both. Without it means that its
/// processes are stopped.
async fn assert_neighbour_is_not_slowed(
    greedy: &str,
    is_stopped: impl AsyncFn(&dyn Runtime, &InstanceId) -> bool,
) {
    let Some(test_node) = TestNode::new() else { return };
    let runtime = test_node.open().await;
    let mut exits = runtime.exits();
    let (_, neighbour) = start(&runtime, &php(COUNTER_APP)).await;
    let (id, _) = start(&runtime, &App { limits: LIMITS, ..php(greedy) }).await;
    wait_until("its limit has stopped it", async || is_stopped(&runtime, &id).await.then_some(())).await;

    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        signal(&id, Signal::STOP);
        let alone = median_time(&runtime, neighbour.endpoint).await;
        signal(&id, Signal::CONT);
        let beside = median_time(&runtime, neighbour.endpoint).await;
        rounds.push((beside.as_secs_f64() / alone.as_secs_f64(), alone, beside));
    }
    assert!(is_stopped(&runtime, &id).await);
    rounds.sort_unstable_by(|(a, ..), (b, ..)| a.total_cmp(b));
    assert!(rounds[ROUNDS / 2].0 <= MAX_SLOWDOWN, "factor, time without it, time with it: {rounds:?}");

    // Neither instance has ended by itself, and nothing of the greedy one is left after its stop.
    assert!(exits.try_recv().is_err());
    with_timeout(runtime.stop(&id)).await.unwrap();
    assert_eq!(test_node.resources_of(id.as_str()), [""; 0]);
    assert_eq!(pids_of(id.as_str()), []);
}

/// Sends a signal to all processes of the instance, the first one before it starts more.
fn signal(id: &InstanceId, signal: Signal) {
    for process in pids_of(id.as_str()) {
        // A process may have ended meanwhile.
        let _ = kill_process(process, signal);
    }
}

/// Returns whether the recent output of the instance contains this text.
async fn output_contains(runtime: &dyn Runtime, id: &InstanceId, word: &str) -> bool {
    output(runtime, id).await.is_some_and(|text| text.contains(word))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_forks_without_end_hardly_slows_its_neighbour() {
    let fork = r#"while (true) switch (@pcntl_fork()) { case 0: while (true); case -1: echo "no more\n"; }"#;
    assert_neighbour_is_not_slowed(fork, async |runtime, id| {
        let processes = pids_of(id.as_str()).len();
        assert!(processes <= LIMITS.pids.unwrap() as usize, "{processes} processes");
        output_contains(runtime, id, "no more").await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_fills_its_disk_hardly_slows_its_neighbour() {
    let fill = r#"
        for ($n = 0; ; $n++) {
            if (@file_put_contents("/$n", str_repeat("x", 1 << 20)) === 1 << 20) continue;
            echo "full\n";
            while ($n >= 0) @unlink("/" . $n--);
        }"#;
    assert_neighbour_is_not_slowed(fill, async |runtime, id| output_contains(runtime, id, "full").await)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_eats_memory_hardly_slows_its_neighbour() {
    let eat = r#"
        ini_set("memory_limit", -1);
        while (true) {
            if (pcntl_fork() === 0) while (true) $eaten[] = str_repeat("x", 1 << 20);
            pcntl_wait($status);
            if (pcntl_wifsignaled($status) && pcntl_wtermsig($status) === 9) echo "killed\n";
        }"#;
    assert_neighbour_is_not_slowed(eat, async |runtime, id| output_contains(runtime, id, "killed").await)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_floods_its_log_hardly_slows_its_neighbour() {
    /// The number of bytes that are kept of each instance's output.
    const KEPT: usize = 256 << 10;
    let flood = r#"$line = str_repeat("x", 8191) . "\n"; while (true) fwrite(STDOUT, $line) && fwrite(STDERR, $line);"#;
    assert_neighbour_is_not_slowed(flood, async |runtime, id| {
        let kept = runtime.logs(id).await.map_or(0, |log| log.len());
        assert!(kept <= KEPT, "{kept} bytes");
        kept == KEPT
    })
    .await;
}
