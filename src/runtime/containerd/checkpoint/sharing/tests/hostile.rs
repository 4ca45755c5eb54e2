//! Checkpoints that CRIU would not write: whatever their images contain, they are refused or rewritten consistently,
//! and nothing is changed before.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::process::Command;

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::FileFailurePersistence;
use rustix::process::{Resource, Rlimit, setrlimit};

use super::super::criu_image::CriuImage;
use super::super::layout::PAGE_SIZE;
use super::super::process_images::for_each_process;
use super::super::proto_message::ProtoMessage;
use super::super::refused::Refused;
use super::super::rewrite::{Evidence, RewriteDraft};
use super::super::zero_reliance::{AllocatorReport, ZeroReliance};
use super::fixture::{Folder, MAGIC, assert_rewritten_or_unchanged, damages, evidence, image, message};

/// Maximum bytes of an image that is read.
const MAX_IMAGE_BYTES: usize = 8 << 20;

/// A process with a library, two heaps and memory that it shares with another process.
fn mm(at: u64) -> Vec<u8> {
    let mut process = message(&[(1, 5), (12, 2)]);
    for (start, end, file, flags, status) in [
        (1, 4, 1, 0x2, 65),
        (4, 8, 0, 0x22, 0x221),
        (9, 12, 0, 0x22, 0x201),
        (14, 16, 2, 0x1, 0x4081),
        (20, 22, 0, 0x122, 0x201),
    ] {
        let fields = [(1, (at + start) * PAGE_SIZE), (2, (at + end) * PAGE_SIZE), (3, 0), (4, file), (5, 3)];
        process.push_bytes(14, &message(&[&fields[..], &[(6, flags), (7, status), (8, 1)]].concat()).write());
    }
    image(vec![process])
}

fn pagemap(pages: u64, runs: &[(u64, u64, u64)]) -> Vec<u8> {
    let runs = runs
        .iter()
        .map(|(at, count, flags)| message(&[(1, at * PAGE_SIZE), (2, 0), (4, *flags), (5, *count)]));
    image(std::iter::once(message(&[(1, pages)])).chain(runs).collect())
}

/// A thread that names a filter, or leaves that to the first thread of its process.
fn core(filter: Option<u64>) -> Vec<u8> {
    let mut core = message(&[(1, 1)]);
    let named = filter.map(|filter| vec![(11, 2), (12, filter)]).unwrap_or_default();
    core.push_bytes(5, &message(&[&[(1, 7), (2, 24)], &named[..]].concat()).write());
    image(vec![core])
}

/// Two filters, the second above the first and for all threads of its process.
fn filters() -> Vec<u8> {
    let mut list = ProtoMessage::default();
    for numbers in [&[(3, 0)][..], &[(2, 0), (3, 1)]] {
        let mut filter = message(numbers);
        filter.push_bytes(1, &[6, 0, 0, 0, 0, 0, 0xff, 0x7f]);
        list.push_bytes(1, &filter.write());
    }
    image(vec![list])
}

/// The images that CRIU would write of two processes that share anonymous memory, the second with two threads.
fn checkpoint() -> BTreeMap<String, Vec<u8>> {
    let mut shmem = message(&[(1, 18), (2, 2)]);
    shmem.push_bytes(20, &message(&[(1, 2), (5, 7)]).write());
    let mut memory = message(&[(4, 2 * PAGE_SIZE), (5, 3), (7, 7)]);
    memory.push_bytes(1, b"/dev/zero");
    let mut devices = message(&[(1, 4), (2, 31)]);
    devices.push_bytes(7, b"/dev");
    let page = |letter: u8| vec![letter; PAGE_SIZE as usize];
    let pages = |text: &[u8]| text.iter().flat_map(|letter| page(*letter)).collect::<Vec<_>>();
    // Fields 1, 2, and twice 5.
    let two_threads = ProtoMessage::read(&[8, 2, 16, 1, 40, 2, 40, 3]).unwrap();
    let images = [
        ("core-1.img", core(Some(0))),
        ("core-2.img", core(Some(1))),
        ("core-3.img", core(None)),
        ("pstree.img", image(vec![message(&[(1, 1), (2, 0), (5, 1)]), two_threads])),
        ("seccomp.img", filters()),
        ("files.img", image(vec![message(&[(1, 1), (2, 1)]), shmem])),
        ("memfd.img", image(vec![memory])),
        ("mountpoints-12.img", image(vec![message(&[(1, 3), (2, 30)]), devices])),
        ("mm-1.img", mm(100)),
        ("mm-2.img", mm(300)),
        ("pagemap-1.img", pagemap(1, &[(103, 3, 4), (107, 1, 0), (110, 1, 4), (121, 1, 4)])),
        ("pagemap-2.img", pagemap(2, &[(302, 4, 4), (309, 1, 6)])),
        ("pagemap-shmem-3.img", pagemap(3, &[(1, 1, 4)])),
        ("pages-1.img", pages(b"abcde")),
        ("pages-2.img", pages(b"f\0ghi")),
        ("pages-3.img", pages(b"j")),
    ];
    images.map(|(name, bytes)| (name.to_owned(), bytes)).into()
}

