//! What the programs of other people's images do, on a cold start and in restored instances.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering::SeqCst};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use try_it_now::instance::{Endpoint, InstanceId};
use try_it_now::runtime::containerd::{ContainerdRuntime, FaultInjector, FaultPoint};
use try_it_now::runtime::{Runtime, RuntimeError, StartMethod};
use try_it_now::template::{App, ImageRef, ResourceLimits};

use super::{REVISION, TestNode, send_command, start, wait_until, with_timeout};
use crate::support::skip::skip;
use crate::support::stack;

/// Begins every program.
const SERVE: &str = include_str!("programs/serve.py");

/// Returns a program in Python as an app; `None` and prints why if its image is missing.
fn program(source: &str) -> Option<App> {
    let archive = stack::image_archive("runtimes");
    if !archive.is_file() {
        skip("the image runtimes is missing (run `make images`)");
        return None;
    }
    let code = format!("{SERVE}{source}");
    let command = ["/usr/bin/python3", "-u", "-c", &code];
    Some(App { image: Some(ImageRef::Tar(archive)), port: 8080, ..crate::suites::runtime::app(&command) })
}

/// A program that was started cold.
struct Cold {
    app: App,
    id: InstanceId,
    endpoint: Endpoint,
}

impl Cold {
    async fn start(runtime: &ContainerdRuntime, source: &str) -> Option<Self> {
        Some(Self::start_app(runtime, program(source)?).await)
    }

    async fn start_app(runtime: &ContainerdRuntime, app: App) -> Self {
        let (id, started) = start(runtime, &app).await;
        assert_eq!(started.method, StartMethod::Cold);
        Self { app, id, endpoint: started.endpoint }
    }

    async fn bake(&self, runtime: &ContainerdRuntime) -> Result<(), RuntimeError> {
        with_timeout(runtime.bake(&self.id, REVISION, &self.app)).await
    }

    /// Bakes it, and returns two restored instances.
    async fn restored(&self, runtime: &ContainerdRuntime) -> [(InstanceId, Endpoint); 2] {
        self.bake(runtime).await.unwrap();
        let mut instances = Vec::new();
        for _ in 0..2 {
            let (id, started) = start(runtime, &self.app).await;
            assert_eq!(started.method, StartMethod::Restored);
            instances.push((id, started.endpoint));
        }
        instances.try_into().unwrap()
    }
}

/// Returns the number of the process of an instance that has this name.
fn process_of(test_node: &TestNode, id: &InstanceId, name: &str) -> i32 {
    let list = test_node.stack.ctr(&["tasks", "ps", id.as_str()]);
    let mut pids = list.lines().filter_map(|line| line.split_whitespace().next()?.parse().ok());
    let has_name = |pid: &i32| {
        std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == name)
    };
    pids.find(has_name).unwrap()
}

