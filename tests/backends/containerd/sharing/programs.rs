//! Programs that use memory in ways which shared memory could break: each is either right after a restore, which it finds
//! out by itself, or has memory of its own.

use std::ops::RangeInclusive;
use std::path::Path;
use std::process::Command;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use try_it_now::instance::Endpoint;
use try_it_now::runtime::{Runtime, StartMethod};
use try_it_now::template::{App, Image, ShareMemory};

use crate::containerd::{Place, REVISION, env, fs, oci_archive, start, until, within};

/// Mebibytes that a program has in memory whatever it is about.
const BULK: u64 = 8;

/// What is to become of a program.
enum Fate {
    /// So many mebibytes are shared; the rest of what it has is each copy's own.
    Shared(RangeInclusive<u64>),
    /// Each copy has memory of its own, for a reason that begins so.
    Own(&'static str),
}

/// That many mebibytes, and little else.
fn shared(mebibytes: u64) -> Fate {
    Fate::Shared(mebibytes..=mebibytes + 1)
}

/// Compiles the program with these words in it, and returns an image with nothing else in it.
fn image(place: &Place, words: &str) -> Image {
    let folder = place.settings.folder.join("program");
    fs::create_dir_all(&folder).unwrap();
    let source =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/backends/containerd/sharing/programs/memory.c");
    let program = folder.join("memory");
    let compiled = Command::new("cc")
        .args(["-static", "-O1", "-pthread", &format!("-DWORDS=\"{words}\""), "-o"])
        .args([&program, &source])
        .output();
    let compiled = compiled.expect("who links Rust has a C compiler");
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    let mut layer = tar::Builder::new(Vec::new());
    for folder in ["dev", "proc", "etc", "tmp", "sys"] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(0o755);
        header.set_size(0);
        layer.append_data(&mut header, folder, &[][..]).unwrap();
    }
    oci_archive::append(&mut layer, "memory", 0o755, &fs::read(&program).unwrap());
    let path = folder.join("memory.tar");
    let manifest = oci_archive::write(&path, &layer.into_inner().unwrap(), place.settings.node.as_str());
    place.images.lock().unwrap().push(format!("try-it-now.local/archive@{manifest}"));
    Image::Tar(path)
}

/// What a program finds when it looks through its memory.
async fn verdict(runtime: &dyn Runtime, endpoint: Endpoint, when: &str) -> String {
    let what = format!("it answers {when}");
    let answer = until(&what, async || {
        let mut stream = runtime.connect(endpoint).await.ok()?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await.ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await.ok()?;
        Some(text.split_once("\r\n\r\n")?.1.trim_end().to_owned())
    });
    answer.await
}

/// Starts the program, has it do twice what it is about, bakes it, and has copies do it on.
async fn try_out(kind: &str, fate: Fate) {
    try_out_with(kind, "", ShareMemory::Auto, fate).await;
}

