//! Memory with generators and with what resembles them: generators are reset, and nothing else changes.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use proptest::sample::Index;

use super::openssl::{self, Generator, NO_PROCESS};
use super::report::RandomNumbers;
use super::reset::reset_process;
use crate::instance::NodeId;
use crate::runtime::containerd::checkpoint::sharing::{StoredMemory, StoredRange};

const PAGE: usize = 4096;
const PID: u32 = 17;

/// Bytes of a generator, from the first field that is compared to the last.
const BYTES: usize = 120;

/// The fields of a generator: offset, bytes, value.
fn fields(is_openssl_3: bool, process: u32, (seconds, numbers): (u64, u64)) -> Vec<(usize, usize, u64)> {
    let process = u64::from(process);
    // The upper half of an address, or the number of AES-256 in counter mode.
    let (kind, at, address) = if is_openssl_3 { (0x7fff, 24, 8) } else { (906, 8, 24) };
    let common = [
        (4, 4, kind),
        (32, 4, 256),
        (40, 8, 1 << 16),
        (48, 8, 32),
        (56, 8, 0x7fff_ffff),
        (64, 8, 0),
        (72, 8, 0x7fff_ffff),
        (80, 8, 0x7fff_ffff),
        (88, 8, 0x7fff_ffff),
        (96, 4, 3),
        (100, 4, numbers),
        (104, 8, 1_764_000_000),
        (112, 8, seconds),
    ];
    common.into_iter().chain([(at, 4, process), (address, 4, 0x5555_0010)]).collect()
}

fn generator(is_openssl_3: bool, process: u32, intervals: (u64, u64)) -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    for (at, length, value) in fields(is_openssl_3, process, intervals) {
        bytes[at..at + length].copy_from_slice(&value.to_le_bytes()[..length]);
    }
    bytes
}

const THREAD: (u64, u64) = (420, 1 << 16);
const PRIMARY: (u64, u64) = (3600, 1 << 8);

#[test]
fn both_layouts_are_found_at_every_multiple_of_eight() {
    for (is_openssl_3, process_at) in [(true, 24), (false, 8)] {
        for intervals in [THREAD, PRIMARY] {
            for offset in 0..40 {
                let mut memory = vec![0xaa; offset];
                memory.extend(generator(is_openssl_3, PID, intervals));
                memory.resize(512, 0);
                let expected =
                    (offset % 8 == 0).then_some(Generator { process_at: offset + process_at, process: PID });
                assert_eq!(openssl::find(&memory, 0).collect::<Vec<_>>(), Vec::from_iter(expected));
            }
        }
    }
}

#[test]
fn memory_in_which_one_field_differs_is_no_generator() {
    // Those that tell a generator from other memory; the others have any value.
    for (at, length, wrong) in [
        (32, 4, 255_u64),
        (32, 4, 0),
        (40, 8, 1 << 17),
        (48, 8, 1 << 31),
        (56, 8, 31),
        (56, 8, 1 << 31),
        (64, 8, 1 << 40),
        (72, 8, u64::MAX),
        (80, 8, 0),
        (88, 8, 1 << 31),
        (100, 4, 1 << 8),
        (112, 8, 421),
        (112, 8, 420 | 1 << 32),
        (112, 8, 3600),
    ] {
        for is_openssl_3 in [true, false] {
            let mut memory = generator(is_openssl_3, PID, THREAD);
            memory[at..at + length].copy_from_slice(&wrong.to_le_bytes()[..length]);
            assert_eq!(openssl::find(&memory, 0).next(), None, "{wrong:#x} at {at}");
        }
    }
}

#[test]
fn a_number_of_forks_is_no_number_of_a_process() {
    let memory = generator(false, 0, THREAD);
    assert_eq!(openssl::find(&memory, 0).next(), None);
}

#[test]
fn short_memory_is_searched_without_a_panic() {
    for length in 0..2 * BYTES {
        let memory: Vec<u8> =
            generator(true, PID, THREAD).into_iter().chain([0; BYTES]).take(length).collect();
        for from in [0, 8, 112, 120, 1 << 20] {
            let expected = usize::from(length >= BYTES && from <= 112);
            assert_eq!(openssl::find(&memory, from).count(), expected, "{length} bytes from {from}");
        }
    }
}

/// An image of pages, removed when dropped.
struct Pages(PathBuf);

impl Pages {
    fn new(bytes: &[u8]) -> Self {
        let path = env::temp_dir().join(format!("try-it-now-random-{}", NodeId::random()));
        fs::write(&path, bytes).unwrap();
        Self(path)
    }

    fn path(&self) -> &Path {
        &self.0
    }

