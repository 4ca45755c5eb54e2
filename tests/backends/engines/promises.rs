//! What the engine runtime promises beyond the suite: takeover after a crash, nodes that share an engine, exits that no
//! event reported, files, commands, published ports.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use nix::sched::{CloneFlags, setns, unshare};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use tokio::io::AsyncReadExt;
use try_it_now::instance::{Endpoint, InstanceId};
use try_it_now::runtime::engine::{self, EngineKind, Reach};
use try_it_now::runtime::{CleanScope, ExecCommand, InstanceFile, Runtime, RuntimeError, StartRequest};
use try_it_now::template::{App, Egress};

use super::{LISTEN, TestNode, app, php, shell};
use crate::suites::runtime::{output, start_request, wait_until, with_timeout};
use crate::support::engine_stack::{EngineProxy, remove_by_hand, with_each_engine};

with_each_engine! {
    instances_outlive_a_server_and_are_adopted_with_their_endpoints
    nodes_that_share_an_engine_do_not_touch_each_others_containers
    a_container_that_is_removed_by_hand_is_an_exit
    the_last_output_of_an_app_that_ended_is_kept_until_it_is_stopped
    files_and_commands_of_an_instance_are_as_requested
    an_instance_reads_which_one_it_is_and_cannot_change_it
    files_that_a_crash_left_are_removed_and_those_of_adopted_instances_stay
    files_of_a_node_that_was_handed_over_stay
    a_list_of_destinations_is_refused_with_what_to_do
}

async fn start(runtime: &dyn Runtime, app: &App) -> (InstanceId, Endpoint) {
    let request = start_request(app);
    let started = with_timeout(runtime.start(&request)).await.unwrap();
    (request.id, started.endpoint)
}

async fn first_line(runtime: &dyn Runtime, endpoint: Endpoint) -> String {
    let read = async || {
        let mut text = String::new();
        runtime.connect(endpoint).await.ok()?.read_to_string(&mut text).await.ok()?;
        text.lines().next().map(str::to_owned)
    };
    wait_until("it answers", read).await
}

async fn instances_outlive_a_server_and_are_adopted_with_their_endpoints(kind: EngineKind) {
    let Some(node) = TestNode::new(kind) else { return };
    let first = node.open().await;
    let (kept, endpoint) = start(&first, &php(LISTEN)).await;
    assert_eq!(first_line(&first, endpoint).await, kept.as_str());
    // As if the server had been killed: it removes nothing.
    drop(first);

    let second = node.open().await;
    assert_eq!(second.list().await.unwrap(), std::slice::from_ref(&kept));
    assert_eq!(first_line(&second, endpoint).await, kept.as_str());
    // New instances have other namespaces than the adopted one.
    let (added, other) = start(&second, &php(LISTEN)).await;
    assert_ne!(other, endpoint);
    assert_eq!(first_line(&second, other).await, added.as_str());
    let mut exits = second.exits();
    with_timeout(second.stop(&kept)).await.unwrap();
    assert!(second.connect(endpoint).await.is_err());
    assert!(exits.try_recv().is_err());
}

async fn nodes_that_share_an_engine_do_not_touch_each_others_containers(kind: EngineKind) {
    let (Some(one), Some(other)) = (TestNode::new(kind), TestNode::new(kind)) else { return };
    let theirs = other.open().await;
    let (id, endpoint) = start(&theirs, &php(LISTEN)).await;
    let ours = one.open().await;
    assert!(ours.list().await.unwrap().is_empty());
    let (own, _) = start(&ours, &shell("exec sleep 600")).await;
    drop(ours);
    let settings = &one.settings;
    let scope = CleanScope::Nodes(vec![settings.node.clone()]);
    assert_eq!(engine::clean(kind, &settings.sockets, &scope).await.unwrap(), 1);
    assert!(one.open().await.list().await.unwrap().is_empty(), "{own} is gone");
    assert_eq!(first_line(&theirs, endpoint).await, id.as_str());
}

async fn a_container_that_is_removed_by_hand_is_an_exit(kind: EngineKind) {
    let Some(node) = TestNode::new(kind) else { return };
    let runtime = node.open().await;
    let mut exits = runtime.exits();
    let (lost, _) = start(&runtime, &shell("exec sleep 600")).await;
    let (kept, _) = start(&runtime, &shell("exec sleep 600")).await;
    remove_by_hand(&node.settings.sockets[0], lost.as_str()).await;
    assert_eq!(with_timeout(exits.recv()).await.unwrap().id, lost);
    wait_until("only the other is left", async || {
        (runtime.list().await.unwrap() == [kept.clone()]).then_some(())
    })
    .await;
}

