//! What the tests of hostile checkpoints and those of CRIU's checkpoints share: a folder, ways to damage an image, and
//! the check that a checkpoint is rewritten or stays unchanged.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use proptest::sample::Index;

use super::super::criu_image::CriuImage;
use super::super::layout::PAGE_SIZE;
use super::super::proto_message::{Malformed, ProtoMessage};
use super::super::refused::Refused;
use super::super::rewrite::{Evidence, RewriteDraft};
use super::super::zero_reliance::{AllocatorReport, ZeroReliance};
use crate::instance::NodeId;

/// Maximum bytes of shared memory that a test writes.
const MAX_MAPPED_BYTES: u64 = 256 << 20;

pub(super) const MAGIC: [u8; 8] = [0x19, 0x43, 0x56, 0x54, 1, 2, 3, 4];

/// Numbers at which arithmetic may overflow.
const EDGES: [u64; 14] = [
    0,
    1,
    PAGE_SIZE - 1,
    PAGE_SIZE,
    1 << 16,
    1 << 31,
    u32::MAX as u64,
    1 << 36,
    1 << 47,
    1 << 52,
    i64::MAX as u64 - PAGE_SIZE + 1,
    i64::MAX as u64,
    u64::MAX - PAGE_SIZE + 1,
    u64::MAX,
];

/// A folder of one test, removed when dropped.
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

    pub(super) fn files(&self) -> BTreeMap<String, Vec<u8>> {
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

pub(super) fn message(numbers: &[(u32, u64)]) -> ProtoMessage {
    let mut message = ProtoMessage::default();
    numbers.iter().for_each(|(number, value)| message.set_number(*number, *value));
    message
}

pub(super) fn image(records: Vec<ProtoMessage>) -> Vec<u8> {
    let mut image = CriuImage::read(&MAGIC).unwrap();
    image.records = records;
    image.write()
}

/// Evidence in which processes with even numbers discard memory by hints.
pub(super) fn evidence() -> Evidence {
    let reliance = |pid| if pid % 2 == 0 { ZeroReliance::Hint } else { ZeroReliance::Unfiltered };
    let allocators = AllocatorReport::from((1..9).map(|pid| (pid, reliance(pid))));
    Evidence { allocators, ..Evidence::default() }
}

/// A change that damages an image.
#[derive(Debug, Clone)]
pub(super) enum Damage {
    /// Cuts the image short.
    Cut(Index),
    /// Flips a bit.
    Bit(Index, u8),
    /// Inserts bytes.
    Bytes(Index, Vec<u8>),
    /// Duplicates a part of the image.
    Duplicate(Index, Index),
    /// Changes the length before a record.
    Length(Index, u32),
    /// Changes a field of a record.
    Field(Index, u32, u64),
    /// Changes a field of a message in a record, such as a mapping.
    Inner(Index, Index, u32, u64),
    /// Repeats a record.
    Records(Index, usize),
    /// Repeats a message in a record: mappings that overlap.
    Inners(Index, usize),
}

pub(super) fn damages() -> impl Strategy<Value = Damage> {
    let number = || prop_oneof![prop::sample::select(EDGES.as_slice()), any::<u64>(), 0_u64..512];
    // The longest varints, and longer ones.
    let hostile = prop_oneof![
        prop::collection::vec(any::<u8>(), 1..40),
        (1_usize..12).prop_map(|count| vec![0xff; count]),
        Just(vec![0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]),
    ];
    let length = prop_oneof![Just(0), Just(u32::MAX), Just(1 << 31), any::<u32>()];
    prop_oneof![
        any::<Index>().prop_map(Damage::Cut),
        (any::<Index>(), 0_u8..8).prop_map(|(at, bit)| Damage::Bit(at, bit)),
        (any::<Index>(), hostile).prop_map(|(at, bytes)| Damage::Bytes(at, bytes)),
        (any::<Index>(), any::<Index>()).prop_map(|(from, to)| Damage::Duplicate(from, to)),
        (any::<Index>(), length).prop_map(|(at, length)| Damage::Length(at, length)),
        (any::<Index>(), 1_u32..12, number()).prop_map(|(at, field, to)| Damage::Field(at, field, to)),
        (any::<Index>(), any::<Index>(), 1_u32..12, number())
            .prop_map(|(at, inner, field, to)| Damage::Inner(at, inner, field, to)),
        (any::<Index>(), 1_usize..2000).prop_map(|(at, count)| Damage::Records(at, count)),
        (any::<Index>(), 1_usize..2000).prop_map(|(at, count)| Damage::Inners(at, count)),
    ]
}

impl Damage {
    /// Damages an image. An image that lacks what would be changed stays as it is.
    pub(super) fn apply(&self, bytes: &mut Vec<u8>) {
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
            Self::Duplicate(one, other) => {
                let [one, other] = [one, other].map(|at| at.index(bytes.len()));
                let part = bytes[one.min(other)..one.max(other)].to_vec();
                bytes.splice(other..other, part);
            }
            Self::Length(at, length) => {
                let Ok(image) = CriuImage::read(bytes) else { return };
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
                let Ok(mut image) = CriuImage::read(bytes) else { return };
                if !image.records.is_empty() {
                    let at = at.index(image.records.len());
                    let record = image.records[at].clone();
                    image.records.splice(at..at, std::iter::repeat_n(record, *count));
                    *bytes = image.write();
                }
            }
        }
    }

    fn record(bytes: &mut Vec<u8>, at: Index, change: impl FnOnce(&mut ProtoMessage)) {
        let Ok(mut image) = CriuImage::read(bytes) else { return };
        if !image.records.is_empty() {
            let at = at.index(image.records.len());
            change(&mut image.records[at]);
            *bytes = image.write();
        }
    }

    /// Replaces a message inside a record, such as a mapping or the description of a file, by others.
    fn inner(
        record: &mut ProtoMessage,
        at: Index,
        change: impl FnOnce(&mut ProtoMessage) -> Vec<ProtoMessage>,
    ) {
        let Some(field) = [14, 20, 3, 5, 1].into_iter().find(|field| record.bytes(*field).is_some()) else {
            return;
        };
        let all: Vec<_> = record.all_bytes(field).collect();
        let at = at.index(all.len());
        let Ok(mut inner) = ProtoMessage::read(all[at]) else { return };
        let number = std::cell::Cell::new(0);
        let others = change(&mut inner);
        let _ = record.change_each(field, |_| {
            let this = number.replace(number.get() + 1) == at;
            Ok::<_, Malformed>(others.first().filter(|_| this).cloned())
        });
        others.iter().skip(1).for_each(|other| record.push_bytes(field, &other.write()));
    }
}