    fn bytes(&self) -> Vec<u8> {
        fs::read(&self.0).unwrap()
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn range(stored_at: usize, length: usize) -> StoredRange {
    StoredRange {
        address: 0x7f00_0000_0000 + stored_at as u64,
        stored_at: stored_at as u64,
        length: length as u64,
    }
}

fn write_at(memory: &mut [u8], at: usize, bytes: &[u8]) {
    memory[at..at + bytes.len()].copy_from_slice(bytes);
}

#[test]
fn a_generator_is_reset_wherever_it_lies_and_that_of_a_parent_stays() {
    const CHUNK: usize = 1 << 20;
    let pages_of = |at: usize, process| {
        let mut memory = vec![0x5a; 2 * CHUNK + PAGE];
        write_at(&mut memory, at, &generator(true, process, THREAD));
        memory
    };
    for at in [0, PAGE - 64, CHUNK - 120, CHUNK - 112, CHUNK - 64, CHUNK - 8, CHUNK, 2 * CHUNK + PAGE - BYTES]
    {
        for process in [PID, PID + 1] {
            let pages = Pages::new(&pages_of(at, process));
            let memory =
                StoredMemory { writable: vec![range(0, 2 * CHUNK + PAGE)], wiped_on_fork: Vec::new() };
            let mut report = RandomNumbers::default();
            assert_eq!(reset_process(pages.path(), &memory, PID, &mut report).unwrap(), 1, "{at}");
            assert_eq!(report.openssl_generators, 1);
            let expected = if process == PID { NO_PROCESS } else { process };
            assert!(pages.bytes() == pages_of(at, expected), "{at}");
        }
    }
}

#[test]
fn only_memory_of_the_process_that_may_be_written_is_searched() {
    let mut before = vec![0; 6 * PAGE];
    for page in 0..6 {
        write_at(&mut before, page * PAGE + 128, &generator(true, PID, PRIMARY));
    }
    // One that begins in one range and ends in another, which is elsewhere in memory.
    write_at(&mut before, 2 * PAGE - 64, &generator(true, PID, THREAD));
    let pages = Pages::new(&before);
    let memory = StoredMemory {
        writable: vec![range(PAGE, PAGE), range(2 * PAGE, PAGE)],
        wiped_on_fork: vec![range(4 * PAGE, PAGE)],
    };
    let mut report = RandomNumbers::default();
    assert_eq!(reset_process(pages.path(), &memory, PID, &mut report).unwrap(), 2);
    assert_eq!((report.openssl_generators, report.wiped_ranges), (2, 1));
    let mut expected = before;
    for page in [1, 2] {
        write_at(&mut expected, page * PAGE + 128 + 24, &NO_PROCESS.to_le_bytes());
    }
    expected[4 * PAGE..5 * PAGE].fill(0);
    assert!(pages.bytes() == expected);
}

#[test]
fn an_image_that_ends_early_is_an_error() {
    let pages = Pages::new(&[0; PAGE]);
    for memory in [
        StoredMemory { writable: vec![range(0, 2 * PAGE)], ..StoredMemory::default() },
        StoredMemory { wiped_on_fork: vec![range(2 * PAGE, PAGE)], ..StoredMemory::default() },
    ] {
        let is_wiped = !memory.wiped_on_fork.is_empty();
        let reset = reset_process(pages.path(), &memory, PID, &mut RandomNumbers::default());
        assert_eq!(reset.is_err(), !is_wiped, "{memory:?}");
    }
}

/// What an app writes to imitate generators: the layout, the place, the process, the intervals, and changes of fields.
type Imitation = (bool, Index, u32, bool, Vec<(Index, u64)>);

fn imitations() -> impl Strategy<Value = Vec<Imitation>> {
    let value = prop_oneof![
        any::<u64>(),
        Just(0),
        Just(u64::MAX),
        Just(420),
        Just(3600),
        Just(904),
        Just(u64::from(PID)),
        Just(1 << 16)
    ];
    let process = prop_oneof![4 => Just(PID), 1 => any::<u32>()];
    let changes = prop::collection::vec((any::<Index>(), value), 0..3);
    let imitation = (any::<bool>(), any::<Index>(), process, any::<bool>(), changes);
    prop::collection::vec(imitation, 1..24)
}

proptest! {
    #![proptest_config(crate::proptest_config())]

    #[test]
    fn whatever_an_app_writes_only_numbers_of_its_process_change(
        imitations in imitations(),
        noise in prop::collection::vec((any::<Index>(), any::<u64>()), 0..64),
    ) {
        let mut before = vec![0; 4 * PAGE];
        for (is_openssl_3, at, process, is_thread, changes) in &imitations {
            let intervals = if *is_thread { THREAD } else { PRIMARY };
            let mut bytes = generator(*is_openssl_3, *process, intervals);
            for (field, value) in changes {
                let fields = fields(*is_openssl_3, *process, intervals);
                let (at, length, _) = fields[field.index(fields.len())];
                bytes[at..at + length].copy_from_slice(&value.to_le_bytes()[..length]);
            }
            let at = at.index((before.len() - BYTES) / 4) * 4;
            write_at(&mut before, at, &bytes);
        }
        for (at, value) in &noise {
            let at = at.index(before.len() - 8);
            write_at(&mut before, at, &value.to_le_bytes());
        }
        let pages = Pages::new(&before);
        let length = before.len();
        let memory = StoredMemory { writable: vec![range(0, length)], wiped_on_fork: Vec::new() };
        let mut report = RandomNumbers::default();
        let count = reset_process(pages.path(), &memory, PID, &mut report).unwrap();
        prop_assert!(count <= imitations.len() as u64 + noise.len() as u64);
        let after = pages.bytes();
        prop_assert_eq!(after.len(), length);
        let mut changed = 0;
        for (before, after) in before.as_chunks::<8>().0.iter().zip(after.as_chunks::<8>().0) {
            if before != after {
                changed += 1;
                prop_assert_eq!(&before[..4], &PID.to_le_bytes());
                prop_assert_eq!(&after[..4], &NO_PROCESS.to_le_bytes());
                prop_assert_eq!(&before[4..], &after[4..]);
            }
        }
        prop_assert!(changed <= count);
        // What was reset once is not found as a generator of this process again.
        let again = openssl::find(&after, 0).filter(|generator| generator.process == PID).count();
        prop_assert_eq!(again, 0);
    }
}
