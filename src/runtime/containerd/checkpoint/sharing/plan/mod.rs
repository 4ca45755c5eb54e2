//! Plans which mappings of a process become private mappings of a file, and where their pages go. Pure.
//!
//! CRIU's images of a process are a list of its mappings (`mm`), a list of the pages that were dumped (`pagemap`), and
//! the pages one after another. A mapping that is shared names a file instead; its pages leave the list and go to the
//! file, where pages of zeros take no memory.
//!
//! # Traps
//! The data of programs and libraries is shared only where each of its pages was dumped: else the file that it was
//! mapped from would have to be read.
//!
//! Each process has a file of its own. CRIU takes mappings of the same place in the same file in a parent and its child
//! for the same memory.

mod criu_fields;
pub(super) mod stored_memory;

use std::collections::HashMap;
use std::ops::Range;

use super::criu_image::CriuImage;
use super::layout::PAGE_SIZE;
use super::madvise_events::DiscardedRanges;
use super::proto_message::{Malformed, ProtoMessage};
use super::refused::Refused;
use super::zero_reliance::ZeroReliance;
use criu_fields::{MAPPINGS, run, vma};

/// Bytes from the end of a mapping's part of the file to the next part: a mapping that grows in place finds zeros
/// there.
const GROWTH_GAP: u64 = 1 << 36;

/// Maximum number of mappings of a process that are shared. A process may have far fewer, and the file does not become
/// longer than a file may be.
const MAX_SHARED_MAPPINGS: usize = 1 << 20;

/// A mapping that is shared.
#[derive(Debug, Clone, PartialEq, Eq)]
struct SharedMapping {
    start: u64,
    end: u64,
    /// The offset in the file where its memory begins.
    file_offset: u64,
}

/// Pages that follow each other.
#[derive(Debug, Clone)]
struct PageRun {
    start: u64,
    end: u64,
    /// The offset in the image of the pages where they begin; `None` for pages of zeros, which are not in that image.
    stored_at: Option<u64>,
    message: ProtoMessage,
}

/// What happens to the pages of a process. All ranges are in bytes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct SharingPlan {
    /// The ranges of the image of the pages that stay there, in order.
    pub(super) kept: Vec<Range<u64>>,
    /// The ranges of the image of the pages that go to the file, and their offsets in the file.
    pub(super) moved: Vec<(Range<u64>, u64)>,
    pub(super) file_length: u64,
    /// The ranges of the file that mappings cover.
    pub(super) mapped: Vec<Range<u64>>,
    /// Whether a mapping of shared anonymous memory became private.
    pub(super) has_private_shmem: bool,
}

impl SharingPlan {
    /// Returns how many bytes of the file mappings cover. The file takes at most that while no mapping grows.
    pub(super) fn mapped_bytes(&self) -> u64 {
        self.mapped.iter().map(|part| part.end - part.start).sum()
    }
}

/// The files for shared anonymous memory that becomes private to each process: for CRIU's number of what is mapped, the
/// number of the file.
pub(super) type ShmemFiles = HashMap<u64, u32>;

/// What decides, beside the images of a process, which of its memory is shared.
#[derive(Debug, Clone, Copy)]
pub(super) struct SharingRules<'a> {
    pub(super) shmem_files: &'a ShmemFiles,
    /// The memory that the app discarded.
    pub(super) discarded: &'a DiscardedRanges,
    pub(super) reliance: ZeroReliance,
}

/// Changes the images of a process so that every mapping that can be shared is a private mapping of the file with this
/// number. `pages` is the length of the image of its pages. If there is nothing to share, the images stay as they are
/// and `None` is returned.
///
/// # Errors
/// The images are malformed or inconsistent, or not all pages are in them.
pub(super) fn plan_process(
    mm: &mut CriuImage,
    pagemap: &mut CriuImage,
    pages: u64,
    file: u32,
    rules: &SharingRules<'_>,
) -> Result<Option<SharingPlan>, Refused> {
    let [process] = mm.records.as_mut_slice() else { return Err(Refused::malformed("mm", Malformed::Short)) };
    let runs = read_pagemap(pagemap, pages)?;
    let mut changed = process.clone();
    let (shared, has_private_shmem) = change_mappings(&mut changed, &runs, file, rules)?;
    if shared.is_empty() && !has_private_shmem {
        return Ok(None);
    }
    let in_file =
        |mapping: &SharedMapping| mapping.file_offset..mapping.file_offset + (mapping.end - mapping.start);
    let mapped: Vec<_> = shared.iter().map(in_file).collect();
    let file_length = mapped.last().map_or(0, |last| last.end + GROWTH_GAP);
    let mut plan = SharingPlan { file_length, mapped, has_private_shmem, ..SharingPlan::default() };
    let rest = runs.iter().flat_map(|run| divide_run(run, &shared, &mut plan)).collect::<Vec<_>>();
    *process = changed;
    pagemap.records.splice(1.., rest);
    Ok(Some(plan))
}