/// Docker only: Podman's limits are read from the process at the other end of the socket, which is this test here.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_that_is_removed_while_the_engine_is_away_is_an_exit() {
    let Some(direct) = TestNode::new(EngineKind::Docker) else { return };
    let engine = direct.settings.sockets[0].clone();
    let mut proxy = EngineProxy::to(engine.clone());
    let mut settings = direct.settings.clone();
    settings.sockets = vec![proxy.path.clone()];
    let runtime = engine::EngineRuntime::open(settings).await.unwrap();
    let mut exits = runtime.exits();
    let (lost, _) = start(&runtime, &shell("exec sleep 600")).await;
    let (kept, endpoint) = start(&runtime, &php(LISTEN)).await;
    first_line(&runtime, endpoint).await;

    proxy.close().await;
    // Visitors of instances do not notice.
    assert_eq!(first_line(&runtime, endpoint).await, kept.as_str());
    let error = with_timeout(runtime.start(&start_request(&shell("true")))).await.unwrap_err();
    assert!(matches!(error, RuntimeError::Io { .. }), "{error}");
    remove_by_hand(&engine, lost.as_str()).await;

    proxy.open();
    let exit = with_timeout(exits.recv()).await.unwrap();
    assert_eq!((exit.id, exit.cause.as_str()), (lost, "its container was removed"));
    assert_eq!(first_line(&runtime, endpoint).await, kept.as_str());
    wait_until("only the other is left", async || {
        (runtime.list().await.unwrap() == [kept.clone()]).then_some(())
    })
    .await;
    proxy.close().await;
}

async fn the_last_output_of_an_app_that_ended_is_kept_until_it_is_stopped(kind: EngineKind) {
    let Some(node) = TestNode::new(kind) else { return };
    let runtime = node.open().await;
    let mut exits = runtime.exits();
    let (id, _) = start(&runtime, &shell("echo no license; exit 3")).await;
    let exit = with_timeout(exits.recv()).await.unwrap();
    assert_eq!((exit.id, exit.cause.as_str()), (id.clone(), "exit status 3"));
    wait_until("its container is removed", async || runtime.list().await.unwrap().is_empty().then_some(()))
        .await;
    assert_eq!(output(&runtime, &id).await.as_deref(), Some("no license\n"));
    with_timeout(runtime.stop(&id)).await.unwrap();
    assert_eq!(output(&runtime, &id).await, None);
}

async fn files_and_commands_of_an_instance_are_as_requested(kind: EngineKind) {
    let Some(node) = TestNode::new(kind) else { return };
    let runtime = node.open().await;
    let script =
        "stat -c '%a %u %g' /etc/new/file; cat /etc/new/file; echo $(cat /etc/try-it-now/id); exec sleep 600";
    let file = InstanceFile { mode: 0o640, owner: (7, 8), ..InstanceFile::new("/etc/new/file", "content\n") };
    let request = StartRequest { files: vec![file], ..start_request(&shell(script)) };
    with_timeout(runtime.start(&request)).await.unwrap();
    let expected = format!("640 7 8\ncontent\n{}\n", request.id);
    let written = wait_until("the app has written all", async || {
        output(&runtime, &request.id).await.filter(|text| text.lines().count() == 3)
    });
    assert_eq!(written.await, expected);

    let command = |script: &str, timeout: Duration| ExecCommand {
        argv: ["sh", "-c", script].map(str::to_owned).to_vec(),
        env: [("EXTRA".to_owned(), "a b".to_owned())].into(),
        timeout,
    };
    let long = Duration::from_secs(60);
    let ran = runtime.exec(&request, command("echo $EXTRA $INSTANCE_ID; exit 5", long)).await.unwrap();
    assert_eq!(ran.status, Some(5));
    assert_eq!(ran.output, format!("a b {}\n", request.id).as_bytes());
    let killed = runtime.exec(&request, command("sleep 600", Duration::from_millis(200))).await.unwrap();
    assert_eq!(killed.status, None);
    let missing = ExecCommand { argv: vec!["no-such-program".to_owned()], ..command("", long) };
    let error = with_timeout(runtime.exec(&request, missing)).await.unwrap_err();
    assert!(error.to_string().contains("no-such-program"), "{error}");
}

/// Lists the files that tell an instance which one it is, writes into one, and prints its id.
const IDENTITY: &str = "cd /etc/try-it-now; ls -A; stat -c '%a %u %g' seed; (echo x >url) 2>/dev/null || echo refused; \
                        echo $(cat id); exec sleep 600";

async fn identity_of(runtime: &dyn Runtime, request: &StartRequest) -> String {
    with_timeout(runtime.start(request)).await.unwrap();
    let last = format!("{}\n", request.id);
    let written = async || output(runtime, &request.id).await.filter(|text| text.ends_with(&last));
    wait_until("the app has written all", written).await
}

fn folders_in(dir: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    entries.collect()
}

async fn an_instance_reads_which_one_it_is_and_cannot_change_it(kind: EngineKind) {
    let Some(node) = TestNode::new(kind) else { return };
    let (runtime, dir) = (node.open().await, node.settings.files_dir.clone());
    let request = start_request(&shell(IDENTITY));
    let expected = format!("host\nid\nseed\nurl\n644 0 0\nrefused\n{}\n", request.id);
    assert_eq!(identity_of(&runtime, &request).await, expected);
    assert_eq!(folders_in(&dir), [request.id.to_string()].into());
    let only_own = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o077 == 0;
    assert!(only_own(&dir), "other users of the host read no file");
    with_timeout(runtime.stop(&request.id)).await.unwrap();
    assert_eq!(folders_in(&dir), BTreeSet::new());
    // What a start makes before it fails.
    with_timeout(runtime.start(&start_request(&app(&["no-such-program"])))).await.unwrap_err();
    assert_eq!(folders_in(&dir), BTreeSet::new());
}

