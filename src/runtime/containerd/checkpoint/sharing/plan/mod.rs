//! Which of a process's memory becomes a private mapping of a file, and where its pages go. Pure.
//!
//! CRIU's images of a process are a list of its mappings (`mm`), a list of the pages that were dumped (`pagemap`) and
//! the pages one after another. A mapping that is shared from now on names a file; its pages leave the list and lie in
//! the file, where what is zero need not be.

use std::collections::HashMap;
use std::ops::Range;

use super::allocator_scan::ZeroReliance;
use super::criu_image::{Image, Malformed};
use super::madvise_events::DiscardedRanges;
use super::proto_message::Message;

pub(crate) const PAGE: u64 = 4096;

/// From the end of a mapping's part of the file to the next: a mapping that grows in place finds zeros there.
const GAP: u64 = 1 << 36;

/// Most mappings of a process that are shared; far more than a process may have, and the file stays one that can be.
const MOST_REGIONS: usize = 1 << 20;

/// Why an image stays as it is.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum Refused {
    /// An image file is not what CRIU writes.
    #[error("{file}: {why}")]
    Malformed {
        /// Which.
        file: String,
        /// In which way.
        why: String,
    },
    /// Pages lie in another checkpoint, or are fetched later.
    #[error("not all of its memory lies in the checkpoint")]
    Elsewhere,
    /// What lies where cannot be said.
    #[error("its memory contradicts itself")]
    Contradiction,
    /// Nothing of it can be shared.
    #[error("there is no memory that can be shared")]
    Nothing,
    /// It came to be while the others were looked at.
    #[error("nobody knows what process {0} is made of")]
    Unseen(u32),
    /// CRIU's image lacks what all that we know have.
    #[error("there is no {0}")]
    Lacks(&'static str),
    /// The image could not be read.
    #[error("cannot read {file}: {why}")]
    Unreadable {
        /// Which file.
        file: String,
        /// What the system said.
        why: String,
    },
}

/// The fields of `vma_entry`.
pub(super) mod vma {
    pub(in crate::runtime::containerd::checkpoint::sharing) const START: u32 = 1;
    pub(in crate::runtime::containerd::checkpoint::sharing) const END: u32 = 2;
    pub(in crate::runtime::containerd::checkpoint::sharing) const OFFSET: u32 = 3;
    pub(in crate::runtime::containerd::checkpoint::sharing) const FILE: u32 = 4;
    pub(super) const PROTECTION: u32 = 5;
    pub(super) const FLAGS: u32 = 6;
    pub(super) const STATUS: u32 = 7;
    pub(super) const ADVICE: u32 = 9;
    pub(super) const FILE_FLAGS: u32 = 10;

    // `protection`
    pub(super) const EXECUTE: u64 = 4;

    // `status`
    pub(super) const REGULAR: u64 = 1;
    pub(super) const HEAP: u64 = 1 << 5;
    pub(super) const FILE_PRIVATE: u64 = 1 << 6;
    const FILE_SHARED: u64 = 1 << 7;
    pub(super) const ANON_PRIVATE: u64 = 1 << 9;
    const MEMFD: u64 = 1 << 14;
    pub(super) const GUARD: u64 = 1 << 16;
    /// Memory that processes share, as CRIU has it on newer kernels.
    pub(super) const SHARED: u64 = REGULAR | FILE_SHARED | MEMFD;

    // `flags`, as of mmap
    pub(super) const SHARED_FLAG: u64 = 0x1;
    pub(super) const PRIVATE: u64 = 0x2;
    const FIXED: u64 = 0x10;
    pub(super) const ANONYMOUS: u64 = 0x20;
    const NO_RESERVE: u64 = 0x4000;
    const STACK: u64 = 0x2_0000;
    /// Those that change nothing about what a page holds. Not here: mappings that grow downwards, of huge pages, locked.
    pub(super) const HARMLESS: u64 = PRIVATE | ANONYMOUS | FIXED | NO_RESERVE | STACK;

    /// Advice that a file takes as well: how it is read, huge pages or none, no part of dumps, not for children. Not
    /// here: to be zero in a child, to be merged.
    pub(super) const ADVICE_TAKEN: u64 = 1 << 1 | 1 << 2 | 1 << 10 | 1 << 14 | 1 << 15 | 1 << 16;
}

/// The field of `mm_entry` with the mappings.
pub(super) const MAPPINGS: u32 = 14;

/// The fields of `pagemap_entry`.
mod run {
    pub(super) const ADDRESS: u32 = 1;
    /// Of older versions of CRIU, 0 in newer ones.
    pub(super) const PAGES_32: u32 = 2;
    pub(super) const IN_PARENT: u32 = 3;
    pub(super) const FLAGS: u32 = 4;
    pub(super) const PAGES: u32 = 5;

    pub(super) const PARENT: u64 = 1;
    pub(super) const LAZY: u64 = 2;
    pub(super) const PRESENT: u64 = 4;
}

/// A mapping that is shared.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Region {
    start: u64,
    end: u64,
    /// Where it begins in the file.
    offset: u64,
}

