//! The seccomp filter that answers `madvise` calls in instances whose processes rely on discarded memory being zero.
//!
//! In a private mapping of a file, discarded memory turns to the content of the file, which is neither zero nor what it
//! was. Some programs work if a discard has no effect, others if it fails. Their instances get a filter of system calls
//! that answers for the kernel, and the memory stays as it is. It comes on top of the filters that a process has, and
//! child processes inherit it.
//!
//! CRIU's image of all filters is a list, in which each filter has the number of the one below it. A thread names its
//! uppermost filter. Where all threads of a process have the same filter, only its first thread names it, and the flags
//! of the filter say that it is for all.
//!
//! # Traps
//! One result does not suit all programs: V8 ends itself when a discard fails, and Go relies on zeros where a discard
//! succeeds.

use std::collections::HashMap;

use super::criu_image::CriuImage;
use super::image_dir::ImageDir;
use super::proto_message::ProtoMessage;
use super::refused::Refused;
use super::zero_reliance::ZeroReliance;

/// The kernel's number of this architecture (`AUDIT_ARCH_...`), and the architecture's number of `madvise`.
const MADVISE: Option<(u32, u32)> = if cfg!(target_arch = "x86_64") {
    Some((0xC000_003E, 28))
} else if cfg!(target_arch = "aarch64") {
    Some((0xC000_00B7, 233))
} else {
    None
};

/// Whether there is a filter for this architecture.
pub(super) const IS_SUPPORTED: bool = MADVISE.is_some();

/// The filter's result that skips a call (`SECCOMP_RET_ERRNO`). The call returns the error in the lower bits, or
/// succeeds if that is 0.
const SKIP_CALL: u32 = 0x0005_0000;
/// The error of `madvise` on a kernel that was built without it, so programs can handle it.
const ENOSYS: u32 = 38;

/// `MADV_DONTNEED`, `MADV_FREE` and `MADV_DONTNEED_LOCKED`. Not `MADV_REMOVE`, which no private mapping takes.
const DISCARDING_ADVICE: [u32; 3] = [4, 8, 24];

/// The image with the list of processes and their threads.
const PROCESSES: &str = "pstree.img";
/// The image with the list of filters.
const FILTERS: &str = "seccomp.img";

/// The fields of `pstree_entry`.
mod process {
    pub(super) const PID: u32 = 1;
    pub(super) const THREADS: u32 = 5;
}

/// The field of `core_entry` with a `thread_core_entry`, and that one's fields.
mod thread {
    pub(super) const CORE: u32 = 5;
    pub(super) const MODE: u32 = 11;
    pub(super) const FILTER: u32 = 12;

    /// The mode of a thread with filters.
    pub(super) const FILTERED: u64 = 2;
}

/// The field of `seccomp_entry` with each `seccomp_filter`, and that one's fields.
mod filter {
    pub(super) const EACH: u32 = 1;
    pub(super) const PROGRAM: u32 = 1;
    pub(super) const BELOW: u32 = 2;
    pub(super) const FLAGS: u32 = 3;

    /// The flag of a filter that all threads of the process have.
    pub(super) const ALL_THREADS: u64 = 1;
}

/// Returns the filter's result for a discard of a process with this reliance; `None` if it needs no filter.
fn result_for(reliance: ZeroReliance) -> Option<u32> {
    match reliance {
        ZeroReliance::Unfiltered => None,
        ZeroReliance::Hint => Some(SKIP_CALL),
        ZeroReliance::Checked => Some(SKIP_CALL | ENOSYS),
    }
}

