//! Checkpoints that nobody's CRIU wrote: whatever is in them, they are refused or make sense, and change nothing before.

use std::collections::BTreeMap;
use std::env;
use std::process::Command;

use proptest::prelude::*;
use proptest::sample::Index;
use rustix::process::{Resource, Rlimit, setrlimit};

use super::allocator_scan::ZeroReliance;
use super::criu_image::Image;
use super::plan::Refused;
use super::proto_message::Message;
use super::rewrite::RewriteDraft;
use super::*;
use crate::instance::NodeId;

/// What is read of one image.
const LONGEST: usize = 8 << 20;

/// What memory may take that is shared.
const ROOM: u64 = 256 << 20;

const MAGIC: [u8; 8] = [0x19, 0x43, 0x56, 0x54, 1, 2, 3, 4];

/// Numbers at which arithmetic goes wrong.
const EDGES: [u64; 14] = [
    0,
    1,
    PAGE - 1,
    PAGE,
    1 << 16,
    1 << 31,
    u32::MAX as u64,
    1 << 36,
    1 << 47,
    1 << 52,
    i64::MAX as u64 - PAGE + 1,
    i64::MAX as u64,
    u64::MAX - PAGE + 1,
    u64::MAX,
];

/// A folder of a test's own.
pub(super) struct Folder(PathBuf);

