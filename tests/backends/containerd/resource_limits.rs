//! Limits of an instance apply to it and leave its neighbours unaffected.

use rustix::process::Pid;
use try_it_now::instance::Endpoint;
use try_it_now::runtime::{Runtime, StartMethod};
use try_it_now::template::ResourceLimits;

use super::{
    App, COUNTER_APP, TestNode, app, bake_limited, fs, output, php, send_command, shell, start, wait_until,
    with_timeout,
};

/// The process limit of the fork bomb.
const PROCESSES: u32 = 24;

fn limited(mut app: App) -> App {
    app.limits.memory = Some(48 << 20);
    app.limits.pids = Some(PROCESSES);
    app
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fork_bomb_is_stopped_by_its_limit_while_a_neighbour_answers() {
    let Some(test_node) = TestNode::new() else { return };
    let runtime = test_node.open().await;
    let (_, neighbour) = start(&runtime, &php(COUNTER_APP)).await;
    let bomb = "while :; do (sleep 600 &) || echo no more; sleep 0.01; done";
    let (id, _) = start(&runtime, &limited(shell(bomb))).await;
    wait_until("the limit stops it", async || {
        output(&runtime, &id).await.filter(|text| text.contains("fork"))
    })
    .await;
    let processes = processes_of(id.as_str());
    assert!(processes > 0 && processes <= PROCESSES as usize, "{processes} processes");
    assert_eq!(send_command(&runtime, neighbour.endpoint, "add").await, "1");
    with_timeout(runtime.stop(&id)).await.unwrap();
    assert_eq!(test_node.resources_of(id.as_str()), [""; 0]);
    assert_eq!(processes_of(id.as_str()), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_eats_memory_is_killed_and_its_neighbour_is_not() {
    let Some(test_node) = TestNode::new() else { return };
    let runtime = test_node.open().await;
    let mut exits = runtime.exits();
    let (_, neighbour) = start(&runtime, &limited(php(COUNTER_APP))).await;
    assert_eq!(send_command(&runtime, neighbour.endpoint, "add").await, "1");
    let eat = "$eaten = []; while (true) { $eaten[] = str_repeat(\"x\", 1 << 20); }";
    let (id, _) = start(&runtime, &limited(app(&["php", "-d", "memory_limit=-1", "-r", eat]))).await;
    let exit = with_timeout(exits.recv()).await.unwrap();
    assert_eq!((exit.id, exit.cause.as_str()), (id, "signal 9"));
    assert_eq!(send_command(&runtime, neighbour.endpoint, "add").await, "2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_limit_applies_only_to_its_own_instance_cold_started_or_restored() {
    let Some(test_node) = TestNode::new() else { return };
    let runtime = test_node.open().await;
    let limits = ResourceLimits { disk: Some(16 << 20), ..ResourceLimits::default() };
    let (cold, started) = start(&runtime, &App { limits, ..php(COUNTER_APP) }).await;
    assert_eq!(started.method, StartMethod::Cold);
    let fill = async |counter: Endpoint| {
        assert_eq!(send_command(&runtime, counter, "fill 12").await, "written");
        assert_eq!(send_command(&runtime, counter, "fill 20").await, "full");
        // The app keeps running, and removing a file frees space.
        assert_eq!(send_command(&runtime, counter, "fill 12").await, "written");
    };
    fill(started.endpoint).await;

    let counter = bake_limited(&runtime, limits).await;
    let mut restored = Vec::new();
    for _ in 0..2 {
        let (id, started) = start(&runtime, &counter).await;
        assert_eq!(started.method, StartMethod::Restored);
        // What one instance has written does not reduce the space of another, and what was baked counts for neither.
        fill(started.endpoint).await;
        restored.push(id);
    }
    for id in restored.iter().chain([&cold]) {
        with_timeout(runtime.stop(id)).await.unwrap();
        assert_eq!(test_node.resources_of(id.as_str()), [""; 0]);
    }
}

/// Returns how many processes an instance has.
fn processes_of(id: &str) -> usize {
    pids_of(id).len()
}

/// Returns the processes in an instance's cgroup, which is named after it.
pub(crate) fn pids_of(id: &str) -> Vec<Pid> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let inside = processes.filter(|entry| {
        fs::read_to_string(entry.path().join("cgroup")).is_ok_and(|cgroup| cgroup.contains(id))
    });
    inside.filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)).collect()
}
