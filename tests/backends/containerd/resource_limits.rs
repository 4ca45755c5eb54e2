//! What one instance takes is not taken from the others.

use rustix::process::Pid;
use try_it_now::instance::Endpoint;
use try_it_now::runtime::{Runtime, StartMethod};
use try_it_now::template::ResourceLimits;

use super::{App, KEEPER, Place, app, bake_limited, fs, output, php, shell, start, tell, until, within};

/// Most processes of the fork bomb.
const PROCESSES: u32 = 24;

fn limited(mut app: App) -> App {
    app.limits.memory = Some(48 << 20);
    app.limits.pids = Some(PROCESSES);
    app
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fork_bomb_is_stopped_by_its_limit_while_a_neighbour_answers() {
    let Some(place) = Place::new() else { return };
    let runtime = place.open().await;
    let (_, neighbour) = start(&runtime, &php(KEEPER)).await;
    let bomb = "while :; do (sleep 600 &) || echo no more; sleep 0.01; done";
    let (id, _) = start(&runtime, &limited(shell(bomb))).await;
    until("it may make no more", async || output(&runtime, &id).await.filter(|text| text.contains("fork")))
        .await;
    let processes = processes_of(id.as_str());
    assert!(processes > 0 && processes <= PROCESSES as usize, "{processes} processes");
    assert_eq!(tell(&runtime, neighbour.endpoint, "add").await, "1");
    within(runtime.stop(&id)).await.unwrap();
    assert_eq!(place.all_of(id.as_str()), [""; 0]);
    assert_eq!(processes_of(id.as_str()), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_eats_memory_is_ended_and_a_neighbour_is_not() {
    let Some(place) = Place::new() else { return };
    let runtime = place.open().await;
    let mut exits = runtime.exits();
    let (_, neighbour) = start(&runtime, &limited(php(KEEPER))).await;
    assert_eq!(tell(&runtime, neighbour.endpoint, "add").await, "1");
    let eat = "$eaten = []; while (true) { $eaten[] = str_repeat(\"x\", 1 << 20); }";
    let (id, _) = start(&runtime, &limited(app(&["php", "-d", "memory_limit=-1", "-r", eat]))).await;
    let exit = within(exits.recv()).await.unwrap();
    assert_eq!((exit.id, exit.how.as_str()), (id, "signal 9"));
    assert_eq!(tell(&runtime, neighbour.endpoint, "add").await, "2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_is_full_at_its_limit_restored_or_not_and_for_its_own_instance_only() {
    let Some(place) = Place::new() else { return };
    let runtime = place.open().await;
    let limits = ResourceLimits { disk: Some(16 << 20), ..ResourceLimits::default() };
    let (cold, started) = start(&runtime, &App { limits, ..php(KEEPER) }).await;
    assert_eq!(started.how, StartMethod::Cold);
    let fill = async |keeper: Endpoint| {
        assert_eq!(tell(&runtime, keeper, "fill 12").await, "written");
        assert_eq!(tell(&runtime, keeper, "fill 20").await, "full");
        // It takes no harm, and what is removed makes room.
        assert_eq!(tell(&runtime, keeper, "fill 12").await, "written");
    };
    fill(started.endpoint).await;

    let keeper = bake_limited(&runtime, limits).await;
    let mut restored = Vec::new();
    for _ in 0..2 {
        let (id, started) = start(&runtime, &keeper).await;
        assert_eq!(started.how, StartMethod::Restored);
        // What the first has filled is not missing to the second, and what was baked counts for neither.
        fill(started.endpoint).await;
        restored.push(id);
    }
    for id in restored.iter().chain([&cold]) {
        within(runtime.stop(id)).await.unwrap();
        assert_eq!(place.all_of(id.as_str()), [""; 0]);
    }
}

/// How many processes an instance has.
fn processes_of(id: &str) -> usize {
    pids_of(id).len()
}

/// The processes in an instance's cgroup, which is named after it.
pub(crate) fn pids_of(id: &str) -> Vec<Pid> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let inside = processes.filter(|entry| {
        fs::read_to_string(entry.path().join("cgroup")).is_ok_and(|cgroup| cgroup.contains(id))
    });
    inside.filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)).collect()
}