/// Pages that follow each other.
#[derive(Debug, Clone)]
struct Run {
    start: u64,
    end: u64,
    /// Where they begin among the pages; `None` for such as are only zeros, and lie nowhere.
    at: Option<u64>,
    message: Message,
}

/// What becomes of a process's pages. Ranges are of bytes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct SharingPlan {
    /// What stays among the pages, in order.
    pub(super) kept: Vec<Range<u64>>,
    /// What goes to the file, and where.
    pub(super) moved: Vec<(Range<u64>, u64)>,
    /// The file's length.
    pub(super) length: u64,
    /// All that mappings have of the file.
    pub(super) mapped: Vec<Range<u64>>,
    /// Whether a mapping of memory that processes had in common was changed, too.
    pub(super) parted: bool,
}

impl SharingPlan {
    /// Bytes that the file can come to hold by what its mappings touch without growing.
    pub(super) fn room(&self) -> u64 {
        self.mapped.iter().map(|part| part.end - part.start).sum()
    }
}

/// Files for memory that processes had in common and that each has for itself from now on: by CRIU's number of what is
/// mapped, that of the file.
pub(super) type Parted = HashMap<u64, u32>;

/// What is known of a process beyond its images.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules<'a> {
    pub(super) parted: &'a Parted,
    /// What is not shared, as far as its habit is not another.
    pub(super) given_up: &'a DiscardedRanges,
    pub(super) habit: ZeroReliance,
}

/// Changes the images of a process so that what can be shared is mapped from the file with this id. `pages` is the length
/// of its pages. `None`, and nothing is changed, where there is nothing to share.
pub(super) fn share(
    mm: &mut Image,
    pagemap: &mut Image,
    pages: u64,
    file: u32,
    rules: &Rules<'_>,
) -> Result<Option<SharingPlan>, Refused> {
    let [process] = mm.records.as_mut_slice() else { return Err(malformed("mm", Malformed::Short)) };
    let runs = runs(pagemap, pages)?;
    let mut changed = process.clone();
    let (regions, parted) = map(&mut changed, &runs, file, rules)?;
    if regions.is_empty() && !parted {
        return Ok(None);
    }
    let mapped: Vec<_> =
        regions.iter().map(|region| region.offset..region.offset + (region.end - region.start)).collect();
    let length = mapped.last().map_or(0, |last| last.end + GAP);
    let mut plan = SharingPlan { length, mapped, parted, ..SharingPlan::default() };
    let rest = runs.iter().flat_map(|run| divide(run, &regions, &mut plan)).collect::<Vec<_>>();
    *process = changed;
    pagemap.records.splice(1.., rest);
    Ok(Some(plan))
}

/// Where the pages of memory that processes had in common go: to a file of its own, at their places.
pub(super) fn part(pagemap: &Image, pages: u64, size: u64) -> Result<SharingPlan, Refused> {
    let mut plan = SharingPlan { mapped: std::iter::once(0..size).collect(), ..SharingPlan::default() };
    plan.length =
        size.checked_add(GAP).filter(|length| *length <= i64::MAX as u64).ok_or(Refused::Contradiction)?;
    for run in runs(pagemap, pages)? {
        if run.end > size {
            return Err(Refused::Contradiction);
        }
        plan.moved.extend(run.at.map(|at| (at..at + (run.end - run.start), run.start)));
    }
    Ok(plan)
}

pub(super) fn malformed(file: &str, why: Malformed) -> Refused {
    Refused::Malformed { file: file.to_owned(), why: why.to_string() }
}

/// For what goes through [`Message::change_each`].
enum Stop {
    Malformed(Malformed),
    Contradiction,
}

impl From<Malformed> for Stop {
    fn from(why: Malformed) -> Self {
        Self::Malformed(why)
    }
}

/// All pages of a process, in order.
fn runs(pagemap: &Image, pages: u64) -> Result<Vec<Run>, Refused> {
    let wrong = |why| malformed("pagemap", why);
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
        let length = count.checked_mul(PAGE).ok_or(Refused::Contradiction)?;
        let end = start.checked_add(length).ok_or(Refused::Contradiction)?;
        if start % PAGE != 0 || start < last {
            return Err(Refused::Contradiction);
        }
        let present = flags & run::PRESENT != 0;
        runs.push(Run { start, end, at: present.then_some(at), message: message.clone() });
        if present {
            at = at.checked_add(length).filter(|at| *at <= pages).ok_or(Refused::Contradiction)?;
        }
        last = end;
    }
    if at != pages {
        return Err(Refused::Contradiction);
    }
    Ok(runs)
}