async fn stop_all(runtime: &ContainerdRuntime, instances: [(InstanceId, Endpoint); 2]) {
    for (id, _) in instances {
        with_timeout(runtime.stop(&id)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pipes_and_sockets_get_names_and_device_files_do_not() {
    let Some(test_node) = TestNode::new() else { return };
    let runtime = test_node.open().await;
    let Some(cold) = Cold::start(&runtime, include_str!("programs/pipes.py")).await else { return };
    let expected = "pipe=made socket=made file=made null=EPERM whiteout=EPERM disk=EPERM read=through";
    assert_eq!(send_command(&runtime, cold.endpoint, "cold").await, expected);
    let instances = cold.restored(&runtime).await;
    for (_, endpoint) in &instances {
        assert_eq!(send_command(&runtime, *endpoint, "restored").await, expected);
    }
    stop_all(&runtime, instances).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_instance_has_terminals_of_its_own_and_open_ones_go_on() {
    let Some(test_node) = TestNode::new() else { return };
    let runtime = test_node.open().await;
    let Some(cold) = Cold::start(&runtime, include_str!("programs/terminals.py")).await else { return };
    assert_eq!(send_command(&runtime, cold.endpoint, "say cold").await, "<cold>");
    let instances = cold.restored(&runtime).await;
    let [(_, first), (_, second)] = &instances;
    assert_eq!(send_command(&runtime, *first, "say first").await, "<first>");
    assert_eq!(send_command(&runtime, *second, "say second").await, "<second>");
    // One that takes all of its own takes none of another.
    let full = send_command(&runtime, *first, "fill").await;
    assert!(full.starts_with("15 then"), "{full}");
    assert_eq!(send_command(&runtime, *second, "names").await, "0 ptmx");
    let full = send_command(&runtime, *second, "fill").await;
    assert!(full.starts_with("15 then"), "{full}");
    stop_all(&runtime, instances).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_inside_an_instance_go_on_and_others_are_closed() {
    let Some(test_node) = TestNode::new() else { return };
    let runtime = test_node.open().await;
    let Some(cold) = Cold::start(&runtime, include_str!("programs/connections.py")).await else { return };
    assert_eq!(send_command(&runtime, cold.endpoint, "ask").await, "WORD WORD WORD WORD");
    // A connection from outside, such as the proxy's, is open when the instance is frozen.
    assert_eq!(send_command(&runtime, cold.endpoint, "hold").await, "held");
    let Endpoint::Sealed { namespace, .. } = cold.endpoint else { panic!() };
    let _outside = runtime.connect(Endpoint::Sealed { namespace, port: 7004 }).await.unwrap();
    while send_command(&runtime, cold.endpoint, "count").await != "2" {}
    let instances = cold.restored(&runtime).await;
    for (_, endpoint) in &instances {
        for _ in 0..2 {
            assert_eq!(send_command(&runtime, *endpoint, "ask").await, "WORD WORD WORD WORD");
        }
        let closed = send_command(&runtime, *endpoint, "held").await;
        assert!(
            ["b''", "ConnectionResetError", "BrokenPipeError", "OSError"].contains(&&*closed),
            "{closed}"
        );
    }
    stop_all(&runtime, instances).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_on_its_way_between_two_processes_is_neither_lost_nor_doubled() {
    let Some(test_node) = TestNode::new() else { return };
    let runtime = test_node.open().await;
    let Some(cold) = Cold::start(&runtime, include_str!("programs/streams.py")).await else { return };
    let frozen_at = lines_seen(&runtime, cold.endpoint, [200, 100]).await;
    let instances = cold.restored(&runtime).await;
    for (_, endpoint) in &instances {
        // The readers go on where they were, through what was in the sockets, and further.
        lines_seen(&runtime, *endpoint, frozen_at.map(|lines| lines + 3000)).await;
    }
    stop_all(&runtime, instances).await;
}

/// Waits until both readers have seen so many lines, none of them lost or doubled. Returns how many they have seen.
async fn lines_seen(runtime: &ContainerdRuntime, endpoint: Endpoint, least: [u64; 2]) -> [u64; 2] {
    wait_until("the streams go on", async || {
        let text = send_command(runtime, endpoint, "count").await;
        let numbers: Vec<u64> = text.split(' ').map(|number| number.parse().unwrap()).collect();
        let [fast, fast_wrong, slow, slow_wrong] = numbers[..] else { panic!("{text}") };
        assert_eq!([fast_wrong, slow_wrong], [0, 0], "{text}");
        (fast >= least[0] && slow >= least[1]).then_some([fast, slow])
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_of_files_and_folders_go_on() {
    let Some(test_node) = TestNode::new() else { return };
    let runtime = test_node.open().await;
    let Some(cold) = Cold::start(&runtime, include_str!("programs/watches.py")).await else { return };
    assert_eq!(send_command(&runtime, cold.endpoint, "count").await, "6 watches");
    let instances = cold.restored(&runtime).await;
    for (_, endpoint) in &instances {
        assert_eq!(send_command(&runtime, *endpoint, "change").await, "6 seen");
    }
    stop_all(&runtime, instances).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn semaphores_and_deleted_files_go_on() {
    let Some(test_node) = TestNode::new() else { return };
    let runtime = test_node.open().await;
    let Some(cold) = Cold::start(&runtime, include_str!("programs/files.py")).await else { return };
    assert_eq!(send_command(&runtime, cold.endpoint, "start").await, "started");
    let instances = cold.restored(&runtime).await;
    for (_, endpoint) in &instances {
        assert_eq!(send_command(&runtime, *endpoint, "check").await, "0 0 0 0 0 0 0 0");
    }
    stop_all(&runtime, instances).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shared_memory_by_name_is_a_limited_tmpfs_and_goes_on() {
    let Some(test_node) = TestNode::new() else { return };
    let runtime = test_node.open().await;
    let Some(app) = program(include_str!("programs/shared_memory.py")) else { return };
    let limits = ResourceLimits { disk: Some(32 << 20), ..ResourceLimits::default() };
    let cold = Cold::start_app(&runtime, App { limits, ..app }).await;
    let rest = "gone pong sem=2 owner=33:34 0o1777 folder,kept,sem.counted";
    assert_eq!(send_command(&runtime, cold.endpoint, "check").await, format!("first first {rest}"));
    assert_eq!(send_command(&runtime, cold.endpoint, "fill").await, "ENOSPC");
    let instances = cold.restored(&runtime).await;
    for (number, (_, endpoint)) in instances.iter().enumerate() {
        assert_eq!(send_command(&runtime, *endpoint, "check").await, format!("first first {rest}"));
        assert_eq!(send_command(&runtime, *endpoint, &format!("write own-{number}")).await, "written");
        assert_eq!(send_command(&runtime, *endpoint, "fill").await, "ENOSPC");
    }
    for (number, (_, endpoint)) in instances.iter().enumerate() {
        let expected = format!("own-{number} own-{number} {rest}");
        assert_eq!(send_command(&runtime, *endpoint, "check").await, expected);
    }
    stop_all(&runtime, instances).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_process_is_named_and_the_instance_goes_on() {
    let Some(test_node) = TestNode::new() else { return };
    let runtime = test_node.open().await;
    let Some(cold) = Cold::start(&runtime, include_str!("programs/stopped.py")).await else { return };
    assert_eq!(send_command(&runtime, cold.endpoint, "stop").await, "T");
    let error = cold.bake(&runtime).await.unwrap_err().to_string();
    assert!(error.contains("sleep") && error.contains("is stopped"), "{error}");
    assert_eq!(send_command(&runtime, cold.endpoint, "continue").await, "S");
    stop_all(&runtime, cold.restored(&runtime).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_freeze_that_does_not_end_is_given_up_and_the_instance_goes_on() {
    let Some(mut test_node) = TestNode::new() else { return };
    test_node.settings.freeze_timeout = Duration::from_secs(5);
    let sleeper = Arc::new(AtomicI32::new(0));
    // After the look for stopped processes, and before the freeze.
    let stopped = sleeper.clone();
    let runtime = test_node.open_watched(FaultInjector::new(move |step| {
        if let (FaultPoint::BakeFolder, Some(pid)) = (step, Pid::from_raw(stopped.load(SeqCst))) {
            kill_process(pid, Signal::STOP)?;
        }
        Ok(())
    }));
    let runtime = runtime.await;
    let Some(cold) = Cold::start(&runtime, include_str!("programs/stopped.py")).await else { return };
    send_command(&runtime, cold.endpoint, "continue").await;
    sleeper.store(process_of(&test_node, &cold.id, "sleep"), SeqCst);
    let error = cold.bake(&runtime).await.unwrap_err().to_string();
    assert!(error.contains("was not frozen within 5s"), "{error}");
    sleeper.store(0, SeqCst);
    assert_eq!(send_command(&runtime, cold.endpoint, "continue").await, "S");
    with_timeout(runtime.stop(&cold.id)).await.unwrap();
    assert_eq!(test_node.stack.resources_named(&[cold.id.as_str()]), BTreeSet::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sandbox_that_a_restore_would_lose_is_not_offered() {
    let Some(test_node) = TestNode::new() else { return };
    let runtime = test_node.open().await;
    let Some(cold) = Cold::start(&runtime, include_str!("programs/landlock.py")).await else { return };
    let refused = "False Function not implemented";
    assert_eq!(send_command(&runtime, cold.endpoint, "ask").await, refused);
    let instances = cold.restored(&runtime).await;
    for (_, endpoint) in &instances {
        assert_eq!(send_command(&runtime, *endpoint, "ask").await, refused);
    }
    stop_all(&runtime, instances).await;
}