impl Folder {
    pub(super) fn new() -> Self {
        let folder = env::temp_dir().join(format!("try-it-now-hostile-{}", NodeId::random()));
        fs::create_dir(&folder).unwrap();
        Self(folder)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let entries = fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap());
        let files = entries.filter(|entry| entry.file_type().unwrap().is_file());
        files
            .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
            .collect()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn message(numbers: &[(u32, u64)]) -> Message {
    let mut message = Message::default();
    numbers.iter().for_each(|(number, value)| message.set_number(*number, *value));
    message
}

fn image(records: Vec<Message>) -> Vec<u8> {
    let mut image = Image::read(&MAGIC).unwrap();
    image.records = records;
    image.write()
}

/// A process with a library, two heaps and what it has in common with another.
fn mm(at: u64) -> Vec<u8> {
    let mut process = message(&[(1, 5), (12, 2)]);
    for (start, end, file, flags, status) in [
        (1, 4, 1, 0x2, 65),
        (4, 8, 0, 0x22, 0x221),
        (9, 12, 0, 0x22, 0x201),
        (14, 16, 2, 0x1, 0x4081),
        (20, 22, 0, 0x122, 0x201),
    ] {
        let fields = [(1, (at + start) * PAGE), (2, (at + end) * PAGE), (3, 0), (4, file), (5, 3)];
        process.push_bytes(14, &message(&[&fields[..], &[(6, flags), (7, status), (8, 1)]].concat()).write());
    }
    image(vec![process])
}

fn pagemap(pages: u64, runs: &[(u64, u64, u64)]) -> Vec<u8> {
    let runs =
        runs.iter().map(|(at, count, flags)| message(&[(1, at * PAGE), (2, 0), (4, *flags), (5, *count)]));
    image(std::iter::once(message(&[(1, pages)])).chain(runs).collect())
}

/// Processes of even numbers give memory up by hints.
fn evidence() -> Evidence {
    let habit = |pid| if pid % 2 == 0 { ZeroReliance::Hints } else { ZeroReliance::Plain };
    Evidence { habits: AllocatorReport::from((1..9).map(|pid| (pid, habit(pid)))), ..Evidence::default() }
}

/// A thread that names a filter, or leaves that to the first of its process.
fn core(filter: Option<u64>) -> Vec<u8> {
    let mut core = message(&[(1, 1)]);
    let named = filter.map(|filter| vec![(11, 2), (12, filter)]).unwrap_or_default();
    core.push_bytes(5, &message(&[&[(1, 7), (2, 24)], &named[..]].concat()).write());
    image(vec![core])
}

/// Two filters, the second above the first and for all threads of whoever has it.
fn filters() -> Vec<u8> {
    let mut list = Message::default();
    for numbers in [&[(3, 0)][..], &[(2, 0), (3, 1)]] {
        let mut filter = message(numbers);
        filter.push_bytes(1, &[6, 0, 0, 0, 0, 0, 0xff, 0x7f]);
        list.push_bytes(1, &filter.write());
    }
    image(vec![list])
}

/// What CRIU would write of two processes that have memory in common, the second with two threads.
fn checkpoint() -> BTreeMap<String, Vec<u8>> {
    let mut common = message(&[(1, 18), (2, 2)]);
    common.push_bytes(20, &message(&[(1, 2), (5, 7)]).write());
    let mut memory = message(&[(4, 2 * PAGE), (5, 3), (7, 7)]);
    memory.push_bytes(1, b"/dev/zero");
    let mut devices = message(&[(1, 4), (2, 31)]);
    devices.push_bytes(7, b"/dev");
    let page = |letter: u8| vec![letter; PAGE as usize];
    let pages = |text: &[u8]| text.iter().flat_map(|letter| page(*letter)).collect::<Vec<_>>();
    // Fields 1, 2, and twice 5.
    let two_threads = Message::read(&[8, 2, 16, 1, 40, 2, 40, 3]).unwrap();
    let images = [
        ("core-1.img", core(Some(0))),
        ("core-2.img", core(Some(1))),
        ("core-3.img", core(None)),
        ("pstree.img", image(vec![message(&[(1, 1), (2, 0), (5, 1)]), two_threads])),
        ("seccomp.img", filters()),
        ("files.img", image(vec![message(&[(1, 1), (2, 1)]), common])),
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

/// What is done to an image.
#[derive(Debug, Clone)]
pub(super) enum Spoilt {
    Cut(Index),
    Bit(Index, u8),
    Bytes(Index, Vec<u8>),
    /// A part of it stands there twice.
    Twice(Index, Index),
    /// A length before a record.
    Length(Index, u32),
    /// A field of a record.
    Field(Index, u32, u64),
    /// A field of a message in a record, such as a mapping.
    Inner(Index, Index, u32, u64),
    /// A record that is there more often.
    Records(Index, usize),
    /// A message in a record that is there more often: mappings that overlap.
    Inners(Index, usize),
}

pub(super) fn spoilt() -> impl Strategy<Value = Spoilt> {
    let number = || prop_oneof![prop::sample::select(EDGES.as_slice()), any::<u64>(), 0_u64..512];
    // The longest numbers that there are, and longer ones.
    let hostile = prop_oneof![
        prop::collection::vec(any::<u8>(), 1..40),
        (1_usize..12).prop_map(|count| vec![0xff; count]),
        Just(vec![0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]),
    ];
    let length = prop_oneof![Just(0), Just(u32::MAX), Just(1 << 31), any::<u32>()];
    prop_oneof![
        any::<Index>().prop_map(Spoilt::Cut),
        (any::<Index>(), 0_u8..8).prop_map(|(at, bit)| Spoilt::Bit(at, bit)),
        (any::<Index>(), hostile).prop_map(|(at, bytes)| Spoilt::Bytes(at, bytes)),
        (any::<Index>(), any::<Index>()).prop_map(|(from, to)| Spoilt::Twice(from, to)),
        (any::<Index>(), length).prop_map(|(at, length)| Spoilt::Length(at, length)),
        (any::<Index>(), 1_u32..12, number()).prop_map(|(at, field, to)| Spoilt::Field(at, field, to)),
        (any::<Index>(), any::<Index>(), 1_u32..12, number())
            .prop_map(|(at, inner, field, to)| Spoilt::Inner(at, inner, field, to)),
        (any::<Index>(), 1_usize..2000).prop_map(|(at, count)| Spoilt::Records(at, count)),
        (any::<Index>(), 1_usize..2000).prop_map(|(at, count)| Spoilt::Inners(at, count)),
    ]
}

impl Spoilt {
    /// Does it; what there is none of to be spoilt stays.
    pub(super) fn spoil(&self, bytes: &mut Vec<u8>) {
        match self {
            _ if bytes.is_empty() => {}
            Self::Cut(at) => bytes.truncate(at.index(bytes.len())),
            Self::Bit(at, bit) => {
                let at = at.index(bytes.len());
                bytes[at] ^= 1 << bit;
            }
            Self::Bytes(at, new) => {
                let at = at.index(bytes.len());
                bytes.splice(at..at, new.iter().copied());
            }
            Self::Twice(one, other) => {
                let [one, other] = [one, other].map(|at| at.index(bytes.len()));
                let part = bytes[one.min(other)..one.max(other)].to_vec();
                bytes.splice(other..other, part);
            }
            Self::Length(at, length) => {
                let Ok(image) = Image::read(bytes) else { return };
                let starts = image.records.iter().scan(MAGIC.len(), |next, record| {
                    let start = *next;
                    *next += 4 + record.write().len();
                    Some(start)
                });
                let starts: Vec<_> = starts.collect();
                if !starts.is_empty() {
                    let start = starts[at.index(starts.len())];
                    bytes[start..start + 4].copy_from_slice(&length.to_le_bytes());
                }
            }
            Self::Field(at, field, to) => Self::record(bytes, *at, |record| record.set_number(*field, *to)),
            Self::Inner(at, inner, field, to) => Self::record(bytes, *at, |record| {
                Self::inner(record, *inner, |inner| {
                    inner.set_number(*field, *to);
                    vec![inner.clone()]
                });
            }),
            Self::Inners(at, count) => Self::record(bytes, *at, |record| {
                Self::inner(record, *at, |inner| vec![inner.clone(); *count]);
            }),
            Self::Records(at, count) => {
                let Ok(mut image) = Image::read(bytes) else { return };
                if !image.records.is_empty() {
                    let at = at.index(image.records.len());
                    let record = image.records[at].clone();
                    image.records.splice(at..at, std::iter::repeat_n(record, *count));
                    *bytes = image.write();
                }
            }
        }
    }

    fn record(bytes: &mut Vec<u8>, at: Index, change: impl FnOnce(&mut Message)) {
        let Ok(mut image) = Image::read(bytes) else { return };
        if !image.records.is_empty() {
            let at = at.index(image.records.len());
            change(&mut image.records[at]);
            *bytes = image.write();
        }
    }

    /// Puts others in the place of a message inside of this one: a mapping, or what a file is.
    fn inner(record: &mut Message, at: Index, change: impl FnOnce(&mut Message) -> Vec<Message>) {
        let Some(field) = [14, 20, 3, 5, 1].into_iter().find(|field| record.bytes(*field).is_some()) else {
            return;
        };
        let all: Vec<_> = record.all_bytes(field).collect();
        let at = at.index(all.len());
        let Ok(mut inner) = Message::read(all[at]) else { return };
        let number = std::cell::Cell::new(0);
        let others = change(&mut inner);
        let _ = record.change_each(field, |_| {
            let this = number.replace(number.get() + 1) == at;
            Ok::<_, criu_image::Malformed>(others.first().filter(|_| this).cloned())
        });
        others.iter().skip(1).for_each(|other| record.push_bytes(field, &other.write()));
    }
}

/// A checkpoint that may be rewritten, is, or it says why not; what is not rewritten is as it was.
pub(super) fn is_rewritten_or_stays(folder: &Folder, parts: bool) {
    let before = folder.files();
    let pages: usize =
        before.iter().filter(|(name, _)| name.starts_with("pages-")).map(|(_, bytes)| bytes.len()).sum();
    let draft = match RewriteDraft::read(folder.path(), parts, &evidence()) {
        Ok(draft) => draft,
        Err(refused) => {
            assert!(refused.to_string().len() > 5, "{refused:?}");
            assert!(folder.files() == before, "{refused}");
            return;
        }
    };
    // More than that does not fit, and is not written.
    if draft.room() > ROOM {
        draft.discard();
        assert!(folder.files() == before);
        return;
    }
    let devices = folder.path().join("devices");
    fs::create_dir(&devices).unwrap();
    let written = draft.write(&devices);
    // What is there twice lies in two files at most.
    let held: u64 =
        walk(&devices).iter().map(|file| std::os::unix::fs::MetadataExt::blocks(file) * 512).sum();
    assert!(held <= 2 * (pages as u64 + ROOM), "{held} of {pages} bytes");
    if written.is_ok() {
        draft.swap().unwrap();
        assert_eq!(
            RewriteDraft::read(folder.path(), false, &evidence()).err(),
            Some(Refused::Nothing),
            "all that can be is shared"
        );
        assert!(folder.files().keys().eq(before.keys()), "nothing lies beside it");
    } else {
        draft.discard();
        assert!(folder.files() == before);
    }
    fs::remove_dir_all(devices).unwrap();
}

fn walk(folder: &Path) -> Vec<fs::Metadata> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let found = entries.flat_map(|entry| match entry.file_type().unwrap().is_dir() {
        true => walk(&entry.path()),
        false => vec![entry.metadata().unwrap()],
    });
    found.collect()
}

fn lay(folder: &Folder, images: &BTreeMap<String, Vec<u8>>) {
    images.iter().for_each(|(name, bytes)| fs::write(folder.path().join(name), bytes).unwrap());
}

#[test]
fn a_checkpoint_of_two_processes_is_rewritten() {
    for (parts, files) in [(false, 2), (true, 3)] {
        let folder = Folder::new();
        lay(&folder, &checkpoint());
        let draft = RewriteDraft::read(folder.path(), parts, &evidence()).unwrap();
        assert_eq!(draft.files(), files);
        draft.discard();
        is_rewritten_or_stays(&folder, parts);
        let pages = [1, 2].map(|number| folder.files()[&format!("pages-{number}.img")].len() as u64 / PAGE);
        assert_eq!(pages, [2, 2], "those of the library and the stack");
    }
}

#[test]
fn a_filter_comes_on_top_of_those_of_a_process_that_hints() {
    let folder = Folder::new();
    lay(&folder, &checkpoint());
    let draft = RewriteDraft::read(folder.path(), false, &evidence()).unwrap();
    let devices = folder.path().join("devices");
    fs::create_dir(&devices).unwrap();
    draft.write(&devices).unwrap();
    draft.swap().unwrap();
    let (before, after) = (checkpoint(), folder.files());
    // Of the other process, and of the thread for which the first one's counts.
    for same in ["core-1.img", "core-3.img", "pstree.img"] {
        assert!(before[same] == after[same], "{same}");
    }
    assert!(after["core-2.img"] == core(Some(2)));
    let (theirs, all) = [&before, &after].map(|files| Image::read(&files["seccomp.img"]).unwrap()).into();
    let (theirs, all) = (&theirs.records[0], &all.records[0]);
    assert!(all.write().starts_with(&theirs.write()));
    let added: Vec<_> = all.all_bytes(1).skip(2).map(|filter| Message::read(filter).unwrap()).collect();
    let [added] = added.as_slice() else { panic!("{added:?}") };
    assert_eq!((added.number(2), added.number(3)), (Some(1), Some(1)));
    assert_eq!(added.bytes(1).unwrap().len() % 8, 0);
}

#[test]
fn what_would_lack_a_filter_is_refused() {
    let unfiltered = |filter, flags: u8| {
        let folder = Folder::new();
        let mut images = checkpoint();
        images.insert("core-2.img".to_owned(), core(filter));
        // The flags of the second filter.
        let list = images.get_mut("seccomp.img").unwrap();
        *list.iter_mut().rfind(|byte| **byte == 1).unwrap() = flags;
        lay(&folder, &images);
        RewriteDraft::read(folder.path(), false, &evidence()).err()
    };
    let lacks = Some(Refused::Lacks("filter of system calls"));
    assert_eq!(unfiltered(Some(1), 1), None);
    assert_eq!(unfiltered(None, 1), lacks);
    assert_eq!(unfiltered(Some(1), 0), lacks, "its second thread has none");
    assert_eq!(unfiltered(Some(2), 1), Some(Refused::Contradiction), "there is no such filter");
}

#[test]
fn a_process_that_nobody_looked_at_is_refused() {
    let folder = Folder::new();
    lay(&folder, &checkpoint());
    let evidence =
        Evidence { habits: AllocatorReport::from([(1, ZeroReliance::Plain)]), ..Evidence::default() };
    assert_eq!(RewriteDraft::read(folder.path(), false, &evidence).err(), Some(Refused::Unseen(2)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn a_hostile_checkpoint_is_refused_or_rewritten_and_never_panics(
        spoilt in prop::collection::vec((any::<Index>(), spoilt()), 1..4),
        parts in any::<bool>(),
    ) {
        let folder = Folder::new();
        let mut images = checkpoint();
        let names: Vec<_> = images.keys().cloned().collect();
        for (image, spoilt) in &spoilt {
            spoilt.spoil(images.get_mut(&names[image.index(names.len())]).unwrap());
        }
        lay(&folder, &images);
        is_rewritten_or_stays(&folder, parts);
    }

    #[test]
    fn a_checkpoint_that_lacks_an_image_is_refused(lacking in any::<Index>()) {
        let folder = Folder::new();
        let mut images = checkpoint();
        let name = images.keys().nth(lacking.index(images.len())).unwrap().clone();
        images.remove(&name);
        lay(&folder, &images);
        let refused = RewriteDraft::read(folder.path(), true, &evidence()).err();
        // A process less, or none that has anything in common, is no contradiction, and whose filters stay is not asked.
        let may_lack = ["mm-", "memfd", "pagemap-shmem", "core-1"].iter().any(|begins| name.starts_with(begins));
        prop_assert_eq!(refused.is_none(), may_lack, "{} {:?}", name, refused);
    }
}

/// Sizes of images that are as large as they can be, and what they are made of.
fn large() -> [(&'static str, Vec<u8>); 5] {
    let all = 7 << 20;
    let times = |part: &[u8]| part.repeat(all / part.len());
    let mapping =
        message(&[(1, 110 * PAGE), (2, 119 * PAGE), (3, 0), (4, 0), (5, 3), (6, 0x22), (7, 0x201)]).write();
    let mut one = Message::default();
    one.push_bytes(14, &mapping);
    let record = |message: &[u8]| [&(message.len() as u32).to_le_bytes(), message].concat();
    let [many, fields] = [times(&one.write()), times(&[8, 1])].map(|message| record(&message));
    [
        ("mappings over each other", [&MAGIC[..], &many].concat()),
        ("numbers in one message", [&MAGIC[..], &fields].concat()),
        ("records with nothing in them", [&MAGIC[..], &times(&[0; 4])].concat()),
        ("records with a number", [&MAGIC[..], &times(&[2, 0, 0, 0, 8, 1])].concat()),
        ("more than CRIU writes", vec![0; 9 << 20]),
    ]
}

/// The memory that this process has by now, and as much again in bytes as `more`.
fn bound_memory(more: u64) {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    let now = statm.split(' ').next().unwrap().parse::<u64>().unwrap() * PAGE;
    let bound = Some(now + more);
    setrlimit(Resource::As, Rlimit { current: bound, maximum: bound }).unwrap();
}

#[test]
fn the_largest_images_take_a_bounded_amount_of_memory_and_time() {
    const NAME: &str = "the_largest_images_take_a_bounded_amount_of_memory_and_time";
    if env::var_os("HOSTILE_BOUNDED").is_none() {
        // The bound is a whole process's, and others may run in this one.
        let module = module_path!().split_once("::").unwrap().1;
        let mut child = Command::new(env::current_exe().unwrap());
        let child = child.args(["--exact", &format!("{module}::{NAME}")]).env("HOSTILE_BOUNDED", "1");
        let output = child.output().unwrap();
        let text = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        assert!(output.status.success() && text[0].contains("1 passed"), "{text:?}");
        return;
    }
    let large = large();
    bound_memory(512 << 20);
    for (what, bytes) in large {
        for name in ["mm-1.img", "pagemap-1.img"] {
            let folder = Folder::new();
            lay(&folder, &checkpoint());
            fs::write(folder.path().join(name), &bytes).unwrap();
            let refused = RewriteDraft::read(folder.path(), true, &evidence()).err();
            let refused = refused.map(|why| why.to_string()).unwrap_or_default();
            // Others may make sense: there may be mappings that nobody used, for example.
            let too_long = refused.contains("it is longer than any that CRIU writes");
            assert_eq!(too_long, bytes.len() > LONGEST, "{what} in {name}: {refused}");
        }
    }
}
