//! The address ranges that an app's processes discarded, read from the kernel's trace. Pure.
//!
//! Discarded memory is zero when it is used again, or may be. A private mapping of a file would hold the content of the
//! file there, so whole mappings with such memory are not shared: the app may discard it again.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use super::zero_reliance::ZeroReliance;

/// The trace events to enable, each with its filter.
pub(super) const EVENTS: [(&str, &str); 3] = [
    // MADV_DONTNEED, MADV_FREE, MADV_REMOVE and MADV_DONTNEED_LOCKED.
    ("sys_enter_madvise", "behavior == 4 || behavior == 8 || behavior == 9 || behavior == 24"),
    // A mapping that shrinks is zero where it grows again.
    ("sys_enter_mremap", ""),
    ("sys_exit_mremap", ""),
];

/// The flag of `mremap` that leaves an empty mapping where one was moved away.
const MREMAP_DONTUNMAP: u64 = 4;

/// The first result of a system call that is an error instead of an address.
const FIRST_ERROR: u64 = u64::MAX - 4095;

/// Address ranges that any process of an app discarded. The process is not recorded: not to share a few mappings more
/// costs little.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct DiscardedRanges {
    /// The ranges of calls of `madvise`.
    advised: Ranges,
    /// The ranges that are empty, or may become so, because a mapping was moved or has shrunk.
    moved: Ranges,
}

/// Disjoint address ranges that do not touch each other: for each start its end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Ranges(BTreeMap<u64, u64>);

impl DiscardedRanges {
    /// Reads a trace.
    ///
    /// # Errors
    /// The first line that is no event of [`EVENTS`].
    pub(super) fn read(trace: &str) -> Result<Self, String> {
        let mut found = Self::default();
        let mut pending = HashMap::new();
        for line in trace.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()) {
            match TraceEvent::read(line).ok_or_else(|| line.trim().to_owned())? {
                TraceEvent::Madvise { start, length } => found.advised.add(start, length),
                TraceEvent::MremapEnter { thread, call } => _ = pending.insert(thread, call),
                TraceEvent::MremapExit { thread, to } => {
                    // A call that began before the trace was another program's.
                    let Some([from, old, new, flags]) = pending.remove(&thread) else { continue };
                    if to >= FIRST_ERROR {
                        continue;
                    }
                    let before = from..from.saturating_add(old);
                    let leaves_empty = new < old || flags & MREMAP_DONTUNMAP != 0;
                    for (ranges, is_empty) in [(&mut found.advised, false), (&mut found.moved, leaves_empty)]
                    {
                        if is_empty || ranges.overlaps(&before) {
                            ranges.add(from, old);
                            ranges.add(to, new);
                        }
                    }
                }
            }
        }
        Ok(found)
    }

    /// Whether any of a mapping was discarded, so that a process with this reliance must not share it.
    pub(super) fn has_unshareable(&self, mapping: &Range<u64>, reliance: ZeroReliance) -> bool {
        self.moved.overlaps(mapping) || reliance == ZeroReliance::Unfiltered && self.advised.overlaps(mapping)
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

    fn overlaps(&self, range: &Range<u64>) -> bool {
        self.0.range(..range.end).next_back().is_some_and(|(_, until)| *until > range.start)
    }
}

/// One line of the trace.
enum TraceEvent {
    Madvise {
        start: u64,
        length: u64,
    },
    /// `mremap` was called with this address, old length, new length and flags.
    MremapEnter {
        thread: u64,
        call: [u64; 4],
    },
    /// `mremap` returned this address or error.
    MremapExit {
        thread: u64,
        to: u64,
    },
}

impl TraceEvent {
    /// Reads `name-thread [cpu] flags time: sys_call(argument: number, ...)`, or `... sys_call -> number`. The app
    /// chooses the name, which may hold any of this.
    fn read(line: &str) -> Option<Self> {
        let (head, call) = line.rsplit_once(": sys_")?;
        let thread = head.rsplit_once(" [")?.0.trim_end().rsplit_once('-')?.1.parse().ok()?;
        if let Some(to) = call.strip_prefix("mremap -> ") {
            return Some(Self::MremapExit { thread, to: number(to)? });
        }
        let (name, arguments) = call.split_once('(')?;
        let arguments = arguments.trim_end().strip_suffix(')')?.split(", ");
        let arguments: Vec<u64> =
            arguments.map(|argument| number(argument.split_once(": ")?.1)).collect::<Option<_>>()?;
        match (name, arguments.as_slice()) {
            ("madvise", &[start, length, _]) => Some(Self::Madvise { start, length }),
            ("mremap", &[from, old, new, flags, _]) => {
                Some(Self::MremapEnter { thread, call: [from, old, new, flags] })
            }
            _ => None,
        }
    }
}