async fn files_that_a_crash_left_are_removed_and_those_of_adopted_instances_stay(kind: EngineKind) {
    let Some(node) = TestNode::new(kind) else { return };
    let first = node.open().await;
    let request = start_request(&shell(IDENTITY));
    identity_of(&first, &request).await;
    drop(first);
    // Of a server that was killed before the engine had made the container.
    let dir = &node.settings.files_dir;
    fs::create_dir(dir.join(start_request(&shell("")).id.as_str())).unwrap();
    let second = node.open().await;
    assert_eq!(folders_in(dir), [request.id.to_string()].into());
    let read = ["cat", "/etc/try-it-now/id"].map(str::to_owned).to_vec();
    let command = ExecCommand { argv: read, env: BTreeMap::new(), timeout: Duration::from_secs(60) };
    let ran = with_timeout(second.exec(&request, command)).await.unwrap();
    assert_eq!(ran.output, request.id.as_str().as_bytes());
    with_timeout(second.stop(&request.id)).await.unwrap();
    assert_eq!(folders_in(dir), BTreeSet::new());
}

async fn files_of_a_node_that_was_handed_over_stay(kind: EngineKind) {
    let Some(node) = TestNode::new(kind) else { return };
    let old = node.open().await;
    let request = start_request(&shell(IDENTITY));
    identity_of(&old, &request).await;
    old.hand_over().await;
    let new = node.open().await;
    assert_eq!(new.list().await.unwrap(), std::slice::from_ref(&request.id));
    with_timeout(old.stop(&request.id)).await.unwrap();
    drop(old);
    assert_eq!(folders_in(&node.settings.files_dir), [request.id.to_string()].into());
    with_timeout(new.stop(&request.id)).await.unwrap();
}

/// Runs a test on threads that see a folder of their own at `dir`, as a server in a container does.
fn where_the_engine_sees_another_folder<F: Future<Output = ()>>(
    dir: &Path,
    test: impl FnOnce() -> F + Send + 'static,
) {
    fs::create_dir(dir).unwrap();
    let dir = dir.to_owned();
    let running = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
        mount("tmpfs", &dir, "tmpfs", MountFlags::empty(), None).unwrap();
        let mounts = File::open("/proc/thread-self/ns/mnt").unwrap();
        // Those for blocking work.
        let enter = move || {
            // A thread that shares its working folder with others may not change its mounts.
            unshare(CloneFlags::CLONE_FS).unwrap();
            setns(&mounts, CloneFlags::CLONE_NEWNS).unwrap();
        };
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_all().on_thread_start(enter).build().unwrap().block_on(test());
    });
    running.join().unwrap();
}

#[test]
fn an_engine_that_does_not_see_the_files_of_a_server_gets_them_by_upload() {
    for kind in [EngineKind::Docker, EngineKind::Podman] {
        let Some(node) = TestNode::new(kind) else { return };
        let (dir, settings) = (node.settings.files_dir.clone(), node.settings.clone());
        where_the_engine_sees_another_folder(&dir, async move || {
            let runtime = engine::EngineRuntime::open(settings).await.unwrap();
            let request = start_request(&shell(IDENTITY));
            let expected = format!("host\nid\nseed\nurl\n644 0 0\n{}\n", request.id);
            assert_eq!(identity_of(&runtime, &request).await, expected);
            with_timeout(runtime.stop(&request.id)).await.unwrap();
        });
        assert_eq!(folders_in(&dir), BTreeSet::new(), "the engine has made none");
    }
}

async fn a_list_of_destinations_is_refused_with_what_to_do(kind: EngineKind) {
    let Some(node) = TestNode::new(kind) else { return };
    let runtime = node.open().await;
    let listed = App { egress: Egress::Only(vec!["a.example:443".parse().unwrap()]), ..app(&["true"]) };
    let error = with_timeout(runtime.start(&start_request(&listed))).await.unwrap_err().to_string();
    assert!(error.contains("CONTAINER_MODE=containerd"), "{error}");
    assert!(runtime.list().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_may_not_enter_namespaces_has_the_engine_publish_a_port() {
    let Some(mut node) = TestNode::new(EngineKind::Docker) else { return };
    node.settings.reach = Some(Reach::Published);
    let runtime = node.open().await;
    let sealed = with_timeout(runtime.start(&start_request(&php(LISTEN)))).await.unwrap_err().to_string();
    assert!(sealed.contains("egress"), "{sealed}");
    let open = App { egress: Egress::Internet, ..php(LISTEN) };
    let (id, endpoint) = start(&runtime, &open).await;
    assert!(matches!(endpoint, Endpoint::Direct(at) if at.ip().is_loopback()), "{endpoint}");
    assert_eq!(first_line(&runtime, endpoint).await, id.as_str());
    with_timeout(runtime.stop(&id)).await.unwrap();
    assert!(runtime.connect(endpoint).await.is_err());
}
