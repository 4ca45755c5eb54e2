//! Where an image of pages has the memory of a process. Pure.

use super::criu_fields::{MAPPINGS, vma};
use super::{PageRun, read_pagemap};
use crate::runtime::containerd::checkpoint::sharing::criu_image::CriuImage;
use crate::runtime::containerd::checkpoint::sharing::layout::PAGE_SIZE;
use crate::runtime::containerd::checkpoint::sharing::proto_message::{Malformed, ProtoMessage};
use crate::runtime::containerd::checkpoint::sharing::refused::Refused;

/// Memory at addresses that follow each other, which follows each other in the image of the pages too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StoredRange {
    /// The address of its first byte.
    pub(crate) address: u64,
    /// The offset of its first byte in the image of the pages.
    pub(crate) stored_at: u64,
    /// Its length in bytes.
    pub(crate) length: u64,
}

/// The private memory of a process that may be written, as far as it is in the image of the pages.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct StoredMemory {
    /// Memory that a child process gets as it is.
    pub(crate) writable: Vec<StoredRange>,
    /// Memory that is zero in a child process (`MADV_WIPEONFORK`). A range for each mapping, or several.
    pub(crate) wiped_on_fork: Vec<StoredRange>,
}

/// Returns the private memory that may be written. `pages` is the length of the image of the pages.
///
/// # Errors
/// The images are malformed or inconsistent, or not all pages are in them.
pub(in super::super) fn stored_memory(
    mm: &CriuImage,
    pagemap: &CriuImage,
    pages: u64,
) -> Result<StoredMemory, Refused> {
    let wrong = |why| Refused::malformed("mm", why);
    let [process] = mm.records.as_slice() else { return Err(wrong(Malformed::Short)) };
    let runs = read_pagemap(pagemap, pages)?;
    let (mut memory, mut first, mut last) = (StoredMemory::default(), 0, 0);
    for bytes in process.all_bytes(MAPPINGS) {
        let mapping = ProtoMessage::read(bytes).map_err(wrong)?;
        let need = |field| mapping.need(field).map_err(wrong);
        // A guard is listed beside the mapping that it is in.
        if need(vma::STATUS)? & vma::GUARD != 0 {
            continue;
        }
        let (start, end) = (need(vma::START)?, need(vma::END)?);
        // Mappings in order take time in proportion to the images.
        if start >= end || start < last || start % PAGE_SIZE != 0 || end % PAGE_SIZE != 0 {
            return Err(Refused::Inconsistent);
        }
        last = end;
        first += runs[first..].partition_point(|run| run.end <= start);
        let is_wiped = mapping.number(vma::ADVICE).unwrap_or(0) & vma::WIPE_ON_FORK != 0;
        let is_writable =
            need(vma::FLAGS)? & vma::MAP_PRIVATE != 0 && need(vma::PROTECTION)? & vma::WRITE != 0;
        let ranges = match (is_wiped, is_writable) {
            (true, _) => &mut memory.wiped_on_fork,
            (false, true) => &mut memory.writable,
            (false, false) => continue,
        };
        let in_mapping = runs[first..].iter().take_while(|run| run.start < end);
        in_mapping.filter_map(|run| part_of_run(run, start, end)).for_each(|part| add(ranges, part));
    }
    Ok(memory)
}

/// Returns the part of a run between two addresses; `None` if the run is not stored.
fn part_of_run(run: &PageRun, start: u64, end: u64) -> Option<StoredRange> {
    let (address, end) = (run.start.max(start), run.end.min(end));
    Some(StoredRange { address, stored_at: run.stored_at? + (address - run.start), length: end - address })
}

/// Adds a range, to the last one if it follows that.
fn add(ranges: &mut Vec<StoredRange>, new: StoredRange) {
    match ranges.last_mut() {
        Some(last)
            if last.address + last.length == new.address && last.stored_at + last.length == new.stored_at =>
        {
            last.length += new.length;
        }
        _ => ranges.push(new),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAGIC: [u8; 8] = [0x19, 0x43, 0x56, 0x54, 1, 2, 3, 4];

    fn message(numbers: &[(u32, u64)]) -> ProtoMessage {
        let mut message = ProtoMessage::default();
        numbers.iter().for_each(|(number, value)| message.set_number(*number, *value));
        message
    }

    fn image(records: Vec<ProtoMessage>) -> CriuImage {
        let mut image = CriuImage::read(&MAGIC).unwrap();
        image.records = records;
        image
    }

    /// Mappings as pages from and to, protection, flags, status and advice.
    fn mm(mappings: &[(u64, u64, u64, u64, u64, u64)]) -> CriuImage {
        let mut process = ProtoMessage::default();
        for (start, end, protection, flags, status, advice) in mappings {
            let fields = [
                (vma::START, start * PAGE_SIZE),
                (vma::END, end * PAGE_SIZE),
                (vma::PROTECTION, *protection),
                (vma::FLAGS, *flags),
                (vma::STATUS, *status),
                (vma::ADVICE, *advice),
            ];
            process.push_bytes(MAPPINGS, &message(&fields).write());
        }
        image(vec![process])
    }

    /// Runs as the first page, the number of pages and flags.
    fn pagemap(runs: &[(u64, u64, u64)]) -> CriuImage {
        let runs =
            runs.iter().map(|(at, count, flags)| message(&[(1, at * PAGE_SIZE), (4, *flags), (5, *count)]));
        image(std::iter::once(message(&[(1, 1)])).chain(runs).collect())
    }

    fn range(page: u64, stored_page: u64, pages: u64) -> StoredRange {
        let [address, stored_at, length] = [page, stored_page, pages].map(|pages| pages * PAGE_SIZE);
        StoredRange { address, stored_at, length }
    }

    #[test]
    fn private_memory_that_may_be_written_is_found_where_it_is_stored() {
        let mm = mm(&[
            (1, 3, 1, 2, 65, 0),
            (3, 5, 3, 2, 65, 0),
            (4, 5, 3, 2, vma::GUARD, 0),
            (5, 9, 3, 0x22, 0x201, 0),
            (9, 10, 3, 0x22, 0x201, 1 << 18),
            (10, 12, 3, 0x1, 0x81, 0),
            (12, 14, 3, 0x22, 0x201, 0),
        ]);
        // The pages 6 and 13 are not stored.
        let pagemap = pagemap(&[(2, 4, 4), (6, 1, 0), (7, 4, 4), (12, 1, 4), (13, 1, 0)]);
        let memory = stored_memory(&mm, &pagemap, 9 * PAGE_SIZE).unwrap();
        assert_eq!(memory.writable, [range(3, 1, 3), range(7, 4, 2), range(12, 8, 1)]);
        assert_eq!(memory.wiped_on_fork, [range(9, 6, 1)]);
    }

    #[test]
    fn mappings_that_are_not_in_order_are_refused() {
        let pagemap = pagemap(&[(1, 2, 4)]);
        for mappings in [[(3, 4), (1, 3)], [(1, 3), (2, 4)], [(1, 1), (2, 3)]] {
            let mm = mm(&mappings.map(|(start, end)| (start, end, 3, 0x22, 0x201, 0)));
            assert_eq!(
                stored_memory(&mm, &pagemap, 2 * PAGE_SIZE),
                Err(Refused::Inconsistent),
                "{mappings:?}"
            );
        }
    }
}
