//! Instances that read the gaps of the files of shared memory, beside good ones that grow.

use std::path::PathBuf;

use try_it_now::instance::{Endpoint, InstanceId};
use try_it_now::runtime::{Runtime, StartMethod};
use try_it_now::template::{App, ResourceLimits};

use super::path_in_containerd;
use crate::containerd::{REVISION, TestNode, app, fs, send_command, start, wait_until, with_timeout};

/// Memory that an instance of these tests may use, in mebibytes.
const LIMIT: u64 = 64;

/// Has a block of memory that can grow, and executes the one line that each visitor sends. `read FROM MEBIBYTES` maps
/// the last gap of the file of its shared memory, which it finds in its memory map, and reads each page of it.
const GAP_APP: &str = r#"
$libc = FFI::cdef("unsigned char *malloc(size_t); unsigned char *realloc(unsigned char *, size_t);
    void *memset(void *, int, size_t); int open(const char *, int); long lseek(int, long, int);
    unsigned char *mmap(void *, size_t, int, int, int, long);");
function own_file() {
    preg_match("~/dev/\.mem/\S+~", file_get_contents("/proc/self/maps"), $found);
    return $found[0];
}
$length = 4 << 20;
$bytes = $libc->malloc($length);
$bytes[0] = 7;
$listener = stream_socket_server("tcp://127.0.0.1:" . getenv("PORT"));
while (true) {
    $visitor = @stream_socket_accept($listener, 3600);
    if (!$visitor) continue; // woken by a restore
    $words = explode(" ", trim(fgets($visitor)));
    $answer = "done";
    switch ($words[0]) {
        case "read":
            $file = $libc->open(own_file(), 0);
            $gap = $libc->lseek($file, 0, 2) - (1 << 35) + ($words[1] << 20);
            $pages = $libc->mmap(NULL, $words[2] << 20, 1, 2, $file, $gap);
            for ($at = 0; $at < $words[2] << 20; $at += 4096) $pages[$at];
            break;
        case "grow":
            $length = $words[1] << 20;
            $bytes = $libc->realloc($bytes, $length);
            $libc->memset($bytes, 7, $length);
            break;
        case "wrong":
            $answer = 0;
            for ($at = 0; $at < $length; $at += 4096) if ($bytes[$at] !== 7) $answer++;
            break;
    }
    fwrite($visitor, $answer);
    fclose($visitor);
}
"#;

/// Bakes the checkpoint of an app whose instances can read gaps and grow.
async fn bake_gap_app(runtime: &dyn Runtime) -> App {
    let limits = ResourceLimits { memory: Some(LIMIT << 20), ..ResourceLimits::default() };
    let command = ["php", "-d", "extension=ffi.so", "-d", "ffi.enable=true", "-r", GAP_APP];
    let gap_app = App { limits, ..app(&command) };
    let (id, started) = start(runtime, &gap_app).await;
    send_command(runtime, started.endpoint, "ready").await;
    with_timeout(runtime.bake(&id, REVISION, &gap_app)).await.unwrap();
    let about = runtime.describe_checkpoint(REVISION, &gap_app).await.unwrap();
    assert!(about.starts_with("instances share "), "{about}");
    gap_app
}

async fn restore(runtime: &dyn Runtime, gap_app: &App) -> (InstanceId, Endpoint) {
    let (id, started) = start(runtime, gap_app).await;
    assert_eq!(started.method, StartMethod::Restored);
    (id, started.endpoint)
}

/// Returns the folder of the only checkpoint's shared memory.
fn shared_memory(test_node: &TestNode) -> PathBuf {
    let key = fs::read_dir(test_node.checkpoints()).unwrap().next().unwrap().unwrap().file_name();
    path_in_containerd(test_node, &test_node.settings.node_dir.join("memory").join(key))
}

/// Returns the bytes that the shared memory takes.
fn used_bytes(shared_memory: &PathBuf) -> u64 {
    let found = rustix::fs::statvfs(shared_memory).unwrap();
    (found.f_blocks - found.f_bfree) * found.f_frsize
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_that_read_the_gaps_of_shared_memory_harm_no_instance_that_grows() {
    let Some(test_node) = TestNode::new() else { return };
    let runtime = test_node.open().await;
    let gap_app = bake_gap_app(&runtime).await;
    let (grower_id, grower) = restore(&runtime, &gap_app).await;
    let memory = shared_memory(&test_node);
    let at_first = used_bytes(&memory);

    // Together more than one instance may use.
    let (first_id, first) = restore(&runtime, &gap_app).await;
    let (second_id, second) = restore(&runtime, &gap_app).await;
    assert_eq!(send_command(&runtime, first, "read 0 36").await, "done");
    assert_eq!(send_command(&runtime, second, "read 40 36").await, "done");
    assert!(used_bytes(&memory) >= at_first + (72 << 20), "the pages are allocated");
    assert_eq!(send_command(&runtime, grower, "grow 12").await, "done");
    assert_eq!(send_command(&runtime, grower, "wrong").await, "0");

    // Their pages are given back when one of them ends, and the grower keeps its own.
    for id in [&first_id, &second_id] {
        with_timeout(runtime.stop(id)).await.unwrap();
    }
    assert!(used_bytes(&memory) <= at_first + (1 << 20), "the pages are given back");
    assert_eq!(send_command(&runtime, grower, "wrong").await, "0");
    let (later_id, later) = restore(&runtime, &gap_app).await;
    assert_eq!(send_command(&runtime, later, "grow 12").await, "done");
    assert_eq!(send_command(&runtime, later, "wrong").await, "0");
    for id in [&grower_id, &later_id] {
        with_timeout(runtime.stop(id)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_reads_more_of_the_gaps_than_it_may_use_dies_alone_and_leaves_no_page() {
    let Some(test_node) = TestNode::new() else { return };
    let runtime = test_node.open().await;
    let gap_app = bake_gap_app(&runtime).await;
    let mut exits = runtime.exits();
    let (grower_id, grower) = restore(&runtime, &gap_app).await;
    let memory = shared_memory(&test_node);
    let at_first = used_bytes(&memory);
    for round in 0..3 {
        let (filler_id, filler) = restore(&runtime, &gap_app).await;
        let mut stream = runtime.connect(filler).await.unwrap();
        let line = format!("read {} {}\n", round * 256, 2 * LIMIT);
        tokio::io::AsyncWriteExt::write_all(&mut stream, line.as_bytes()).await.unwrap();
        let exit = with_timeout(exits.recv()).await.unwrap();
        // Killed by its own memory limit, and not by a full file system.
        assert_eq!((exit.id, exit.cause.as_str()), (filler_id, "signal 9"));
        wait_until("its pages are given back", async || {
            (used_bytes(&memory) <= at_first + (1 << 20)).then_some(())
        })
        .await;
    }
    assert_eq!(send_command(&runtime, grower, "grow 12").await, "done");
    assert_eq!(send_command(&runtime, grower, "wrong").await, "0");
    with_timeout(runtime.stop(&grower_id)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_of_gaps_are_given_back_before_an_instance_ends_for_want_of_memory() {
    let Some(mut test_node) = TestNode::new() else { return };
    test_node.settings.node_limits.memory = Some(160 << 20);
    let runtime = test_node.open().await;
    let gap_app = bake_gap_app(&runtime).await;
    let mut exits = runtime.exits();
    let (_, grower) = restore(&runtime, &gap_app).await;
    let memory = shared_memory(&test_node);
    let at_first = used_bytes(&memory);
    // Each uses less than it may, and together they use nearly all that all may use.
    for number in 0..3 {
        let (_, reader) = restore(&runtime, &gap_app).await;
        assert_eq!(send_command(&runtime, reader, &format!("read {} 48", number * 64)).await, "done");
    }
    wait_until("the pages are given back", async || {
        // All but what the last one read after they were given back.
        (used_bytes(&memory) <= at_first + (64 << 20)).then_some(())
    })
    .await;
    assert_eq!(send_command(&runtime, grower, "grow 12").await, "done");
    assert_eq!(send_command(&runtime, grower, "wrong").await, "0");
    assert!(exits.try_recv().is_err(), "no instance ended");
}