/// A program that has these words in it, as if something were a part of it.
async fn try_out_with(kind: &str, words: &str, share_memory: ShareMemory, fate: Fate) {
    let Some(place) = Place::new() else { return };
    let image = Some(image(&place, words));
    let app = App { image, share_memory, port: 8080, ..crate::suites::runtime::app(&["/memory", kind]) };
    let runtime = place.open().await;
    let (id, started) = start(&runtime, &app).await;
    assert_eq!(started.how, StartMethod::Cold);
    for _ in 0..2 {
        assert_eq!(verdict(&runtime, started.endpoint, "before the bake").await, "right", "{kind}");
    }
    within(runtime.bake(&id, REVISION, &app)).await.unwrap();
    let about = runtime.describe_checkpoint(REVISION, &app).await.unwrap();
    match fate {
        Fate::Shared(expected) => {
            let shared =
                about.strip_prefix("copies share ").and_then(|rest| rest.split(' ').next()?.parse().ok());
            assert!(shared.is_some_and(|shared| expected.contains(&shared)), "{kind}: {about}");
        }
        Fate::Own(why) => {
            assert!(about.starts_with(&format!("each copy has memory of its own: {why}")), "{kind}: {about}");
        }
    }
    let mut copies = Vec::new();
    for _ in 0..3 {
        copies.push(start(&runtime, &app).await);
    }
    // By turns, so that what one does is there for the others to see if anything leaks.
    for round in 1..=4 {
        let when = format!("in round {round} of the copies");
        for (id, copy) in &copies {
            assert_eq!(copy.how, StartMethod::Restored, "{kind}: {id}");
            assert_eq!(verdict(&runtime, copy.endpoint, &when).await, "right", "{kind} {when}");
        }
    }
    for (id, _) in copies {
        within(runtime.stop(&id)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_only_keeps_memory_is_right_after_a_restore() {
    try_out("plain", shared(BULK)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_grows_a_mapping_is_right_after_a_restore() {
    // It had grown by two of them before.
    try_out("grow", shared(BULK + 3)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_whose_heap_shrinks_and_grows_is_right_after_a_restore() {
    try_out("brk", shared(BULK + 1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_that_were_forked_are_right_after_a_restore() {
    // Three of them, each with data of its own besides.
    try_out("fork", Fate::Shared(3 * (BULK + 2)..=3 * (BULK + 3))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_with_threads_is_right_after_a_restore() {
    // Their stacks and what they allocate from are larger than what they use.
    try_out("threads", Fate::Shared(BULK..=200)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_with_transparent_huge_pages_is_right_after_a_restore() {
    try_out("huge", shared(BULK + 6)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_with_a_file_in_memory_is_right_after_a_restore() {
    try_out("memfd", Fate::Shared(2 * BULK..=2 * (BULK + 1))).await;
    try_out_with("memfd", "", ShareMemory::WithShm, Fate::Shared(2 * BULK..=2 * (BULK + 1))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_gives_memory_up_and_counts_on_zeros_is_right_after_a_restore() {
    try_out("dontneed", shared(BULK)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_lets_memory_be_freed_is_right_after_a_restore() {
    try_out("free", shared(BULK)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_shrinks_a_mapping_and_counts_on_zeros_is_right_after_a_restore() {
    try_out("shrink", shared(BULK)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_leaves_an_empty_mapping_behind_is_right_after_a_restore() {
    try_out("dontunmap", shared(BULK)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_with_an_allocator_that_counts_on_zeros_has_memory_of_its_own() {
    let own = Fate::Own("/memory has tcmalloc, which may count on zeros");
    try_out_with("dontneed", "tcmalloc: large alloc", ShareMemory::Auto, own).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_does_more_than_can_be_watched_has_memory_of_its_own() {
    try_out("churn", Fate::Own("what it did with its memory could not be watched: ")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hints_of_a_program_like_v8_are_passed_over_in_copies() {
    // The stack of a thread that has ended is kept for the next.
    let fate = Fate::Shared(BULK + 2..=BULK + 12);
    try_out_with("hint", "max-old-space-size", ShareMemory::Auto, fate).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programs_like_those_in_go_and_with_jemalloc_map_anew_what_copies_cannot_give_up() {
    for words in [r"\377 Go buildinf:", "<jemalloc>: "] {
        try_out_with("ask", words, ShareMemory::Auto, shared(BULK + 2)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_has_v8_and_another_allocator_has_memory_of_its_own() {
    let own = Fate::Own("/memory has jemalloc, and V8 is in the same process");
    try_out_with("hint", "max-old-space-size <jemalloc>: ", ShareMemory::Auto, own).await;
}

/// How many huge pages the kernel may make of ordinary ones, and how many it could before, which it can again at the end.
struct HugePages(String);

impl HugePages {
    const SETTING: &str = "/proc/sys/vm/nr_overcommit_hugepages";

    /// `None`, with a line that says so, where there are none; an error where nothing may be skipped.
    #[expect(clippy::print_stdout, reason = "it tells who runs the tests")]
    fn allow(count: u32) -> Option<Self> {
        let before = fs::read_to_string(Self::SETTING);
        if before.is_err() || fs::write(Self::SETTING, count.to_string()).is_err() {
            assert!(env::var_os("TRY_IT_NOW_NO_SKIPS").is_none_or(|value| value != "1"));
            println!("skipped: this kernel has no huge pages");
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
async fn a_program_with_huge_pages_is_right_after_a_restore() {
    let Some(_pages) = HugePages::allow(64) else { return };
    try_out("hugetlb", shared(BULK)).await;
}