/// Returns the changed images, by name, of a checkpoint whose restored processes have the filters that they need.
///
/// # Errors
/// A process has no filter on top of which another can come, or the images are inconsistent.
pub(super) fn add_filters(
    source: &ImageDir<'_>,
    processes: &[(u32, ZeroReliance)],
) -> Result<Vec<(String, Vec<u8>)>, Refused> {
    let results =
        processes.iter().filter_map(|(pid, reliance)| Some((u64::from(*pid), result_for(*reliance)?)));
    let results: Vec<(u64, u32)> = results.collect();
    if results.is_empty() {
        return Ok(Vec::new());
    }
    let processes = source.read(PROCESSES)?;
    let mut filters = FilterList::read(source)?;
    let mut changed = Vec::new();
    for (pid, result) in results {
        let listed = processes.records.iter().find(|process| process.number(process::PID) == Some(pid));
        let threads: Vec<u64> = listed.ok_or(Refused::Inconsistent)?.all_numbers(process::THREADS).collect();
        if !threads.contains(&pid) {
            return Err(Refused::Inconsistent);
        }
        let (mut filtered, mut is_for_all) = (0, false);
        for thread in &threads {
            let name = format!("core-{thread}.img");
            let mut core = source.read(&name)?;
            let Some(flags) = filters.add_to_thread(&name, &mut core, result)? else { continue };
            changed.push((name, core.write()));
            filtered += 1;
            is_for_all |= *thread == pid && flags & filter::ALL_THREADS != 0;
        }
        if filtered < threads.len() && !is_for_all {
            return Err(Refused::Lacks("filter of system calls"));
        }
    }
    changed.push((FILTERS.to_owned(), filters.image.write()));
    Ok(changed)
}

/// The list of filters, to which new ones are added.
struct FilterList {
    image: CriuImage,
    /// The number of the filter that was added above a filter, by the number of that one and the result of the new one.
    added: HashMap<(u32, u32), u32>,
}

impl FilterList {
    fn read(source: &ImageDir<'_>) -> Result<Self, Refused> {
        let image = source.read(FILTERS)?;
        if image.records.len() != 1 {
            return Err(Refused::Inconsistent);
        }
        Ok(Self { image, added: HashMap::new() })
    }

    /// Adds a filter with this result above the one that a thread names. Returns the flags of that one; `None` if the
    /// thread names none.
    fn add_to_thread(
        &mut self,
        name: &str,
        core: &mut CriuImage,
        result: u32,
    ) -> Result<Option<u64>, Refused> {
        let wrong = |why| Refused::malformed(name, why);
        let [core] = core.records.as_mut_slice() else { return Err(Refused::Inconsistent) };
        let thread =
            ProtoMessage::read(core.bytes(thread::CORE).ok_or(Refused::Inconsistent)?).map_err(wrong)?;
        if thread.number(thread::MODE) != Some(thread::FILTERED) {
            return Ok(None);
        }
        let (number, flags) = self.add_above(thread.need_u32(thread::FILTER).map_err(wrong)?, result)?;
        let changed = core.change_each(thread::CORE, |mut thread| {
            thread.set_number(thread::FILTER, u64::from(number));
            Ok(Some(thread))
        });
        changed.map_err(wrong)?;
        Ok(Some(flags))
    }

    /// Adds a filter with this result above another, unless that was done before. Returns its number, and the flags of
    /// the other, which it has too.
    fn add_above(&mut self, below: u32, result: u32) -> Result<(u32, u64), Refused> {
        let [list] = self.image.records.as_mut_slice() else { return Err(Refused::Inconsistent) };
        let existing = list.all_bytes(filter::EACH).nth(below as usize).ok_or(Refused::Inconsistent)?;
        let flags = ProtoMessage::read(existing)
            .map_err(|why| Refused::malformed(FILTERS, why))?
            .number(filter::FLAGS);
        let flags = flags.unwrap_or(0);
        if let Some(number) = self.added.get(&(below, result)) {
            return Ok((*number, flags));
        }
        let number =
            u32::try_from(list.all_bytes(filter::EACH).count()).map_err(|_| Refused::Inconsistent)?;
        let mut added = ProtoMessage::default();
        added.push_bytes(filter::PROGRAM, &program(result).ok_or(Refused::Inconsistent)?);
        added.set_number(filter::BELOW, u64::from(below));
        added.set_number(filter::FLAGS, flags);
        list.push_bytes(filter::EACH, &added.write());
        self.added.insert((below, result), number);
        Ok((number, flags))
    }
}

