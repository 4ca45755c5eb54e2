//! Each instance has ids of its own, and its root is no user of the host. What holds for a cold start holds for restored
//! instances, which have other ids than the one that was frozen.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;
use try_it_now::instance::{Endpoint, InstanceId};
use try_it_now::runtime::containerd::{ContainerdRuntime, ContainerdSettings, FaultInjector, FaultPoint};
use try_it_now::runtime::{Runtime, StartMethod, UserNamespaces};
use try_it_now::template::{App, ImageRef};

use super::random_numbers::image;
use super::{COUNTER_APP, REVISION, TestNode, bake, fs, oci_archive, php, send_command, start, with_timeout};
use crate::suites::runtime::start_request;

/// The user and group ids that an instance has.
const IDS: u32 = 1 << 16;

/// Ids below belong to users and services of a host.
const FIRST: u32 = 0x7000_0000;

/// Returns an app of the program `programs/users.c` that runs as this user, with this argument.
fn users_app(test_node: &TestNode, user: &str, argument: &str) -> App {
    let folder = test_node.settings.node_dir.join("program");
    fs::create_dir_all(&folder).unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/backends/containerd/programs/users.c");
    let program = folder.join("users");
    let compiled = Command::new("cc").args(["-static", "-O1", "-o"]).args([&program, &source]).output();
    let compiled = compiled.expect("a machine that links Rust has a C compiler");
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    let mut layer = tar::Builder::new(Vec::new());
    for (folder, mode) in [("dev", 0o755), ("proc", 0o755), ("etc", 0o755), ("tmp", 0o1777), ("sys", 0o755)] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(mode);
        header.set_size(0);
        layer.append_data(&mut header, folder, &[][..]).unwrap();
    }
    oci_archive::append(&mut layer, "users", 0o755, &fs::read(&program).unwrap());
    append_attribute(&mut layer, "security.capability", &CAPABILITIES);
    oci_archive::append(&mut layer, "capable", 0o755, b"");
    let path = folder.join("users.tar");
    let label = test_node.settings.node.as_str();
    let manifest = {
        let layer = layer.into_inner().unwrap();
        let config = json!({ "Labels": { "test": label }, "User": user });
        oci_archive::write_image(&path, &[(&layer, layer.clone(), "")], config)
    };
    test_node.images.lock().unwrap().push(format!("try-it-now.local/archive@{manifest}"));
    App { image: Some(ImageRef::Tar(path)), ..super::app(&["/users", argument]) }
}

/// The capability to listen on low ports, for the program /capable of [`users_app`], as an image has it.
const CAPABILITIES: [u8; 20] = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Gives the next file of an archive an extended attribute.
fn append_attribute(layer: &mut tar::Builder<Vec<u8>>, name: &str, value: &[u8]) {
    let record = [format!(" SCHILY.xattr.{name}=").as_bytes(), value, b"\n"].concat();
    // The length of a record counts its own digits, of which it has two.
    let record = [(record.len() + 2).to_string().as_bytes(), &record].concat();
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::XHeader);
    header.set_size(record.len() as u64);
    layer.append_data(&mut header, "attributes", record.as_slice()).unwrap();
}

/// A cold instance of an app, and two that were restored from one checkpoint.
async fn cold_and_restored(
    runtime: &ContainerdRuntime,
    app: &App,
    word: &str,
) -> [(InstanceId, Endpoint); 3] {
    let (frozen, started) = start(runtime, app).await;
    assert_eq!(started.method, StartMethod::Cold);
    let (cold, beside) = start(runtime, app).await;
    for endpoint in [started.endpoint, beside.endpoint] {
        assert_ne!(send_command(runtime, endpoint, word).await, "");
    }
    with_timeout(runtime.bake(&frozen, REVISION, app)).await.unwrap();
    let mut all = vec![(cold, beside.endpoint)];
    for _ in 0..2 {
        let (id, started) = start(runtime, app).await;
        assert_eq!(started.method, StartMethod::Restored);
        all.push((id, started.endpoint));
    }
    all.try_into().unwrap()
}

