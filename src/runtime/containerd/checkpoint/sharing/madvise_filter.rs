//! What a program hears when it gives memory up. In a mapping of a file that would turn to what the file holds, which is
//! neither zero nor as it was. Some programs are right if nothing comes of it, some if they are told that it does not work;
//! in copies of those a filter of system calls answers, and the memory stays as it is. It comes on top of the filters that
//! a process has, and goes on to its children.
//!
//! CRIU's image of all filters is a list, each with the number of the one below it; a thread names its uppermost. Where
//! all threads of a process have the same, only its first names it, and the filter's flags say that it is for all.

use std::collections::HashMap;

use super::allocator_scan::ZeroReliance;
use super::criu_image::Image;
use super::image_dir::ImageDir;
use super::plan::{Refused, malformed};
use super::proto_message::Message;

/// What the kernel calls this architecture (`AUDIT_ARCH_...`), and its number for `madvise`.
const CALL: Option<(u32, u32)> = if cfg!(target_arch = "x86_64") {
    Some((0xC000_003E, 28))
} else if cfg!(target_arch = "aarch64") {
    Some((0xC000_00B7, 233))
} else {
    None
};

/// Whether there is a filter for this architecture.
pub(super) const CAN_BE_ANSWERED: bool = CALL.is_some();

/// What a filter does with a call: it is not made, and returns this error, or succeeds with 0 (`SECCOMP_RET_ERRNO`).
const ANSWERED: u32 = 0x0005_0000;
/// Linux can be built without `madvise`, and then that is its error, so programs are made to get along with it.
const ENOSYS: u32 = 38;

/// `MADV_DONTNEED`, `MADV_FREE` and `MADV_DONTNEED_LOCKED`. Not `MADV_REMOVE`, which no private mapping takes.
const GIVING_UP: [u32; 3] = [4, 8, 24];

/// The list of processes and of their threads.
const PROCESSES: &str = "pstree.img";
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

    /// It has filters.
    pub(super) const FILTERED: u64 = 2;
}

/// The field of `seccomp_entry` with each `seccomp_filter`, and that one's fields.
mod filter {
    pub(super) const EACH: u32 = 1;
    pub(super) const PROGRAM: u32 = 1;
    pub(super) const BELOW: u32 = 2;
    pub(super) const FLAGS: u32 = 3;

    /// For all threads of the process.
    pub(super) const ALL_THREADS: u64 = 1;
}

/// What a process of this habit is to hear; `None` if the kernel may do as it is told.
fn answer(habit: ZeroReliance) -> Option<u32> {
    match habit {
        ZeroReliance::Plain => None,
        ZeroReliance::Hints => Some(ANSWERED),
        ZeroReliance::Asks => Some(ANSWERED | ENOSYS),
    }
}

/// The images, by name, of a checkpoint in whose copies these processes hear what suits them.
pub(super) fn answer_all(
    source: &ImageDir<'_>,
    processes: &[(u32, ZeroReliance)],
) -> Result<Vec<(String, Vec<u8>)>, Refused> {
    let answers = processes.iter().filter_map(|(pid, habit)| Some((u64::from(*pid), answer(*habit)?)));
    let answers: Vec<(u64, u32)> = answers.collect();
    if answers.is_empty() {
        return Ok(Vec::new());
    }
    let processes = source.read(PROCESSES)?;
    let mut filters = Filters::read(source)?;
    let mut changed = Vec::new();
    for (pid, answer) in answers {
        let listed = processes.records.iter().find(|process| process.number(process::PID) == Some(pid));
        let threads: Vec<u64> = listed.ok_or(Refused::Contradiction)?.all_numbers(process::THREADS).collect();
        if !threads.contains(&pid) {
            return Err(Refused::Contradiction);
        }
        let (mut filtered, mut for_all) = (0, false);
        for thread in &threads {
            let name = format!("core-{thread}.img");
            let mut core = source.read(&name)?;
            let Some(flags) = filters.put_on(&name, &mut core, answer)? else { continue };
            changed.push((name, core.write()));
            filtered += 1;
            for_all |= *thread == pid && flags & filter::ALL_THREADS != 0;
        }
        if filtered < threads.len() && !for_all {
            return Err(Refused::Lacks("filter of system calls"));
        }
    }
    changed.push((FILTERS.to_owned(), filters.image.write()));
    Ok(changed)
}

/// The list of filters, which becomes longer.
struct Filters {
    image: Image,
    /// By the number of a filter and our answer, that of ours above it.
    ours: HashMap<(u32, u32), u32>,
}

impl Filters {
    fn read(source: &ImageDir<'_>) -> Result<Self, Refused> {
        let image = source.read(FILTERS)?;
        if image.records.len() != 1 {
            return Err(Refused::Contradiction);
        }
        Ok(Self { image, ours: HashMap::new() })
    }

