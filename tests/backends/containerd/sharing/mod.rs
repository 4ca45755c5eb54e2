//! Instances of one checkpoint share the memory that they do not change.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use try_it_now::instance::Endpoint;
use try_it_now::runtime::containerd::ContainerdSettings;
use try_it_now::runtime::{CheckpointStatus, ExecCommand, Runtime, StartMethod, StartRequest};
use try_it_now::template::{App, ShareMemory};

use super::restore::restores_without_runc;
use super::{REVISION, TestNode, app, fs, php, send_command, start, start_request, wait_until, with_timeout};
use crate::support::leak_check;

mod gaps;
mod node_js;
mod programs;

/// Bytes that the app of these tests has in memory.
pub(super) const BULK: u64 = 24 << 20;

/// Has a text in memory that is far larger than the rest of PHP, and executes the one line that each visitor sends.
const BULK_APP: &str = r#"
$all = "";
for ($i = 0; $i < 3 << 19; $i++) $all .= sprintf("%016d", $i);
$more = [];
$listener = stream_socket_server("tcp://127.0.0.1:" . getenv("PORT"));
while (true) {
    $visitor = @stream_socket_accept($listener, 3600);
    if (!$visitor) continue; // woken by a restore
    $words = explode(" ", trim(fgets($visitor)));
    switch ($words[0]) {
        case "write": for ($i = 0; $i < strlen($words[2]); $i++) $all[$words[1] + $i] = $words[2][$i]; break;
        case "read": fwrite($visitor, substr($all, $words[1], 16)); break;
        case "sum": fwrite($visitor, md5($all)); break;
        case "grow": for ($i = 0; $i < $words[1]; $i++) $more[] = str_repeat(chr(65 + $i % 26), 1 << 16); break;
        case "fill": file_put_contents("/filled", str_repeat("x", $words[1] << 20)); break;
        case "drop": $more = []; gc_mem_caches(); break;
        case "right":
            $wrong = 0;
            foreach ($more as $i => $text) if ($text !== str_repeat(chr(65 + $i % 26), 1 << 16)) $wrong++;
            fwrite($visitor, count($more) . " with $wrong wrong");
            break;
    }
    fclose($visitor);
}
"#;

pub(super) async fn bake_bulk_app(runtime: &dyn Runtime, share_memory: ShareMemory) -> App {
    let bulk_app = App { share_memory, ..php(BULK_APP) };
    let (id, started) = start(runtime, &bulk_app).await;
    assert_eq!(started.method, StartMethod::Cold);
    assert_eq!(send_command(runtime, started.endpoint, "read 16").await, "0000000000000001");
    with_timeout(runtime.bake(&id, REVISION, &bulk_app)).await.unwrap();
    bulk_app
}

/// Returns the memory of an instance's processes in bytes: their private anonymous memory, and their proportional share
/// of all that they map.
pub(super) fn memory(id: &str) -> (u64, u64) {
    let (mut private, mut proportional) = (0, 0);
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let path = entry.path();
        if fs::read_to_string(path.join("root/etc/try-it-now/id")).is_ok_and(|own| own == id) {
            let rollup = fs::read_to_string(path.join("smaps_rollup")).unwrap();
            let sum = |name: &str| -> u64 {
                let lines =
                    rollup.lines().filter_map(|line| line.strip_prefix(name)?.split_whitespace().next());
                lines.map(|kilobytes| kilobytes.parse::<u64>().unwrap() << 10).sum()
            };
            private += sum("Pss_Anon:");
            proportional += sum("Pss:");
        }
    }
    (private, proportional)
}