/// Rewrites a checkpoint, and checks that it is rewritten completely, or unchanged with a reason.
pub(super) fn assert_rewritten_or_unchanged(folder: &Folder, with_shm: bool) {
    let before = folder.files();
    let pages: usize =
        before.iter().filter(|(name, _)| name.starts_with("pages-")).map(|(_, bytes)| bytes.len()).sum();
    let draft = match RewriteDraft::read(folder.path(), with_shm, &evidence()) {
        Ok(draft) => draft,
        Err(refused) => {
            assert!(refused.to_string().len() > 5, "{refused:?}");
            assert!(folder.files() == before, "{refused}");
            return;
        }
    };
    // More would not fit, and is not written.
    if draft.mapped_bytes() > MAX_MAPPED_BYTES {
        draft.discard();
        assert!(folder.files() == before);
        return;
    }
    let devices = folder.path().join("devices");
    fs::create_dir(&devices).unwrap();
    let written = draft.write(&devices);
    // A page is in two files at most.
    let written_bytes: u64 = walk(&devices).iter().map(|file| file.blocks() * 512).sum();
    assert!(written_bytes <= 2 * (pages as u64 + MAX_MAPPED_BYTES), "{written_bytes} of {pages} bytes");
    if written.is_ok() {
        draft.replace_images().unwrap();
        assert_eq!(
            RewriteDraft::read(folder.path(), false, &evidence()).err(),
            Some(Refused::Nothing),
            "all memory that can be shared is shared"
        );
        assert!(folder.files().keys().eq(before.keys()), "no file is left over");
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