/// Returns the filter that ends a discarding `madvise` with this result and allows every other call, as the kernel
/// takes it: instructions of classic BPF about a `seccomp_data`.
fn program(result: u32) -> Option<Vec<u8>> {
    const LOAD: u16 = 0x20;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    // Offsets in a `seccomp_data`; of the third argument, which is an `int`, that of the lower half.
    const NUMBER: u32 = 0;
    const ARCHITECTURE: u32 = 4;
    const ADVICE: u32 = if cfg!(target_endian = "little") { 32 } else { 36 };
    const ALLOW: u32 = 0x7fff_0000;

    let (architecture, madvise) = MADVISE?;
    let [one, two, three] = DISCARDING_ADVICE;
    // Each instruction has the number of instructions to skip if the values are equal, and if they are not.
    let instructions: [(u16, u8, u8, u32); 9] = [
        (LOAD, 0, 0, ARCHITECTURE),
        (JUMP_IF_EQUAL, 0, 6, architecture),
        (LOAD, 0, 0, NUMBER),
        (JUMP_IF_EQUAL, 0, 4, madvise),
        (LOAD, 0, 0, ADVICE),
        (JUMP_IF_EQUAL, 3, 0, one),
        (JUMP_IF_EQUAL, 2, 0, two),
        (JUMP_IF_EQUAL, 1, 0, three),
        (RETURN, 0, 0, ALLOW),
    ];
    let skipped = (RETURN, 0, 0, result);
    let bytes = instructions.into_iter().chain([skipped]).flat_map(|(code, equal, unequal, value)| {
        let mut bytes = [0; 8];
        bytes[..2].copy_from_slice(&code.to_ne_bytes());
        bytes[2..4].copy_from_slice(&[equal, unequal]);
        bytes[4..].copy_from_slice(&value.to_ne_bytes());
        bytes
    });
    Some(bytes.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the result of the filter for a call, by the rules of `bpf(4)` for the three kinds of instruction in it.
    fn run(architecture: u32, call: u32, advice: u64) -> u32 {
        let mut data = [0; 64];
        data[..4].copy_from_slice(&call.to_ne_bytes());
        data[4..8].copy_from_slice(&architecture.to_ne_bytes());
        data[32..40].copy_from_slice(&advice.to_ne_bytes());
        let number = |bytes: &[u8], at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
        let program = program(SKIP_CALL | ENOSYS).unwrap();
        let (mut at, mut loaded) = (0, 0);
        loop {
            let instruction = &program[8 * at..8 * at + 8];
            let value = number(instruction, 4);
            at += 1;
            match u16::from_ne_bytes([instruction[0], instruction[1]]) {
                0x20 => loaded = number(&data, value as usize),
                0x15 => at += usize::from(instruction[if loaded == value { 2 } else { 3 }]),
                0x06 => return value,
                other => panic!("{other:#x}"),
            }
        }
    }

    #[test]
    fn only_discarding_advice_is_skipped() {
        let (architecture, call) = MADVISE.unwrap();
        for advice in 0..64 {
            let expected = if DISCARDING_ADVICE.contains(&advice) { 0x5_0026 } else { 0x7fff_0000 };
            // The upper half of an `int` argument is undefined.
            for above in [0, 0xffff_ffff_u64 << 32] {
                assert_eq!(run(architecture, call, above | u64::from(advice)), expected, "{advice}");
            }
            assert_eq!(run(architecture, call + 1, u64::from(advice)), 0x7fff_0000, "{advice}");
            assert_eq!(run(0x4000_0003, call, u64::from(advice)), 0x7fff_0000, "{advice}");
        }
    }
}
