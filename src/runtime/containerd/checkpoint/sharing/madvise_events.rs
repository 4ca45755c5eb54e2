//! Which memory an app gave up while it was watched, by the kernel's own notes. Pure.
//!
//! What is given up is zero when it is used again, or may be. A mapping of a file would hold there what the file does, so
//! such memory is not shared: it may be given up again.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use super::allocator_scan::ZeroReliance;

/// The events to note, and what makes one of interest.
pub(super) const EVENTS: [(&str, &str); 3] = [
    // MADV_DONTNEED, MADV_FREE, MADV_REMOVE and MADV_DONTNEED_LOCKED.
    ("sys_enter_madvise", "behavior == 4 || behavior == 8 || behavior == 9 || behavior == 24"),
    // A mapping that is made smaller is zero where it grows again.
    ("sys_enter_mremap", ""),
    ("sys_exit_mremap", ""),
];

/// Leaves an empty mapping where one was moved away.
const DONTUNMAP: u64 = 4;

/// Addresses from here on are errors, told by a call in the place of one.
const ERRORS: u64 = u64::MAX - 4095;

/// Addresses, whichever process they are of: to be too careful about a few costs little.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct DiscardedRanges {
    /// What the kernel was told of by `madvise`.
    advised: Ranges,
    /// What is empty where a mapping was moved or has shrunk, or may come to be.
    moved: Ranges,
}

/// Addresses by where they begin, and where they end. None touch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Ranges(BTreeMap<u64, u64>);

impl DiscardedRanges {
    /// Reads the notes.
    ///
    /// # Errors
    /// The first line that says nothing known.
    pub(super) fn read(notes: &str) -> Result<Self, String> {
        let mut found = Self::default();
        let mut begun = HashMap::new();
        for line in notes.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()) {
            match Note::read(line).ok_or_else(|| line.trim().to_owned())? {
                Note::Advised { start, length } => found.advised.add(start, length),
                Note::Moves { thread, call } => _ = begun.insert(thread, call),
                Note::Moved { thread, to } => {
                    // One that began before it was watched was another program's.
                    let Some([from, old, new, flags]) = begun.remove(&thread) else { continue };
                    if to >= ERRORS {
                        continue;
                    }
                    let was = from..from.saturating_add(old);
                    let leaves = new < old || flags & DONTUNMAP != 0;
                    for (ranges, also) in [(&mut found.advised, false), (&mut found.moved, leaves)] {
                        if also || ranges.touch(&was) {
                            ranges.add(from, old);
                            ranges.add(to, new);
                        }
                    }
                }
            }
        }
        Ok(found)
    }

    /// Whether any of it was, by a process of this habit.
    pub(super) fn touches(&self, range: &Range<u64>, habit: ZeroReliance) -> bool {
        self.moved.touch(range) || habit == ZeroReliance::Plain && self.advised.touch(range)
    }
}

impl Ranges {
    fn add(&mut self, start: u64, length: u64) {
        let (mut start, mut end) = (start, start.saturating_add(length));
        while let Some((&other, &until)) =
            self.0.range(..=end).next_back().filter(|(_, until)| **until >= start)
        {
            self.0.remove(&other);
            (start, end) = (start.min(other), end.max(until));
        }
        if start < end {
            self.0.insert(start, end);
        }
    }

    fn touch(&self, range: &Range<u64>) -> bool {
        self.0.range(..range.end).next_back().is_some_and(|(_, until)| *until > range.start)
    }
}

/// What one line says.
enum Note {
    Advised {
        start: u64,
        length: u64,
    },
    /// A call of `mremap`: address, old length, new length, flags.
    Moves {
        thread: u64,
        call: [u64; 4],
    },
    /// Its end.
    Moved {
        thread: u64,
        to: u64,
    },
}

impl Note {
    /// Reads `name-thread [processor] flags time: sys_call(argument: number, ...)`, or `... sys_call -> number`. The name
    /// is the app's choice.
    fn read(line: &str) -> Option<Self> {
        let (head, call) = line.rsplit_once(": sys_")?;
        let thread = head.rsplit_once(" [")?.0.trim_end().rsplit_once('-')?.1.parse().ok()?;
        if let Some(to) = call.strip_prefix("mremap -> ") {
            return Some(Self::Moved { thread, to: number(to)? });
        }
        let (name, arguments) = call.split_once('(')?;
        let arguments = arguments.trim_end().strip_suffix(')')?.split(", ");
        let arguments: Vec<u64> =
            arguments.map(|argument| number(argument.split_once(": ")?.1)).collect::<Option<_>>()?;
        match (name, arguments.as_slice()) {
            ("madvise", &[start, length, _]) => Some(Self::Advised { start, length }),
            ("mremap", &[from, old, new, flags, _]) => {
                Some(Self::Moves { thread, call: [from, old, new, flags] })
            }
            _ => None,
        }
    }
}