/// Reads a hexadecimal number, as the kernel writes it: with or without `0x`.
fn number(text: &str) -> Option<u64> {
    let text = text.trim();
    u64::from_str_radix(text.strip_prefix("0x").unwrap_or(text), 16).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ranges(trace: &str) -> Vec<(u64, u64)> {
        let found = DiscardedRanges::read(trace).unwrap();
        let mut all = found.advised;
        found.moved.0.iter().for_each(|(start, end)| all.add(*start, end - start));
        all.0.into_iter().collect()
    }

    #[test]
    fn madvise_calls_are_read_from_the_trace() {
        let trace = "# tracer: nop\n#\n\
             \x20              t-2722    [000] ..... 46563.985342: sys_madvise(start: 0x7fad5c78e000, len_in: 0x1000, behavior: 4)\n\
             \x20   a b: [x-1-2820    [001] ..... 46563.985506: sys_madvise(start: 7fad5c790000, len_in: 2000, behavior: 8)\n";
        assert_eq!(
            ranges(trace),
            [(0x7fad_5c78_e000, 0x7fad_5c78_f000), (0x7fad_5c79_0000, 0x7fad_5c79_2000)]
        );
    }

    /// The trace of two threads, one of which has the other's number as its name.
    fn moves(flags: u64, old: u64, new: u64, to: u64) -> String {
        format!(
            "x-7 [000] ..... 1.0: sys_mremap(addr: 0x10000, old_len: {old:#x}, new_len: {new:#x}, flags: {flags:#x}, new_addr: 0x0)\n\
             7-8 [001] ..... 1.1: sys_mremap(addr: 0x90000, old_len: 0x1000, new_len: 0x2000, flags: 1, new_addr: 0)\n\
             x-7 [001] ..... 1.2: sys_mremap -> {to:#x}\n\
             7-8 [001] ..... 1.3: sys_mremap -> 0x90000\n"
        )
    }

    #[test]
    fn a_mapping_that_shrank_or_left_an_empty_one_is_discarded_and_one_that_grew_is_not() {
        assert_eq!(ranges(&moves(1, 0x3000, 0x8000, 0x50000)), []);
        assert_eq!(ranges(&moves(1, 0x8000, 0x3000, 0x10000)), [(0x10000, 0x18000)]);
        assert_eq!(ranges(&moves(5, 0x3000, 0x3000, 0x50000)), [(0x10000, 0x13000), (0x50000, 0x53000)]);
        // The call failed.
        assert_eq!(ranges(&moves(1, 0x8000, 0x3000, (-22_i64).cast_unsigned())), []);
    }

    #[test]
    fn discarded_memory_stays_discarded_after_a_move() {
        let first = "x-7 [000] ..... 0.9: sys_madvise(start: 0x11000, len_in: 0x1000, behavior: 4)\n";
        let trace = first.to_owned() + &moves(1, 0x3000, 0x8000, 0x50000);
        assert_eq!(ranges(&trace), [(0x10000, 0x13000), (0x50000, 0x58000)]);
    }

    #[test]
    fn a_process_that_discards_by_hints_may_share_advised_memory_but_not_moved_memory() {
        let advised = "x-7 [000] ..... 0.9: sys_madvise(start: 0x91000, len_in: 0x1000, behavior: 4)\n";
        let found =
            DiscardedRanges::read(&(advised.to_owned() + &moves(1, 0x8000, 0x3000, 0x10000))).unwrap();
        for (range, unfiltered, hint) in [(0x91000..0x92000, true, false), (0x10000..0x11000, true, true)] {
            assert_eq!(found.has_unshareable(&range, ZeroReliance::Unfiltered), unfiltered, "{range:?}");
            assert_eq!(found.has_unshareable(&range, ZeroReliance::Hint), hint, "{range:?}");
        }
    }

    #[test]
    fn a_line_that_is_no_known_event_is_an_error() {
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
        #![proptest_config(crate::proptest_config())]

        #[test]
        fn exactly_the_added_ranges_overlap(
            added in prop::collection::vec((0_u64..60, 0_u64..9), 0..12),
            asked in (0_u64..70, 1_u64..9),
        ) {
            let mut all = Ranges::default();
            added.iter().for_each(|(start, length)| all.add(*start, *length));
            let asked = asked.0..asked.0 + asked.1;
            let expected = added.iter().any(|(start, length)| *start < asked.end && asked.start < start + length && *length > 0);
            prop_assert_eq!(all.overlaps(&asked), expected);
        }

        #[test]
        fn no_trace_panics(trace in "(x-7 \\[0\\] \\. 1: sys_(mremap|madvise)( -> |\\(a: )[0-9a-fx]{0,17}(, b: [0-9a-f]{0,17}){0,5}\\)?\n){0,6}") {
            let _ = DiscardedRanges::read(&trace);
        }
    }
}