fn write_images(folder: &Folder, images: &BTreeMap<String, Vec<u8>>) {
    images.iter().for_each(|(name, bytes)| fs::write(folder.path().join(name), bytes).unwrap());
}

#[test]
fn a_checkpoint_of_two_processes_is_rewritten() {
    for (with_shm, files) in [(false, 2), (true, 3)] {
        let folder = Folder::new();
        write_images(&folder, &checkpoint());
        let draft = RewriteDraft::read(folder.path(), with_shm, &evidence()).unwrap();
        assert_eq!(draft.file_count(), files);
        draft.discard();
        assert_rewritten_or_unchanged(&folder, with_shm);
        let pages =
            [1, 2].map(|number| folder.files()[&format!("pages-{number}.img")].len() as u64 / PAGE_SIZE);
        assert_eq!(pages, [2, 2], "those of the library and the stack");
    }
}

#[test]
fn a_filter_is_added_on_top_of_those_of_a_process_that_discards_by_hints() {
    let folder = Folder::new();
    write_images(&folder, &checkpoint());
    let draft = RewriteDraft::read(folder.path(), false, &evidence()).unwrap();
    let devices = folder.path().join("devices");
    fs::create_dir(&devices).unwrap();
    draft.write(&devices).unwrap();
    draft.replace_images().unwrap();
    let (before, after) = (checkpoint(), folder.files());
    // The other process, and the thread that has the filter of the first one.
    for unchanged in ["core-1.img", "core-3.img", "pstree.img"] {
        assert!(before[unchanged] == after[unchanged], "{unchanged}");
    }
    assert!(after["core-2.img"] == core(Some(2)));
    let (old, new) = [&before, &after].map(|files| CriuImage::read(&files["seccomp.img"]).unwrap()).into();
    let (old, new) = (&old.records[0], &new.records[0]);
    assert!(new.write().starts_with(&old.write()));
    let added: Vec<_> = new.all_bytes(1).skip(2).map(|filter| ProtoMessage::read(filter).unwrap()).collect();
    let [added] = added.as_slice() else { panic!("{added:?}") };
    assert_eq!((added.number(2), added.number(3)), (Some(1), Some(1)));
    assert_eq!(added.bytes(1).unwrap().len() % 8, 0);
}

#[test]
fn a_process_that_would_lack_a_filter_is_refused() {
    let refused = |filter, flags: u8| {
        let folder = Folder::new();
        let mut images = checkpoint();
        images.insert("core-2.img".to_owned(), core(filter));
        // The flags of the second filter.
        let list = images.get_mut("seccomp.img").unwrap();
        *list.iter_mut().rfind(|byte| **byte == 1).unwrap() = flags;
        write_images(&folder, &images);
        RewriteDraft::read(folder.path(), false, &evidence()).err()
    };
    let lacks = Some(Refused::Lacks("filter of system calls"));
    assert_eq!(refused(Some(1), 1), None);
    assert_eq!(refused(None, 1), lacks);
    assert_eq!(refused(Some(1), 0), lacks, "its second thread has none");
    assert_eq!(refused(Some(2), 1), Some(Refused::Inconsistent), "there is no such filter");
}

#[test]
fn a_process_that_was_not_examined_is_refused() {
    let folder = Folder::new();
    write_images(&folder, &checkpoint());
    let allocators = AllocatorReport::from([(1, ZeroReliance::Unfiltered)]);
    let evidence = Evidence { allocators, ..Evidence::default() };
    assert_eq!(RewriteDraft::read(folder.path(), false, &evidence).err(), Some(Refused::NotExamined(2)));
}

#[test]
fn a_thread_that_is_listed_twice_is_refused() {
    let folder = Folder::new();
    let mut images = checkpoint();
    let twice = ProtoMessage::read(&[8, 2, 16, 1, 40, 2, 40, 2]).unwrap();
    images.insert("pstree.img".to_owned(), image(vec![message(&[(1, 1), (2, 0), (5, 1)]), twice]));
    write_images(&folder, &images);
    assert_eq!(
        RewriteDraft::read(folder.path(), false, &evidence()).err(),
        Some(Refused::Inconsistent),
        "its image would be replaced twice"
    );
}

/// The seeds of failures that were found before, relative to the package's folder, in which tests run.
const SEEDS: &str = "tests/proptest-regressions/checkpoint_sharing_hostile.txt";