/// The kernel writes hexadecimal numbers, some with what says so before them.
fn number(text: &str) -> Option<u64> {
    let text = text.trim();
    u64::from_str_radix(text.strip_prefix("0x").unwrap_or(text), 16).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ranges(notes: &str) -> Vec<(u64, u64)> {
        let found = DiscardedRanges::read(notes).unwrap();
        let mut all = found.advised;
        found.moved.0.iter().for_each(|(start, end)| all.add(*start, end - start));
        all.0.into_iter().collect()
    }

    #[test]
    fn what_the_kernel_notes_is_understood() {
        let notes = "# tracer: nop\n#\n\
             \x20              t-2722    [000] ..... 46563.985342: sys_madvise(start: 0x7fad5c78e000, len_in: 0x1000, behavior: 4)\n\
             \x20   a b: [x-1-2820    [001] ..... 46563.985506: sys_madvise(start: 7fad5c790000, len_in: 2000, behavior: 8)\n";
        assert_eq!(
            ranges(notes),
            [(0x7fad_5c78_e000, 0x7fad_5c78_f000), (0x7fad_5c79_0000, 0x7fad_5c79_2000)]
        );
    }

    /// The notes of two threads, one of which has the other's number as its name.
    fn moves(flags: u64, old: u64, new: u64, to: u64) -> String {
        format!(
            "x-7 [000] ..... 1.0: sys_mremap(addr: 0x10000, old_len: {old:#x}, new_len: {new:#x}, flags: {flags:#x}, new_addr: 0x0)\n\
             7-8 [001] ..... 1.1: sys_mremap(addr: 0x90000, old_len: 0x1000, new_len: 0x2000, flags: 1, new_addr: 0)\n\
             x-7 [001] ..... 1.2: sys_mremap -> {to:#x}\n\
             7-8 [001] ..... 1.3: sys_mremap -> 0x90000\n"
        )
    }

    #[test]
    fn a_mapping_that_shrank_or_left_an_empty_one_counts_and_one_that_grew_does_not() {
        assert_eq!(ranges(&moves(1, 0x3000, 0x8000, 0x50000)), []);
        assert_eq!(ranges(&moves(1, 0x8000, 0x3000, 0x10000)), [(0x10000, 0x18000)]);
        assert_eq!(ranges(&moves(5, 0x3000, 0x3000, 0x50000)), [(0x10000, 0x13000), (0x50000, 0x53000)]);
        // It failed.
        assert_eq!(ranges(&moves(1, 0x8000, 0x3000, (-22_i64).cast_unsigned())), []);
    }

    #[test]
    fn what_was_given_up_still_is_after_a_move() {
        let first = "x-7 [000] ..... 0.9: sys_madvise(start: 0x11000, len_in: 0x1000, behavior: 4)\n";
        let notes = first.to_owned() + &moves(1, 0x3000, 0x8000, 0x50000);
        assert_eq!(ranges(&notes), [(0x10000, 0x13000), (0x50000, 0x58000)]);
    }

    #[test]
    fn whoever_gives_up_by_hints_has_what_it_told_the_kernel_of_but_not_what_it_moved() {
        let advised = "x-7 [000] ..... 0.9: sys_madvise(start: 0x91000, len_in: 0x1000, behavior: 4)\n";
        let found =
            DiscardedRanges::read(&(advised.to_owned() + &moves(1, 0x8000, 0x3000, 0x10000))).unwrap();
        for (range, plain, hints) in [(0x91000..0x92000, true, false), (0x10000..0x11000, true, true)] {
            assert_eq!(found.touches(&range, ZeroReliance::Plain), plain, "{range:?}");
            assert_eq!(found.touches(&range, ZeroReliance::Hints), hints, "{range:?}");
        }
    }

    #[test]
    fn a_line_that_says_nothing_known_is_an_error() {
        for line in [
            "CPU:1 [LOST 12 EVENTS]",
            "x-7 [000] ..... 1.0: sys_mremap(addr: 0x1)",
            "x-7 [000] ..... 1.0: sys_munmap(addr: 0x1, len: 0x2)",
            "x-7 [000] ..... 1.0: sys_madvise(start: zero, len_in: 0x1000, behavior: 4)",
            "sys_madvise(start: 0x0, len_in: 0x1000, behavior: 4)",
        ] {
            assert_eq!(DiscardedRanges::read(line), Err(line.to_owned()));
        }
    }

    proptest! {
        #[test]
        fn exactly_what_was_added_is_touched(
            added in prop::collection::vec((0_u64..60, 0_u64..9), 0..12),
            asked in (0_u64..70, 1_u64..9),
        ) {
            let mut all = Ranges::default();
            added.iter().for_each(|(start, length)| all.add(*start, *length));
            let asked = asked.0..asked.0 + asked.1;
            let expected = added.iter().any(|(start, length)| *start < asked.end && asked.start < start + length && *length > 0);
            prop_assert_eq!(all.touch(&asked), expected);
        }

        #[test]
        fn nothing_that_may_be_noted_panics(notes in "(x-7 \\[0\\] \\. 1: sys_(mremap|madvise)( -> |\\(a: )[0-9a-fx]{0,17}(, b: [0-9a-f]{0,17}){0,5}\\)?\n){0,6}") {
            let _ = DiscardedRanges::read(&notes);
        }
    }
}