/// Plans that the pages of shared anonymous memory go to a file of its own, at the offsets that they have in the
/// memory. `pages` is the length of the image of the pages, `size` that of the memory.
///
/// # Errors
/// The images are malformed or inconsistent, or not all pages are in them.
pub(super) fn plan_shmem(pagemap: &CriuImage, pages: u64, size: u64) -> Result<SharingPlan, Refused> {
    let mut plan = SharingPlan { mapped: std::iter::once(0..size).collect(), ..SharingPlan::default() };
    plan.file_length = size
        .checked_add(GROWTH_GAP)
        .filter(|length| *length <= i64::MAX as u64)
        .ok_or(Refused::Inconsistent)?;
    for run in read_pagemap(pagemap, pages)? {
        if run.end > size {
            return Err(Refused::Inconsistent);
        }
        plan.moved.extend(run.stored_at.map(|at| (at..at + (run.end - run.start), run.start)));
    }
    Ok(plan)
}

/// Why the mappings of a process cannot be changed.
enum MappingError {
    Malformed(Malformed),
    Inconsistent,
}

impl From<Malformed> for MappingError {
    fn from(why: Malformed) -> Self {
        Self::Malformed(why)
    }
}

/// Returns all pages in a pagemap, in order.
fn read_pagemap(pagemap: &CriuImage, pages: u64) -> Result<Vec<PageRun>, Refused> {
    let wrong = |why| Refused::malformed("pagemap", why);
    let (mut runs, mut at, mut last) = (Vec::new(), 0_u64, 0);
    for message in pagemap.records.iter().skip(1) {
        let start = message.need(run::ADDRESS).map_err(&wrong)?;
        let count = message.number(run::PAGES).filter(|count| *count > 0);
        let count = count.map_or_else(|| message.need(run::PAGES_32), Ok).map_err(&wrong)?;
        let flags = message.number(run::FLAGS).unwrap_or(run::PRESENT);
        if message.number(run::IN_PARENT).unwrap_or(0) != 0
            || flags & run::PARENT != 0
            || flags & (run::LAZY | run::PRESENT) == run::LAZY
        {
            return Err(Refused::Elsewhere);
        }
        let length = count.checked_mul(PAGE_SIZE).ok_or(Refused::Inconsistent)?;
        let end = start.checked_add(length).ok_or(Refused::Inconsistent)?;
        if start % PAGE_SIZE != 0 || start < last {
            return Err(Refused::Inconsistent);
        }
        let is_present = flags & run::PRESENT != 0;
        runs.push(PageRun { start, end, stored_at: is_present.then_some(at), message: message.clone() });
        if is_present {
            at = at.checked_add(length).filter(|at| *at <= pages).ok_or(Refused::Inconsistent)?;
        }
        last = end;
    }
    if at != pages {
        return Err(Refused::Inconsistent);
    }
    Ok(runs)
}

/// Makes each mapping that can be shared a private mapping of the file, and each mapping of shared anonymous memory
/// that becomes private one of its file. Returns the shared mappings, and whether there was one of the second kind.
fn change_mappings(
    process: &mut ProtoMessage,
    runs: &[PageRun],
    file: u32,
    rules: &SharingRules<'_>,
) -> Result<(Vec<SharedMapping>, bool), Refused> {
    let wrong = |why| Refused::malformed("mm", why);
    let mut guards = Vec::new();
    for bytes in process.all_bytes(MAPPINGS) {
        let mapping = ProtoMessage::read(bytes).map_err(&wrong)?;
        if mapping.need(vma::STATUS).map_err(&wrong)? & vma::GUARD != 0 {
            guards.push((mapping.need(vma::START).map_err(&wrong)?, mapping.need(vma::END).map_err(&wrong)?));
        }
    }
    let (mut shared, mut has_private_shmem): (Vec<SharedMapping>, bool) = (Vec::new(), false);
    let changed = process.change_each(MAPPINGS, |mapping| {
        let (start, end) = (mapping.need(vma::START)?, mapping.need(vma::END)?);
        if start >= end || start % PAGE_SIZE != 0 || end % PAGE_SIZE != 0 {
            return Err(MappingError::Inconsistent);
        }
        if rules.discarded.has_unshareable(&(start..end), rules.reliance) {
            return Ok(None);
        }
        if let Some(file) = rules.shmem_files.get(&mapping.need(vma::FILE)?)
            && mapping.need(vma::STATUS)? == vma::ANON_SHARED
        {
            let offset = mapping.need(vma::OFFSET)?;
            has_private_shmem = true;
            return map_file(mapping, *file, offset).map(Some);
        }
        let dumped = dumped_bytes(runs, start, end);
        let has_guards = guards.iter().any(|(from, to)| *from < end && start < *to);
        if dumped == 0 || has_guards || !may_be_shared(&mapping, dumped == end - start)? {
            return Ok(None);
        }
        if shared.last().is_some_and(|last| start < last.end) || shared.len() == MAX_SHARED_MAPPINGS {
            return Err(MappingError::Inconsistent);
        }
        let offset = shared.last().map_or(0, |last| last.file_offset + (last.end - last.start) + GROWTH_GAP);
        // No file may be longer. Mappings that follow would not fit either.
        if offset
            .checked_add(end - start)
            .and_then(|end| end.checked_add(GROWTH_GAP))
            .is_none_or(|end| end > i64::MAX as u64)
        {
            return Err(MappingError::Inconsistent);
        }
        shared.push(SharedMapping { start, end, file_offset: offset });
        map_file(mapping, file, offset).map(Some)
    });
    match changed {
        Ok(()) => Ok((shared, has_private_shmem)),
        Err(MappingError::Inconsistent) => Err(Refused::Inconsistent),
        Err(MappingError::Malformed(why)) => Err(wrong(why)),
    }
}