/// Returns the processes of an instance, by their numbers on the host.
fn processes(id: &InstanceId) -> Vec<u32> {
    let hierarchies = fs::read_dir("/sys/fs/cgroup").unwrap().map(|entry| entry.unwrap().path());
    let groups = hierarchies.chain([PathBuf::from("/sys/fs/cgroup")]).map(|folder| folder.join("try-it-now"));
    // The group of a node is one level above those of its instances.
    let nodes = groups.flat_map(|group| fs::read_dir(group).into_iter().flatten().flatten());
    let list = nodes
        .map(|node| node.path().join(id.as_str()).join("cgroup.procs"))
        .find_map(|file| fs::read_to_string(file).ok().filter(|list| !list.is_empty()));
    list.unwrap().lines().map(|line| line.parse().unwrap()).collect()
}

/// Returns the user and group ids on the host of a process; none if it has ended.
fn host_ids(pid: u32) -> Vec<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let lines = status.lines().filter(|line| line.starts_with("Uid:") || line.starts_with("Gid:"));
    lines.flat_map(|line| line.split_whitespace().skip(1)).map(|id| id.parse().unwrap()).collect()
}

/// Returns the users on the host of all processes of an instance, in the order of their ids.
fn users_on_host(id: &InstanceId) -> Vec<u32> {
    let mut users: Vec<u32> =
        processes(id).into_iter().filter_map(|pid| host_ids(pid).first().copied()).collect();
    users.sort_unstable();
    users
}

/// Returns the first id on the host of an instance. All its processes have ids of its range.
fn range_of(id: &InstanceId) -> u32 {
    let mut firsts: Vec<u32> = processes(id).into_iter().flat_map(host_ids).map(|id| id - id % IDS).collect();
    firsts.sort_unstable();
    firsts.dedup();
    assert_eq!(firsts.len(), 1, "{firsts:?}");
    assert!(firsts[0] >= FIRST, "{firsts:?}");
    firsts[0]
}