fn config() -> ProptestConfig {
    let failure_persistence = Some(Box::new(FileFailurePersistence::Direct(SEEDS)) as _);
    ProptestConfig { cases: 512, failure_persistence, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_hostile_checkpoint_is_refused_or_rewritten_and_never_panics(
        changes in prop::collection::vec((any::<Index>(), damages()), 1..4),
        with_shm in any::<bool>(),
    ) {
        let folder = Folder::new();
        let mut images = checkpoint();
        let names: Vec<_> = images.keys().cloned().collect();
        for (image, damage) in &changes {
            damage.apply(images.get_mut(&names[image.index(names.len())]).unwrap());
        }
        write_images(&folder, &images);
        assert_rewritten_or_unchanged(&folder, with_shm);
    }

    #[test]
    fn the_memory_of_a_hostile_checkpoint_is_refused_or_within_its_images(
        changes in prop::collection::vec((any::<Index>(), damages()), 1..4),
    ) {
        let folder = Folder::new();
        let mut images = checkpoint();
        let names: Vec<_> = images.keys().cloned().collect();
        for (image, damage) in &changes {
            damage.apply(images.get_mut(&names[image.index(names.len())]).unwrap());
        }
        write_images(&folder, &images);
        for_each_process(folder.path(), |pid, memory| {
            assert!([1, 2].contains(&pid));
            let Ok((pages, memory)) = memory else { return };
            let length = pages.metadata().unwrap().len();
            for part in [&memory.writable, &memory.wiped_on_fork] {
                let mut last = 0;
                for range in part {
                    assert!(range.length > 0 && range.stored_at >= last, "{part:?}");
                    last = range.stored_at.checked_add(range.length).unwrap();
                    assert!(last <= length && range.address.checked_add(range.length).is_some(), "{part:?}");
                }
            }
        })
        .unwrap();
        prop_assert!(folder.files() == images);
    }

    #[test]
    fn a_checkpoint_that_lacks_an_image_is_refused(lacking in any::<Index>()) {
        let folder = Folder::new();
        let mut images = checkpoint();
        let name = images.keys().nth(lacking.index(images.len())).unwrap().clone();
        images.remove(&name);
        write_images(&folder, &images);
        let refused = RewriteDraft::read(folder.path(), true, &evidence()).err();
        // One process less or no shared anonymous memory is consistent, and threads whose filters stay are not read.
        let may_lack = ["mm-", "memfd", "pagemap-shmem", "core-1"].iter().any(|begins| name.starts_with(begins));
        prop_assert_eq!(refused.is_none(), may_lack, "{} {:?}", name, refused);
    }
}

/// Images of the maximum size, and what they are made of.
fn large() -> [(&'static str, Vec<u8>); 5] {
    let all = 7 << 20;
    let times = |part: &[u8]| part.repeat(all / part.len());
    let mapping =
        message(&[(1, 110 * PAGE_SIZE), (2, 119 * PAGE_SIZE), (3, 0), (4, 0), (5, 3), (6, 0x22), (7, 0x201)])
            .write();
    let mut one = ProtoMessage::default();
    one.push_bytes(14, &mapping);
    let record = |message: &[u8]| [&(message.len() as u32).to_le_bytes(), message].concat();
    let [many, fields] = [times(&one.write()), times(&[8, 1])].map(|message| record(&message));
    [
        ("mappings that overlap", [&MAGIC[..], &many].concat()),
        ("numbers in one message", [&MAGIC[..], &fields].concat()),
        ("empty records", [&MAGIC[..], &times(&[0; 4])].concat()),
        ("records with a number", [&MAGIC[..], &times(&[2, 0, 0, 0, 8, 1])].concat()),
        ("more than CRIU writes", vec![0; 9 << 20]),
    ]
}

/// Limits the memory of this process to what it has now and `more` bytes.
fn limit_memory(more: u64) {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    let now = statm.split(' ').next().unwrap().parse::<u64>().unwrap() * PAGE_SIZE;
    let limit = Some(now + more);
    setrlimit(Resource::As, Rlimit { current: limit, maximum: limit }).unwrap();
}

#[test]
fn the_largest_images_take_a_bounded_amount_of_memory_and_time() {
    const NAME: &str = "the_largest_images_take_a_bounded_amount_of_memory_and_time";
    if env::var_os("HOSTILE_BOUNDED").is_none() {
        // The limit is that of a whole process, and other tests may run in this one.
        let module = module_path!().split_once("::").unwrap().1;
        let mut child = Command::new(env::current_exe().unwrap());
        let child = child.args(["--exact", &format!("{module}::{NAME}")]).env("HOSTILE_BOUNDED", "1");
        let output = child.output().unwrap();
        let text = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        assert!(output.status.success() && text[0].contains("1 passed"), "{text:?}");
        return;
    }
    let large = large();
    limit_memory(512 << 20);
    for (what, bytes) in large {
        for name in ["mm-1.img", "pagemap-1.img"] {
            let folder = Folder::new();
            write_images(&folder, &checkpoint());
            fs::write(folder.path().join(name), &bytes).unwrap();
            let refused = RewriteDraft::read(folder.path(), true, &evidence()).err();
            let refused = refused.map(|why| why.to_string()).unwrap_or_default();
            // Shorter ones may be consistent, for example mappings without dumped pages.
            let is_too_long = refused.contains("it is longer than any image that CRIU writes");
            assert_eq!(is_too_long, bytes.len() > MAX_IMAGE_BYTES, "{what} in {name}: {refused}");
        }
    }
}