/// Makes a mapping a private mapping of a file at the same addresses.
fn map_file(mut mapping: ProtoMessage, file: u32, offset: u64) -> Result<ProtoMessage, MappingError> {
    let flags = mapping.need(vma::FLAGS)?;
    mapping.set_number(vma::OFFSET, offset);
    mapping.set_number(vma::FILE, u64::from(file));
    mapping.set_number(vma::FLAGS, flags & !(vma::MAP_ANONYMOUS | vma::MAP_SHARED) | vma::MAP_PRIVATE);
    mapping.set_number(vma::STATUS, vma::REGULAR | vma::FILE_PRIVATE);
    mapping.set_number(vma::FILE_FLAGS, 0);
    Ok(mapping)
}

/// Returns how many bytes of a mapping are in the image of the pages.
fn dumped_bytes(runs: &[PageRun], start: u64, end: u64) -> u64 {
    let from = runs.partition_point(|run| run.end <= start);
    let stored = runs[from..].iter().take_while(|run| run.start < end).filter(|run| run.stored_at.is_some());
    stored.map(|run| run.end.min(end) - run.start.max(start)).sum()
}

/// Whether a mapping is private, may be accessed, and has no property that a private mapping of a file would lack. A
/// mapping of a file, such as the data of a library, is shared only if none of its pages is that file's any more:
/// `is_dumped` says whether each of its pages was dumped.
fn may_be_shared(mapping: &ProtoMessage, is_dumped: bool) -> Result<bool, Malformed> {
    let status = mapping.need(vma::STATUS)?;
    let flags = mapping.need(vma::FLAGS)?;
    let protection = mapping.need(vma::PROTECTION)?;
    let anonymous = status & !vma::HEAP == vma::REGULAR | vma::ANON_PRIVATE && protection != 0;
    let data = status == vma::REGULAR | vma::FILE_PRIVATE && is_dumped && protection & vma::EXECUTE == 0;
    Ok((anonymous || data)
        && flags & !vma::HARMLESS == 0
        && mapping.number(vma::ADVICE).unwrap_or(0) & !vma::ACCEPTED_ADVICE == 0)
}

/// Adds the parts of a run that are in shared mappings to the plan as moved, and the other parts as kept. Returns the
/// messages of the other parts.
fn divide_run(run: &PageRun, shared: &[SharedMapping], plan: &mut SharingPlan) -> Vec<ProtoMessage> {
    let mut rest = Vec::new();
    let mut keep = |from: u64, to: u64, plan: &mut SharingPlan| {
        if from == to {
            return;
        }
        let mut message = run.message.clone();
        message.set_number(run::ADDRESS, from);
        let field = if message.number(run::PAGES).is_some_and(|pages| pages > 0) {
            run::PAGES
        } else {
            run::PAGES_32
        };
        message.set_number(field, (to - from) / PAGE_SIZE);
        rest.push(message);
        if let Some(at) = run.stored_at {
            plan.kept.push(at + (from - run.start)..at + (to - run.start));
        }
    };
    let mut from = run.start;
    let first = shared.partition_point(|mapping| mapping.end <= run.start);
    for mapping in shared[first..].iter().take_while(|mapping| mapping.start < run.end) {
        let (start, end) = (mapping.start.max(run.start), mapping.end.min(run.end));
        keep(from, start, plan);
        if let Some(at) = run.stored_at {
            let bytes = at + (start - run.start)..at + (end - run.start);
            plan.moved.push((bytes, mapping.file_offset + (start - mapping.start)));
        }
        from = end;
    }
    keep(from, run.end, plan);
    rest
}

#[cfg(test)]
mod tests;