/// Makes each mapping that can be shared one of the file, and each of what is parted one of that. Whether there was such.
fn map(
    process: &mut Message,
    runs: &[Run],
    file: u32,
    rules: &Rules<'_>,
) -> Result<(Vec<Region>, bool), Refused> {
    let wrong = |why| malformed("mm", why);
    let mut guards = Vec::new();
    for bytes in process.all_bytes(MAPPINGS) {
        let mapping = Message::read(bytes).map_err(&wrong)?;
        if mapping.need(vma::STATUS).map_err(&wrong)? & vma::GUARD != 0 {
            guards.push((mapping.need(vma::START).map_err(&wrong)?, mapping.need(vma::END).map_err(&wrong)?));
        }
    }
    let (mut regions, mut has_parted): (Vec<Region>, bool) = (Vec::new(), false);
    let changed = process.change_each(MAPPINGS, |mapping| {
        let (start, end) = (mapping.need(vma::START)?, mapping.need(vma::END)?);
        if start >= end || start % PAGE != 0 || end % PAGE != 0 {
            return Err(Stop::Contradiction);
        }
        if rules.given_up.touches(&(start..end), rules.habit) {
            return Ok(None);
        }
        if let Some(file) = rules.parted.get(&mapping.need(vma::FILE)?)
            && mapping.need(vma::STATUS)? == vma::SHARED
        {
            let offset = mapping.need(vma::OFFSET)?;
            has_parted = true;
            return to_file(mapping, *file, offset).map(Some);
        }
        let dumped = dumped(runs, start, end);
        let guarded = guards.iter().any(|(from, to)| *from < end && start < *to);
        if dumped == 0 || guarded || !can_be_shared(&mapping, dumped == end - start)? {
            return Ok(None);
        }
        if regions.last().is_some_and(|last| start < last.end) || regions.len() == MOST_REGIONS {
            return Err(Stop::Contradiction);
        }
        let offset = regions.last().map_or(0, |last| last.offset + (last.end - last.start) + GAP);
        // No file is longer. Later ones fit neither.
        if offset
            .checked_add(end - start)
            .and_then(|end| end.checked_add(GAP))
            .is_none_or(|end| end > i64::MAX as u64)
        {
            return Err(Stop::Contradiction);
        }
        regions.push(Region { start, end, offset });
        to_file(mapping, file, offset).map(Some)
    });
    match changed {
        Ok(()) => Ok((regions, has_parted)),
        Err(Stop::Contradiction) => Err(Refused::Contradiction),
        Err(Stop::Malformed(why)) => Err(wrong(why)),
    }
}

/// The same addresses, but a private mapping of a file.
fn to_file(mut mapping: Message, file: u32, offset: u64) -> Result<Message, Stop> {
    let flags = mapping.need(vma::FLAGS)?;
    mapping.set_number(vma::OFFSET, offset);
    mapping.set_number(vma::FILE, u64::from(file));
    mapping.set_number(vma::FLAGS, flags & !(vma::ANONYMOUS | vma::SHARED_FLAG) | vma::PRIVATE);
    mapping.set_number(vma::STATUS, vma::REGULAR | vma::FILE_PRIVATE);
    mapping.set_number(vma::FILE_FLAGS, 0);
    Ok(mapping)
}

/// Bytes of a mapping that are among the pages.
fn dumped(runs: &[Run], start: u64, end: u64) -> u64 {
    let from = runs.partition_point(|run| run.end <= start);
    let of_it = runs[from..].iter().take_while(|run| run.start < end).filter(|run| run.at.is_some());
    of_it.map(|run| run.end.min(end) - run.start.max(start)).sum()
}

/// Private, used, and with nothing about it that a mapping of our file would not have too. If it is of a file already, such
/// as the data of a library, then no page of it is still that file's: `wholly` says whether all of it was dumped.
fn can_be_shared(mapping: &Message, wholly: bool) -> Result<bool, Malformed> {
    let status = mapping.need(vma::STATUS)?;
    let flags = mapping.need(vma::FLAGS)?;
    let protection = mapping.need(vma::PROTECTION)?;
    let anonymous = status & !vma::HEAP == vma::REGULAR | vma::ANON_PRIVATE && protection != 0;
    let data = status == vma::REGULAR | vma::FILE_PRIVATE && wholly && protection & vma::EXECUTE == 0;
    Ok((anonymous || data)
        && flags & !vma::HARMLESS == 0
        && mapping.number(vma::ADVICE).unwrap_or(0) & !vma::ADVICE_TAKEN == 0)
}

/// Sends the parts of a run that lie in a region to the file, and gives the messages of the rest.
fn divide(run: &Run, regions: &[Region], plan: &mut SharingPlan) -> Vec<Message> {
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
        message.set_number(field, (to - from) / PAGE);
        rest.push(message);
        if let Some(at) = run.at {
            plan.kept.push(at + (from - run.start)..at + (to - run.start));
        }
    };
    let mut from = run.start;
    let first = regions.partition_point(|region| region.end <= run.start);
    for region in regions[first..].iter().take_while(|region| region.start < run.end) {
        let (start, end) = (region.start.max(run.start), region.end.min(run.end));
        keep(from, start, plan);
        if let Some(at) = run.at {
            let bytes = at + (start - run.start)..at + (end - run.start);
            plan.moved.push((bytes, region.offset + (start - region.start)));
        }
        from = end;
    }
    keep(from, run.end, plan);
    rest
}

#[cfg(test)]
mod tests;
