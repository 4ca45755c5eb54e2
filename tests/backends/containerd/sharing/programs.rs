//! Programs that use memory in ways that sharing could break. Each one either is correct after a restore, which it
//! checks itself, or shares no memory.

use std::ops::RangeInclusive;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use try_it_now::instance::Endpoint;
use try_it_now::runtime::{Runtime, StartMethod};
use try_it_now::template::{App, ImageRef, ShareMemory};

use crate::containerd::{REVISION, TestNode, compiled_program, fs, start, wait_until, with_timeout};
use crate::support::skip::skip;

/// Mebibytes that each kind of program has in memory.
const BULK: u64 = 8;

/// The expected result of a bake.
enum Expected {
    /// This many mebibytes are shared; the rest belongs to each instance alone.
    Shared(RangeInclusive<u64>),
    /// No memory is shared, for a reason that begins with this text.
    Own(&'static str),
}

/// This many mebibytes are shared, and little else.
fn shared(mebibytes: u64) -> Expected {
    Expected::Shared(mebibytes..=mebibytes + 1)
}

/// Returns an image that contains only the program with these words in it.
fn image(test_node: &TestNode, words: &str) -> ImageRef {
    let words = format!("-DWORDS=\"{words}\"");
    compiled_program::image(test_node, "sharing/programs/memory.c", &["-pthread", &words], "memory")
}

/// Returns what the program reports about its memory.
async fn memory_check(runtime: &dyn Runtime, endpoint: Endpoint, when: &str) -> String {
    let what = format!("it answers {when}");
    let answer = wait_until(&what, async || {
        let mut stream = runtime.connect(endpoint).await.ok()?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await.ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await.ok()?;
        Some(text.split_once("\r\n\r\n")?.1.trim_end().to_owned())
    });
    answer.await
}

/// Starts a program, has it run its check twice, bakes it, and has restored instances repeat the check.
async fn check_program(kind: &str, expected: Expected) {
    check_program_with(kind, "", ShareMemory::Auto, expected).await;
}

/// Does the same with a program that contains these words, as if it contained a certain library.
async fn check_program_with(kind: &str, words: &str, share_memory: ShareMemory, expected: Expected) {
    let Some(test_node) = TestNode::new() else { return };
    let image = Some(image(&test_node, words));
    let app = App { image, share_memory, port: 8080, ..crate::suites::runtime::app(&["/memory", kind]) };
    let runtime = test_node.open().await;
    let (id, started) = start(&runtime, &app).await;
    assert_eq!(started.method, StartMethod::Cold);
    for _ in 0..2 {
        assert_eq!(memory_check(&runtime, started.endpoint, "before the bake").await, "right", "{kind}");
    }
    with_timeout(runtime.bake(&id, REVISION, &app)).await.unwrap();
    let about = runtime.describe_checkpoint(REVISION, &app).await.unwrap();
    match expected {
        Expected::Shared(expected) => {
            let shared =
                about.strip_prefix("instances share ").and_then(|rest| rest.split(' ').next()?.parse().ok());
            assert!(shared.is_some_and(|shared| expected.contains(&shared)), "{kind}: {about}");
        }
        Expected::Own(why) => {
            assert!(
                about.starts_with(&format!("each instance has its own memory: {why}")),
                "{kind}: {about}"
            );
        }
    }
    let mut instances = Vec::new();
    for _ in 0..3 {
        instances.push(start(&runtime, &app).await);
    }
    // In turns, so that a change that leaks from one instance is visible to the others.
    for round in 1..=4 {
        let when = format!("in round {round} after the restore");
        for (id, instance) in &instances {
            assert_eq!(instance.method, StartMethod::Restored, "{kind}: {id}");
            assert_eq!(memory_check(&runtime, instance.endpoint, &when).await, "right", "{kind} {when}");
        }
    }
    for (id, _) in instances {
        with_timeout(runtime.stop(&id)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_only_keeps_memory_is_correct_after_a_restore() {
    check_program("plain", shared(BULK)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_grows_a_mapping_is_correct_after_a_restore() {
    // The mapping had grown twice before the bake.
    check_program("grow", shared(BULK + 3)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_whose_heap_shrinks_and_grows_is_correct_after_a_restore() {
    check_program("brk", shared(BULK + 1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forked_processes_are_correct_after_a_restore() {
    // Three processes, each with data of its own besides.
    check_program("fork", Expected::Shared(3 * (BULK + 2)..=3 * (BULK + 3))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_with_threads_is_correct_after_a_restore() {
    // The stacks and arenas of threads are larger than the part that they use.
    check_program("threads", Expected::Shared(BULK..=200)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_with_transparent_huge_pages_is_correct_after_a_restore() {
    check_program("huge", shared(BULK + 6)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_with_a_memfd_is_correct_after_a_restore() {
    check_program("memfd", Expected::Shared(2 * BULK..=2 * (BULK + 1))).await;
    check_program_with("memfd", "", ShareMemory::WithShm, Expected::Shared(2 * BULK..=2 * (BULK + 1))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_discards_memory_and_relies_on_zeros_is_correct_after_a_restore() {
    check_program("dontneed", shared(BULK)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_lets_the_kernel_free_memory_is_correct_after_a_restore() {
    check_program("free", shared(BULK)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_shrinks_a_mapping_and_relies_on_zeros_is_correct_after_a_restore() {
    check_program("shrink", shared(BULK)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_leaves_an_empty_mapping_behind_is_correct_after_a_restore() {
    check_program("dontunmap", shared(BULK)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_with_an_allocator_that_relies_on_zeros_shares_no_memory() {
    let own = Expected::Own("/memory has tcmalloc, which may rely on zeros");
    check_program_with("dontneed", "tcmalloc: large alloc", ShareMemory::Auto, own).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_with_more_events_than_can_be_traced_shares_no_memory() {
    check_program("churn", Expected::Own("cannot trace how it discards memory: ")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn madvise_hints_of_a_program_like_v8_are_ignored_after_a_restore() {
    // The stack of an ended thread is kept for the next one.
    let expected = Expected::Shared(BULK + 2..=BULK + 12);
    check_program_with("hint", "max-old-space-size", ShareMemory::Auto, expected).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programs_like_go_and_jemalloc_remap_memory_that_cannot_be_discarded() {
    for words in [r"\377 Go buildinf:", "<jemalloc>: "] {
        check_program_with("ask", words, ShareMemory::Auto, shared(BULK + 2)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_has_v8_and_another_allocator_shares_no_memory() {
    let own = Expected::Own("/memory has jemalloc, and V8 is in the same process");
    check_program_with("hint", "max-old-space-size <jemalloc>: ", ShareMemory::Auto, own).await;
}

/// A setting of how many huge pages the kernel may allocate from ordinary memory. When this is dropped, the old value
/// is restored.
struct HugePages(String);

impl HugePages {
    const SETTING: &str = "/proc/sys/vm/nr_overcommit_hugepages";

    /// Allows `count` huge pages. Returns `None` and prints why if the kernel has none; panics if no test may be
    /// skipped.
    fn allow(count: u32) -> Option<Self> {
        let before = fs::read_to_string(Self::SETTING);
        if before.is_err() || fs::write(Self::SETTING, count.to_string()).is_err() {
            skip("this kernel has no huge pages");
        }
        before.ok().map(Self)
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        let _ = fs::write(Self::SETTING, &self.0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_with_huge_pages_is_correct_after_a_restore() {
    let Some(_pages) = HugePages::allow(64) else { return };
    check_program("hugetlb", shared(BULK)).await;
}