fn assert_all_differ(mut ranges: Vec<u32>) {
    let count = ranges.len();
    ranges.sort_unstable();
    ranges.dedup();
    assert_eq!(ranges.len(), count, "{ranges:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_root_of_an_instance_is_no_user_of_the_host_and_no_two_instances_share_an_id() {
    let Some(test_node) = TestNode::with_user_namespaces() else { return };
    let runtime = test_node.open().await;
    let all = cold_and_restored(&runtime, &php(COUNTER_APP), "note old").await;
    assert_all_differ(all.iter().map(|(id, _)| range_of(id)).collect());
    for (id, endpoint) in &all {
        send_command(&runtime, *endpoint, "note more").await;
        let seen = fs::metadata(format!("/proc/{}/root/notes", processes(id)[0])).unwrap();
        assert_eq!((seen.uid(), seen.gid()), (range_of(id), range_of(id)));
        // The files of the image are root's inside.
        let image = fs::metadata(format!("/proc/{}/root/etc/passwd", processes(id)[0])).unwrap();
        assert_eq!(image.uid(), range_of(id));
    }
    assert_eq!(test_node.id_ranges().len(), all.len());
    for (id, _) in &all {
        with_timeout(runtime.stop(id)).await.unwrap();
    }
    assert_eq!(test_node.id_ranges(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_uses_up_what_the_kernel_counts_for_a_user_leaves_the_others_theirs() {
    let Some(test_node) = TestNode::with_user_namespaces() else { return };
    let runtime = test_node.open().await;
    let all = cold_and_restored(&runtime, &users_app(&test_node, "", ""), "who").await;
    let [cold, restored, other] = all.map(|(_, endpoint)| endpoint);
    for (hostile, good) in [(restored, [cold, other]), (cold, [other, other])] {
        // Watches and instances in this order: the former need some of the latter.
        for what in ["queues", "signals", "pipes", "watches", "instances"] {
            let mut used = 0;
            // Again until nothing more is given: something that was in use a moment ago may be free now.
            loop {
                let more = send_command(&runtime, hostile, &format!("use up {what}")).await;
                let more: u64 = more.parse().unwrap();
                used += more;
                if more == 0 {
                    break;
                }
            }
            assert!(used > 0, "{what}");
            let more = send_command(&runtime, hostile, &format!("use one {what}")).await;
            assert_ne!(more, "done", "{what}: {used} are not all");
            for good in good {
                let one = send_command(&runtime, good, &format!("use one {what}")).await;
                assert_eq!(one, "done", "{what}: the other instance used {used}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_as_a_user_of_its_own_is_restored() {
    let Some(test_node) = TestNode::with_user_namespaces() else { return };
    let Some(image) = image("runtimes") else { return };
    let runtime = test_node.open().await;
    let program = include_str!("random_numbers/programs/postgresql.py");
    let app = App { image: Some(image), ..super::app(&["python3", "-c", program]) };
    for (id, endpoint) in cold_and_restored(&runtime, &app, "draw").await {
        let answer = send_command(&runtime, endpoint, "draw").await;
        assert!(answer.contains("secret gen_random_uuid "), "{answer}");
        let first = range_of(&id);
        let users = users_on_host(&id);
        assert!(users.iter().filter(|user| **user == first + 1000).count() > 4, "{users:?}");
    }
}

/// Runs nginx with a worker that is another user, on port 8080.
const NGINX: &str = r#"
echo 'www-data:x:33:33::/:/bin/sh' >>/etc/passwd
echo 'www-data:x:33:' >>/etc/group
for name in client_body proxy fastcgi uwsgi scgi; do paths="$paths ${name}_temp_path /tmp/$name;"; done
echo "user www-data; daemon off; pid /tmp/pid; error_log stderr; events {}
    http { access_log off; $paths server { listen 8080; location / { return 200 hello; } } }" >/tmp/nginx.conf
exec nginx -c /tmp/nginx.conf
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nginx_with_workers_of_another_user_is_restored() {
    let Some(test_node) = TestNode::with_user_namespaces() else { return };
    let Some(image) = image("nginx") else { return };
    let runtime = test_node.open().await;
    let app = App { image: Some(image), ..super::app(&["busybox", "sh", "-c", NGINX]) };
    let get = "GET / HTTP/1.0\r\n\r";
    for (id, endpoint) in cold_and_restored(&runtime, &app, get).await {
        let answer = send_command(&runtime, endpoint, get).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("hello"), "{answer}");
        let first = range_of(&id);
        assert_eq!(users_on_host(&id), [first, first + 33]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_no_instance_starts_with_a_user_namespace_all_start_without_one() {
    let Some(mut test_node) = TestNode::new() else { return };
    test_node.settings.user_namespaces = UserNamespaces::Auto;
    let (attempts, faults) = failing_ids(0);
    let runtime = test_node.open_watched(faults).await;
    for _ in 0..2 {
        let (id, started) = start(&runtime, &php(COUNTER_APP)).await;
        assert_eq!(send_command(&runtime, started.endpoint, "add").await, "1");
        assert_eq!(host_ids(processes(&id)[0])[0], 0);
    }
    assert_eq!(attempts.load(Ordering::SeqCst), 1, "the server does not try again");
    assert_eq!(test_node.id_ranges(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_one_instance_has_started_with_a_user_namespace_none_starts_without() {
    let Some(mut test_node) = TestNode::new() else { return };
    test_node.settings.user_namespaces = UserNamespaces::Auto;
    let (attempts, faults) = failing_ids(1);
    let runtime = test_node.open_watched(faults).await;
    let (id, _) = start(&runtime, &php(COUNTER_APP)).await;
    range_of(&id);
    with_timeout(runtime.start(&start_request(&php(COUNTER_APP)))).await.unwrap_err();
    assert_eq!(attempts.load(Ordering::SeqCst), 2);
    assert_eq!(test_node.id_ranges().len(), 1);
}

/// Counts the starts with user ids, and has all but the first `good` ones fail.
fn failing_ids(good: usize) -> (Arc<AtomicUsize>, FaultInjector) {
    let attempts = Arc::new(AtomicUsize::new(0));
    let counter = attempts.clone();
    let faults = FaultInjector::new(move |step| {
        let fails = step == FaultPoint::UserIds && counter.fetch_add(1, Ordering::SeqCst) >= good;
        if fails { Err(std::io::Error::other("failed to prepare idmapped overlay")) } else { Ok(()) }
    });
    (attempts, faults)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_makes_no_user_namespace() {
    let Some(test_node) = TestNode::with_user_namespaces() else { return };
    let runtime = test_node.open().await;
    for (id, endpoint) in cold_and_restored(&runtime, &users_app(&test_node, "", ""), "who").await {
        assert_eq!(send_command(&runtime, endpoint, "unshare").await, "refused");
        // The kernel would refuse it too if a filter of system calls were not there.
        let limit = Command::new("nsenter")
            .args(["--target", &processes(&id)[0].to_string(), "--user", "--preserve-credentials"])
            .args(["cat", "/proc/sys/user/max_user_namespaces"])
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&limit.stdout).trim(), "0", "{limit:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_whose_user_is_not_root_is_restored() {
    let Some(test_node) = TestNode::with_user_namespaces() else { return };
    let runtime = test_node.open().await;
    let app = users_app(&test_node, "1000:1001", "");
    let all = cold_and_restored(&runtime, &app, "who").await;
    for (id, endpoint) in &all {
        let answer = send_command(&runtime, *endpoint, "who").await;
        assert_eq!(answer, "1000 2");
        assert_eq!(send_command(&runtime, *endpoint, "write").await, "written");
        assert_eq!(send_command(&runtime, *endpoint, "stdout").await, "open");
        let (pid, first) = (processes(id)[0], range_of(id));
        assert_eq!(host_ids(pid), [[first + 1000; 4], [first + 1001; 4]].concat());
        assert_eq!(fs::metadata(format!("/proc/{pid}/root/tmp/made")).unwrap().uid(), first + 1000);
    }
    assert_all_differ(all.iter().map(|(id, _)| range_of(id)).collect());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_of_root_whose_workers_are_another_user_is_restored() {
    let Some(test_node) = TestNode::with_user_namespaces() else { return };
    let runtime = test_node.open().await;
    for (id, endpoint) in cold_and_restored(&runtime, &users_app(&test_node, "", "workers"), "who").await {
        assert_eq!(send_command(&runtime, endpoint, "who").await, "33 2");
        assert_eq!(send_command(&runtime, endpoint, "write").await, "written");
        let first = range_of(&id);
        assert_eq!(users_on_host(&id), [first, first + 33]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn access_lists_and_capabilities_of_files_hold_for_the_ids_of_each_restored_instance() {
    let Some(test_node) = TestNode::with_user_namespaces() else { return };
    let runtime = test_node.open().await;
    for (id, endpoint) in cold_and_restored(&runtime, &users_app(&test_node, "", "workers"), "who").await {
        // The root of the instance wrote it, and user 33 is only on its list.
        assert_eq!(send_command(&runtime, endpoint, "listed").await, "secret");
        let seen = send_command(&runtime, endpoint, "capabilities").await;
        assert_eq!(seen, hex::encode(CAPABILITIES));
        // On this host they hold for the root of the instance only.
        let mut value = [0_u8; 32];
        let file = format!("/proc/{}/root/capable", processes(&id)[0]);
        let length = rustix::fs::getxattr(file, "security.capability", &mut value).unwrap();
        assert_eq!(value[20..length], range_of(&id).to_le_bytes());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_they_are_required_no_instance_starts_without_a_user_namespace() {
    let Some(test_node) = TestNode::with_user_namespaces() else { return };
    let (attempts, faults) = failing_ids(0);
    let runtime = test_node.open_watched(faults).await;
    for _ in 0..2 {
        let error = with_timeout(runtime.start(&start_request(&php(COUNTER_APP)))).await.unwrap_err();
        assert!(error.to_string().contains("idmapped"), "{error}");
    }
    assert_eq!(attempts.load(Ordering::SeqCst), 2);
    assert_eq!(runtime.list().await.unwrap(), []);
    assert_eq!(test_node.id_ranges(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_change_of_the_setting_instances_go_on_and_new_ones_have_a_checkpoint_of_their_own() {
    for (before, after) in
        [(UserNamespaces::Off, UserNamespaces::Required), (UserNamespaces::Required, UserNamespaces::Off)]
    {
        let Some(test_node) = TestNode::new() else { return };
        let open = |user_namespaces| {
            ContainerdRuntime::open(ContainerdSettings { user_namespaces, ..test_node.settings.clone() })
        };
        let has_ids = |id: &InstanceId| host_ids(processes(id)[0])[0] >= FIRST;
        let runtime = open(before).await.unwrap();
        let app = bake(&runtime).await;
        let (kept, endpoint) = start(&runtime, &app).await;
        assert_eq!(endpoint.method, StartMethod::Restored);
        drop(runtime);

        let runtime = open(after).await.unwrap();
        with_timeout(runtime.fetch(&app)).await.unwrap();
        assert_eq!(runtime.list().await.unwrap(), std::slice::from_ref(&kept));
        assert_eq!(send_command(&runtime, endpoint.endpoint, "add").await, "2 old");
        assert_eq!(has_ids(&kept), before == UserNamespaces::Required);
        assert_eq!(bake(&runtime).await, app);
        // The next bake has removed the other checkpoint.
        let checkpoints = fs::read_dir(test_node.checkpoints()).unwrap().flatten();
        assert_eq!(checkpoints.filter(|entry| entry.path().is_dir()).count(), 1);
        let (id, started) = start(&runtime, &app).await;
        assert_eq!(started.method, StartMethod::Restored);
        assert_eq!(has_ids(&id), after == UserNamespaces::Required);
        assert_eq!(send_command(&runtime, started.endpoint, "add").await, "2 old");
        assert_eq!(send_command(&runtime, endpoint.endpoint, "add").await, "3 old");
        for id in [kept, id] {
            with_timeout(runtime.stop(&id)).await.unwrap();
            assert_eq!(test_node.resources_of(id.as_str()), [""; 0]);
        }
        assert_eq!(test_node.id_ranges(), [""; 0]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_server_knows_the_ids_of_the_instances_that_it_adopts() {
    let Some(test_node) = TestNode::with_user_namespaces() else { return };
    let runtime = test_node.open().await;
    let app = bake(&runtime).await;
    let (kept, started) = start(&runtime, &app).await;
    assert_eq!(started.method, StartMethod::Restored);
    let range = range_of(&kept);
    drop(runtime);
    let next = test_node.open().await;
    assert_eq!(test_node.id_ranges().len(), 1);
    let (other, _) = start(&next, &app).await;
    assert_ne!(range_of(&other), range);
    with_timeout(next.stop(&kept)).await.unwrap();
    with_timeout(next.stop(&other)).await.unwrap();
    assert_eq!(test_node.id_ranges(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_without_user_namespaces_is_not_restored_into_one() {
    let Some(test_node) = TestNode::with_user_namespaces() else { return };
    let settings = ContainerdSettings { user_namespaces: UserNamespaces::Off, ..test_node.settings.clone() };
    let runtime = ContainerdRuntime::open(settings.clone()).await.unwrap();
    let app = bake(&runtime).await;
    let (id, started) = start(&runtime, &app).await;
    assert_eq!(started.method, StartMethod::Restored);
    assert_eq!(host_ids(processes(&id)[0])[0], 0);
    with_timeout(runtime.stop(&id)).await.unwrap();
    drop(runtime);
    let runtime = test_node.open().await;
    with_timeout(runtime.fetch(&app)).await.unwrap();
    let (id, started) = start(&runtime, &app).await;
    assert_eq!(started.method, StartMethod::Cold);
    range_of(&id);
}