/// Lists the mounts of the node's shared memory in containerd and its containers.
fn shared_memory_mounts(test_node: &TestNode) -> Vec<String> {
    let folder = test_node.settings.node_dir.join("memory");
    let folder = folder.to_str().unwrap();
    let mounts = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
        let mounts = fs::read_to_string(entry.path().join("mountinfo")).ok()?;
        mounts.lines().find(|line| line.contains(folder)).map(str::to_owned)
    });
    mounts.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_share_unchanged_memory_and_see_no_change_of_each_other() {
    let Some(test_node) = TestNode::new() else { return };
    let runtime = test_node.open().await;
    let bulk_app = bake_bulk_app(&runtime, ShareMemory::Auto).await;
    let about = runtime.describe_checkpoint(REVISION, &bulk_app).await.unwrap();
    assert!(about.starts_with("instances share "), "{about}");

    let (a_id, a) = start(&runtime, &bulk_app).await;
    let (b_id, b) = start(&runtime, &bulk_app).await;
    assert_eq!((a.method, b.method), (StartMethod::Restored, StartMethod::Restored));
    let sum = send_command(&runtime, a.endpoint, "sum").await;
    assert_eq!(send_command(&runtime, b.endpoint, "sum").await, sum);
    for id in [&a_id, &b_id] {
        let (private, proportional) = memory(id.as_str());
        assert!(private > 0 && private < BULK / 4, "{private} bytes of its own");
        assert!(proportional < BULK, "{proportional} bytes");
    }
    send_command(&runtime, a.endpoint, "write 1600 visitor-of-a").await;
    send_command(&runtime, b.endpoint, "write 1603 b").await;
    assert_eq!(send_command(&runtime, a.endpoint, "read 1600").await, "visitor-of-a0100");
    assert_eq!(send_command(&runtime, b.endpoint, "read 1600").await, "000b000000000100");
    let (c_id, c) = start(&runtime, &bulk_app).await;
    assert_eq!(send_command(&runtime, c.endpoint, "sum").await, sum);
    for id in [a_id, b_id, c_id] {
        with_timeout(runtime.stop(&id)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_template_can_disable_sharing() {
    let Some(test_node) = TestNode::new() else { return };
    let runtime = test_node.open().await;
    let bulk_app = bake_bulk_app(&runtime, ShareMemory::Off).await;
    let about = runtime.describe_checkpoint(REVISION, &bulk_app).await.unwrap();
    assert_eq!(about, "each instance has its own memory: its template turns sharing off");
    let (id, started) = start(&runtime, &bulk_app).await;
    assert_eq!(started.method, StartMethod::Restored);
    assert_eq!(send_command(&runtime, started.endpoint, "read 16").await, "0000000000000001");
    let (private, _) = memory(id.as_str());
    assert!(private >= BULK, "{private} bytes of its own");
    assert_eq!(shared_memory_mounts(&test_node), [""; 0]);
    with_timeout(runtime.stop(&id)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_instances_grow_and_shrink_and_stay_correct() {
    let Some(test_node) = TestNode::new() else { return };
    let runtime = test_node.open().await;
    let bulk_app = bake_bulk_app(&runtime, ShareMemory::Auto).await;
    let mut instances = Vec::new();
    for _ in 0..20 {
        instances.push(start(&runtime, &bulk_app).await);
    }
    for (number, (id, instance)) in instances.iter().enumerate() {
        assert_eq!(instance.method, StartMethod::Restored, "{id}");
        send_command(&runtime, instance.endpoint, &format!("write 0 {number:016}")).await;
        send_command(&runtime, instance.endpoint, "grow 40").await;
    }
    for (number, (_, instance)) in instances.iter().enumerate() {
        assert_eq!(send_command(&runtime, instance.endpoint, "right").await, "40 with 0 wrong");
        send_command(&runtime, instance.endpoint, "drop").await;
        send_command(&runtime, instance.endpoint, "grow 20").await;
        assert_eq!(send_command(&runtime, instance.endpoint, "right").await, "20 with 0 wrong");
        assert_eq!(send_command(&runtime, instance.endpoint, "read 0").await, format!("{number:016}"));
        assert_eq!(send_command(&runtime, instance.endpoint, "read 16").await, "0000000000000001");
    }
    let all: u64 = instances.iter().map(|(id, _)| memory(id.as_str()).1).sum();
    assert!(all < 20 * BULK / 2, "{all} bytes in all");
    for (id, _) in instances {
        with_timeout(runtime.stop(&id)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shared_memory_outlives_the_server_and_is_removed_with_the_last_instance() {
    let Some(test_node) = TestNode::new() else { return };
    let first = test_node.open().await;
    let bulk_app = bake_bulk_app(&first, ShareMemory::Auto).await;
    let (id, started) = start(&first, &bulk_app).await;
    send_command(&first, started.endpoint, "write 0 changed").await;
    drop(first);

    let runtime = test_node.open().await;
    with_timeout(runtime.fetch(&bulk_app)).await.unwrap();
    assert_eq!(runtime.checkpoint_status(REVISION, &bulk_app).await, CheckpointStatus::Present);
    let (_, other) = start(&runtime, &bulk_app).await;
    assert_eq!(other.method, StartMethod::Restored);
    assert_eq!(send_command(&runtime, other.endpoint, "read 0").await, "0000000000000000");
    assert_eq!(send_command(&runtime, started.endpoint, "read 0").await, "changed000000000");

    // The memory of a discarded checkpoint stays mounted only as long as an instance uses it.
    assert!(!shared_memory_mounts(&test_node).is_empty());
    for entry in fs::read_dir(test_node.checkpoints()).unwrap() {
        fs::remove_file(entry.unwrap().path().join("manifest.json")).unwrap();
    }
    drop(runtime);
    let runtime = test_node.open().await;
    assert_eq!(leak_check::files_below(&test_node.settings.node_dir.join("memory")), [""; 0]);
    assert_eq!(send_command(&runtime, started.endpoint, "read 16").await, "0000000000000001");
    with_timeout(runtime.stop(&id)).await.unwrap();
    assert_eq!(send_command(&runtime, other.endpoint, "read 16").await, "0000000000000001");
    for id in runtime.list().await.unwrap() {
        with_timeout(runtime.stop(&id)).await.unwrap();
    }
    wait_until("its memory is unmounted", async || shared_memory_mounts(&test_node).is_empty().then_some(()))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_whose_memory_is_missing_or_corrupt_is_discarded() {
    let Some(test_node) = TestNode::new() else { return };
    for corrupt in [false, true] {
        let runtime = test_node.open().await;
        let bulk_app = bake_bulk_app(&runtime, ShareMemory::Auto).await;
        drop(runtime);
        let key = fs::read_dir(test_node.checkpoints()).unwrap().next().unwrap().unwrap().file_name();
        let memory = test_node.settings.node_dir.join("memory").join(key);
        // As after a reboot of the host, or after a bit flip.
        if corrupt {
            corrupt_memory(&test_node, &memory);
        } else {
            fs::remove_dir(&memory).or_else(|_| unmount(&memory)).unwrap();
        }
        let runtime = test_node.open().await;
        with_timeout(runtime.fetch(&bulk_app)).await.unwrap();
        assert_eq!(runtime.checkpoint_status(REVISION, &bulk_app).await, CheckpointStatus::Missing);
        let (id, started) = start(&runtime, &bulk_app).await;
        assert_eq!(started.method, StartMethod::Cold);
        with_timeout(runtime.stop(&id)).await.unwrap();
    }
}

/// Unmounts shared memory where the tests see the mounts of containerd.
fn unmount(at: &Path) -> std::io::Result<()> {
    rustix::mount::unmount(at, rustix::mount::UnmountFlags::DETACH)?;
    fs::remove_dir(at)
}

/// Returns the path of a folder in the mount namespace of containerd.
fn path_in_containerd(test_node: &TestNode, folder: &Path) -> PathBuf {
    let stream = std::os::unix::net::UnixStream::connect(&test_node.settings.socket).unwrap();
    let containerd = rustix::net::sockopt::socket_peercred(&stream).unwrap().pid;
    let root = format!("/proc/{}/root", containerd.as_raw_nonzero());
    Path::new(&root).join(folder.strip_prefix("/").unwrap())
}

/// Has memory of which only the first page was used, until a visitor says which part to fill.
const SPARSE_APP: &str = r#"
$libc = FFI::cdef("unsigned char *malloc(size_t); void *memset(void *, int, size_t);");
$bytes = $libc->malloc(1 << 25);
$bytes[0] = 7;
$listener = stream_socket_server("tcp://127.0.0.1:" . getenv("PORT"));
while (true) {
    $visitor = @stream_socket_accept($listener, 3600);
    if (!$visitor) continue; // woken by a restore
    $words = explode(" ", trim(fgets($visitor)));
    if ($words[0] === "fill") $libc->memset($bytes + (int) $words[1], (int) $words[2], (int) $words[3]);
    fwrite($visitor, $bytes[(int) $words[1]]);
    fclose($visitor);
}
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_stay_correct_when_the_file_system_of_shared_memory_is_full() {
    let Some(mut test_node) = TestNode::new() else { return };
    // The file system has room for the memory that all instances together may use.
    test_node.settings.node_limits.memory = Some(256 << 20);
    let runtime = test_node.open().await;
    let sparse_app = app(&["php", "-d", "extension=ffi.so", "-d", "ffi.enable=true", "-r", SPARSE_APP]);
    let (id, started) = start(&runtime, &sparse_app).await;
    assert_eq!(send_command(&runtime, started.endpoint, "look 0").await, "7");
    with_timeout(runtime.bake(&id, REVISION, &sparse_app)).await.unwrap();
    let (a_id, a) = start(&runtime, &sparse_app).await;
    send_command(&runtime, a.endpoint, "look 0").await;

    // As an instance does that fills the file system. Only a process with all capabilities can write here.
    let key = fs::read_dir(test_node.checkpoints()).unwrap().next().unwrap().unwrap().file_name();
    let memory = path_in_containerd(&test_node, &test_node.settings.node_dir.join("memory").join(key));
    let mut filler = fs::File::create_new(memory.join("filler")).unwrap();
    let page = vec![7; 1 << 12];
    let error = loop {
        if let Err(error) = std::io::Write::write_all(&mut filler, &page) {
            break error;
        }
    };
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);

    // Both instances use memory that was reserved for them and that was not touched before.
    let (b_id, b) = start(&runtime, &sparse_app).await;
    assert_eq!(b.method, StartMethod::Restored);
    for (instance, value) in [(&a, 1), (&b, 2)] {
        assert_eq!(send_command(&runtime, instance.endpoint, "look 20000000").await, "0");
        let fill = format!("fill 10000 {value} 30000000");
        assert_eq!(send_command(&runtime, instance.endpoint, &fill).await, value.to_string());
    }
    for (instance, value) in [(&a, "1"), (&b, "2")] {
        assert_eq!(send_command(&runtime, instance.endpoint, "look 20000000").await, value);
    }
    for id in [a_id, b_id] {
        with_timeout(runtime.stop(&id)).await.unwrap();
    }
}

/// Flips a byte of the shared memory through the mounts of containerd.
fn corrupt_memory(test_node: &TestNode, memory: &Path) {
    use std::os::unix::fs::FileExt;

    let folder = path_in_containerd(test_node, memory).join(".mem");
    let file = fs::read_dir(folder).unwrap().next().unwrap().unwrap().path();
    let file = fs::File::options().read(true).write(true).open(file).unwrap();
    let at = rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(0)).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[!byte[0]], at).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_that_does_not_fit_is_restored_without_sharing() {
    let Some(mut test_node) = TestNode::new() else { return };
    test_node.settings = ContainerdSettings { shared_memory_limit: 1 << 20, ..test_node.settings.clone() };
    let runtime = test_node.open().await;
    let bulk_app = bake_bulk_app(&runtime, ShareMemory::Auto).await;
    let about = runtime.describe_checkpoint(REVISION, &bulk_app).await.unwrap();
    assert!(about.contains("does not fit: checkpoints share 0 MiB of 1 MiB already"), "{about}");
    let (id, started) = start(&runtime, &bulk_app).await;
    assert_eq!(started.method, StartMethod::Restored);
    assert_eq!(send_command(&runtime, started.endpoint, "read 16").await, "0000000000000001");
    assert_eq!(shared_memory_mounts(&test_node), [""; 0]);
    with_timeout(runtime.stop(&id)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_checkpoint_replaces_the_shared_memory_of_the_old_one() {
    let Some(test_node) = TestNode::new() else { return };
    let runtime = test_node.open().await;
    let bulk_app = bake_bulk_app(&runtime, ShareMemory::Auto).await;
    let (old, instance) = start(&runtime, &bulk_app).await;
    assert_eq!(instance.method, StartMethod::Restored);
    let next = StartRequest { revision: REVISION + 1, ..start_request(&bulk_app) };
    let started = with_timeout(runtime.start(&next)).await.unwrap();
    assert_eq!(started.method, StartMethod::Cold);
    assert_eq!(send_command(&runtime, started.endpoint, "read 16").await, "0000000000000001");
    with_timeout(runtime.bake(&next.id, REVISION + 1, &bulk_app)).await.unwrap();
    assert_eq!(fs::read_dir(test_node.settings.node_dir.join("memory")).unwrap().count(), 1);
    assert_eq!(runtime.checkpoint_status(REVISION, &bulk_app).await, CheckpointStatus::Missing);
    assert_eq!(runtime.checkpoint_status(REVISION + 1, &bulk_app).await, CheckpointStatus::Present);
    assert_eq!(send_command(&runtime, instance.endpoint, "read 32").await, "0000000000000002");
    with_timeout(runtime.stop(&old)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_instance_cannot_be_baked_and_its_checkpoint_stays() {
    let Some(test_node) = TestNode::new() else { return };
    let runtime = test_node.open().await;
    let bulk_app = bake_bulk_app(&runtime, ShareMemory::Auto).await;
    let (id, instance) = start(&runtime, &bulk_app).await;
    let error = with_timeout(runtime.bake(&id, REVISION + 1, &bulk_app)).await.unwrap_err();
    assert!(
        error.to_string().contains("an instance that was restored from a checkpoint cannot be frozen"),
        "{error}"
    );
    assert_eq!(send_command(&runtime, instance.endpoint, "read 16").await, "0000000000000001");
    with_timeout(runtime.bake(&id, REVISION, &bulk_app)).await.unwrap();
    assert_eq!(test_node.resources_of(id.as_str()), [""; 0]);
    let (id, instance) = start(&runtime, &bulk_app).await;
    assert_eq!(instance.method, StartMethod::Restored);
    assert_eq!(send_command(&runtime, instance.endpoint, "read 16").await, "0000000000000001");
    with_timeout(runtime.stop(&id)).await.unwrap();
}

/// Returns the first page of the image's own app.
async fn page(runtime: &dyn Runtime, endpoint: Endpoint) -> Option<String> {
    let mut stream = runtime.connect(endpoint).await.ok()?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await.ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await.ok()?;
    text.lines().next()?.contains(" 200 ").then_some(text)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_that_processes_share_is_shared_if_the_template_allows_it() {
    let Some(test_node) = TestNode::new() else { return };
    let runtime = test_node.open().await;
    for (share_memory, expected) in [(ShareMemory::Auto, false), (ShareMemory::WithShm, true)] {
        let own = App { share_memory, port: 80, command: Vec::new(), ..php("") };
        let revision = REVISION + u64::from(expected);
        let request = StartRequest { revision, ..start_request(&own) };
        let started = with_timeout(runtime.start(&request)).await.unwrap();
        wait_until("its page is served", async || page(&runtime, started.endpoint).await).await;
        with_timeout(runtime.bake(&request.id, revision, &own)).await.unwrap();
        let manifests = fs::read_dir(test_node.checkpoints()).unwrap().flatten();
        let manifests: Vec<_> =
            manifests.map(|entry| fs::read_to_string(entry.path().join("manifest.json")).unwrap()).collect();
        assert_eq!(manifests.len(), 1);
        assert_eq!(manifests[0].contains("\"shm-"), expected);
        for _ in 0..2 {
            let request = StartRequest { revision, ..super::start_request(&own) };
            let started = with_timeout(runtime.start(&request)).await.unwrap();
            assert_eq!(started.method, StartMethod::Restored);
            let first =
                wait_until("its page is served", async || page(&runtime, started.endpoint).await).await;
            let second = page(&runtime, started.endpoint).await.unwrap();
            // The app counts its visits.
            assert!(first.contains("id=\"visits\">2<") && second.contains("id=\"visits\">3<"), "{first}");
            with_timeout(runtime.stop(&request.id)).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_a_command_left_behind_prevents_sharing() {
    let Some(test_node) = TestNode::new() else { return };
    let runtime = test_node.open().await;
    let bulk_app = php(BULK_APP);
    let golden = start_request(&bulk_app);
    let started = with_timeout(runtime.start(&golden)).await.unwrap();
    assert_eq!(send_command(&runtime, started.endpoint, "read 16").await, "0000000000000001");
    let argv = ["sh", "-c", "sleep 600 </dev/null >/dev/null 2>&1 &"].map(str::to_owned).into();
    let command = ExecCommand { argv, env: [].into(), timeout: Duration::from_secs(10) };
    assert_eq!(with_timeout(runtime.exec(&golden, command)).await.unwrap().status, Some(0));
    with_timeout(runtime.bake(&golden.id, REVISION, &bulk_app)).await.unwrap();
    let about = runtime.describe_checkpoint(REVISION, &bulk_app).await.unwrap();
    assert!(about.starts_with("each instance has its own memory: process "), "{about}");
    assert!(about.ends_with(" was started by a command and not by the app"), "{about}");
    let (_, instance) = start(&runtime, &bulk_app).await;
    assert_eq!(instance.method, StartMethod::Restored);
    assert_eq!(send_command(&runtime, instance.endpoint, "read 16").await, "0000000000000001");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_that_the_first_instance_changed_are_prefaulted_in_the_next() {
    const PAGES: u64 = 300;
    let Some(test_node) = TestNode::new() else { return };
    let runtime = test_node.open().await;
    let bulk_app = bake_bulk_app(&runtime, ShareMemory::Auto).await;
    let (first, at_first) = start(&runtime, &bulk_app).await;
    assert!(runtime.may_observe(&first).await);
    let (second, at_second) = start(&runtime, &bulk_app).await;
    let before = memory(second.as_str()).0;
    let whole = send_command(&runtime, at_second.endpoint, "sum").await;
    for page in 0..PAGES {
        send_command(&runtime, at_first.endpoint, &format!("write {} other", page * 4096)).await;
    }
    with_timeout(runtime.observe(&first)).await.unwrap();
    assert!(!runtime.may_observe(&second).await);
    assert_ne!(send_command(&runtime, at_first.endpoint, "sum").await, whole);

    let (third, at_third) = start(&runtime, &bulk_app).await;
    assert_eq!(at_third.method, StartMethod::Restored);
    let more = memory(third.as_str()).0.saturating_sub(before);
    // With cgroup v2 runc restores, and then no page is prefaulted.
    if restores_without_runc() {
        assert!(more > PAGES * 4096 * 9 / 10, "{more} bytes more than {before}");
    }
    assert_eq!(send_command(&runtime, at_third.endpoint, "sum").await, whole);
    send_command(&runtime, at_third.endpoint, "write 4096 again").await;
    assert_eq!(send_command(&runtime, at_second.endpoint, "sum").await, whole);
    for id in [first, second, third] {
        with_timeout(runtime.stop(&id)).await.unwrap();
    }
}