    /// Puts ours above those that a thread names, if it does; the flags of its own.
    fn put_on(&mut self, name: &str, core: &mut Image, answer: u32) -> Result<Option<u64>, Refused> {
        let wrong = |why| malformed(name, why);
        let [core] = core.records.as_mut_slice() else { return Err(Refused::Contradiction) };
        let thread = Message::read(core.bytes(thread::CORE).ok_or(Refused::Contradiction)?).map_err(wrong)?;
        if thread.number(thread::MODE) != Some(thread::FILTERED) {
            return Ok(None);
        }
        let (ours, flags) = self.above(thread.need_u32(thread::FILTER).map_err(wrong)?, answer)?;
        let named = core.change_each(thread::CORE, |mut thread| {
            thread.set_number(thread::FILTER, u64::from(ours));
            Ok(Some(thread))
        });
        named.map_err(wrong)?;
        Ok(Some(flags))
    }

    /// The number of ours above a filter, and the flags of that one, which ours has too.
    fn above(&mut self, below: u32, answer: u32) -> Result<(u32, u64), Refused> {
        let [list] = self.image.records.as_mut_slice() else { return Err(Refused::Contradiction) };
        let theirs = list.all_bytes(filter::EACH).nth(below as usize).ok_or(Refused::Contradiction)?;
        let flags = Message::read(theirs).map_err(|why| malformed(FILTERS, why))?.number(filter::FLAGS);
        let flags = flags.unwrap_or(0);
        if let Some(ours) = self.ours.get(&(below, answer)) {
            return Ok((*ours, flags));
        }
        let number =
            u32::try_from(list.all_bytes(filter::EACH).count()).map_err(|_| Refused::Contradiction)?;
        let mut ours = Message::default();
        ours.push_bytes(filter::PROGRAM, &program(answer).ok_or(Refused::Contradiction)?);
        ours.set_number(filter::BELOW, u64::from(below));
        ours.set_number(filter::FLAGS, flags);
        list.push_bytes(filter::EACH, &ours.write());
        self.ours.insert((below, answer), number);
        Ok((number, flags))
    }
}

/// The filter, as the kernel takes it: instructions of classic BPF about a `seccomp_data`.
fn program(answer: u32) -> Option<Vec<u8>> {
    const LOAD: u16 = 0x20;
    const IS: u16 = 0x15;
    const ANSWER: u16 = 0x06;
    // Where things lie in a `seccomp_data`; of the third argument, which is an `int`, the lower half.
    const NUMBER: u32 = 0;
    const ARCHITECTURE: u32 = 4;
    const ADVICE: u32 = if cfg!(target_endian = "little") { 32 } else { 36 };
    const ALLOW: u32 = 0x7fff_0000;

    let (architecture, call) = CALL?;
    let [one, two, three] = GIVING_UP;
    // How many instructions to pass over if it is so, and if it is not.
    let instructions: [(u16, u8, u8, u32); 9] = [
        (LOAD, 0, 0, ARCHITECTURE),
        (IS, 0, 6, architecture),
        (LOAD, 0, 0, NUMBER),
        (IS, 0, 4, call),
        (LOAD, 0, 0, ADVICE),
        (IS, 3, 0, one),
        (IS, 2, 0, two),
        (IS, 1, 0, three),
        (ANSWER, 0, 0, ALLOW),
    ];
    let answered = (ANSWER, 0, 0, answer);
    let bytes = instructions.into_iter().chain([answered]).flat_map(|(what, yes, no, value)| {
        let mut bytes = [0; 8];
        bytes[..2].copy_from_slice(&what.to_ne_bytes());
        bytes[2..4].copy_from_slice(&[yes, no]);
        bytes[4..].copy_from_slice(&value.to_ne_bytes());
        bytes
    });
    Some(bytes.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel makes of a call, by the rules of `bpf(4)` for the three kinds of instruction there are.
    fn of_kernel(architecture: u32, call: u32, advice: u64) -> u32 {
        let mut data = [0; 64];
        data[..4].copy_from_slice(&call.to_ne_bytes());
        data[4..8].copy_from_slice(&architecture.to_ne_bytes());
        data[32..40].copy_from_slice(&advice.to_ne_bytes());
        let number = |bytes: &[u8], at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
        let program = program(ANSWERED | ENOSYS).unwrap();
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
    fn only_what_gives_memory_up_is_answered() {
        let (architecture, call) = CALL.unwrap();
        for advice in 0..64 {
            let expected = if GIVING_UP.contains(&advice) { 0x5_0026 } else { 0x7fff_0000 };
            // Of an `int` the upper half is anything.
            for above in [0, 0xffff_ffff_u64 << 32] {
                assert_eq!(of_kernel(architecture, call, above | u64::from(advice)), expected, "{advice}");
            }
            assert_eq!(of_kernel(architecture, call + 1, u64::from(advice)), 0x7fff_0000, "{advice}");
            assert_eq!(of_kernel(0x4000_0003, call, u64::from(advice)), 0x7fff_0000, "{advice}");
        }
    }
}
