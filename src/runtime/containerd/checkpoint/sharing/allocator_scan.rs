//! Finds the memory allocators of an app's processes, to decide whether they may share memory.
//!
//! When an allocator discards memory with `MADV_DONTNEED`, anonymous memory becomes zero, but a private mapping of a
//! file becomes what the file holds. Most allocators work with that: they promise nothing about the memory that they
//! return, or clear it. Those that rely on zeros are recognized by the names of their libraries, or by texts in every
//! program that they are linked into. Some of these also work with memory that cannot be discarded; their instances get
//! a seccomp filter (`madvise_filter`).
//!
//! # Traps
//! Which filter a process gets depends on the allocator, see [`reliance_of`]. An allocator belongs there only if its
//! source shows that it works with that filter; the comment names the place in the source.
//!
//! The texts in [`REVERSED_MARKERS`] are written backwards. This program is also the sample app: written forwards, all
//! of them would be in its binary, and the scan would find every allocator in it.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};

use super::madvise_filter;
use super::zero_reliance::{AllocatorReport, ZeroReliance};
use crate::runtime::containerd::checkpoint::mapped_code::{MappedCode, Markers, ProcessCode};

/// What the file names of libraries begin with, and the allocator in them.
const LIBRARIES: [(&str, &str); 6] = [
    ("libjemalloc", "jemalloc"),
    ("libtcmalloc", "tcmalloc"),
    ("libmimalloc", "mimalloc"),
    ("libcoreclr", ".NET"),
    ("libclrgc", ".NET"),
    ("libnode", "V8"),
];

/// Texts in programs and libraries, written backwards, and the allocator that they belong to. The names of the
/// allocators would not suffice: MariaDB contains all of them and uses none.
const REVERSED_MARKERS: [(&[u8], &str); 9] = [
    (b" :>collamej<", "jemalloc"),
    (b"collam_mejr_", "jemalloc"),
    (b"SETYB_EHCAC_DAERHT_LATOT_XAM_COLLAMCT", "tcmalloc"),
    (b"colla egral :collamct", "tcmalloc"),
    (b" :collamim", "mimalloc"),
    (b":fnidliub oG \xff", "Go"),
    (b"ezis-ecaps-dlo-xam", "V8"),
    (b"ezis_ecaps_dlo_xam", "V8"),
    (b"collam_egap_sap", "JavaScriptCore"),
];

/// Returns how an allocator that relies on zeros works with memory that is not discarded; `None` if that is not known.
fn reliance_of(allocator: &str) -> Option<ZeroReliance> {
    match allocator {
        // `DiscardSystemPages` in its `include/v8-platform.h` is "a hint". A failure ends the process, and memory that
        // must be zero is mapped anew.
        "V8" => Some(ZeroReliance::Hint),
        // `sysUnusedOS` in its `src/runtime/mem_linux.go` maps anew what cannot be discarded.
        "Go" => Some(ZeroReliance::Checked),
        // `pages_purge_forced` and `pages_purge_lazy` in its `src/pages.c` return whether the discard worked, and
        // memory that was not purged does not count as zero.
        "jemalloc" => Some(ZeroReliance::Checked),
        _ => None,
    }
}

/// Searches the code of processes for allocators that rely on zeros. Processes that ended meanwhile are left out.
///
/// # Errors
/// Why the processes must not share memory: an allocator does not work with that, two in one process need different
/// filters, or a process cannot be examined.
pub(crate) fn scan_allocators(processes: &[u32]) -> Result<AllocatorReport, String> {
    let markers = Markers::from_reversed(&REVERSED_MARKERS);
    let (mut report, mut scanned) = (HashMap::new(), HashMap::new());
    for pid in processes {
        let Some(process) = ProcessCode::read(*pid)? else { continue };
        let mut found: Option<(&str, ZeroReliance)> = None;
        for code in process.files() {
            let allocators = match scanned.entry(code.file()) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(unknown) => unknown.insert(allocators_in(&code, &process, &markers)?),
            };
            for allocator in allocators.iter() {
                let Some(reliance) = reliance_of(allocator).filter(|_| madvise_filter::IS_SUPPORTED) else {
                    return Err(format!("{} has {allocator}, which may rely on zeros", code.path));
                };
                match found {
                    Some((other, unlike)) if unlike != reliance => {
                        return Err(format!(
                            "{} has {allocator}, and {other} is in the same process",
                            code.path
                        ));
                    }
                    _ => found = Some((allocator, reliance)),
                }
            }
        }
        report.insert(process.number(), found.map_or(ZeroReliance::Unfiltered, |(_, reliance)| reliance));
    }
    Ok(report.into())
}

/// Returns the allocators in a file that rely on zeros.
fn allocators_in(
    code: &MappedCode<'_>,
    process: &ProcessCode,
    markers: &Markers,
) -> Result<BTreeSet<&'static str>, String> {
    let found = process.open(code).and_then(|file| markers.search(file));
    let mut allocators = found.map_err(|error| format!("cannot examine {}: {error}", code.path))?;
    allocators.extend(allocator_of_library(code.path));
    Ok(allocators)
}

/// Returns the allocator whose library has this path.
fn allocator_of_library(path: &str) -> Option<&'static str> {
    let name = path.rsplit('/').next()?;
    LIBRARIES.iter().find(|(library, _)| name.starts_with(library)).map(|(_, allocator)| *allocator)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_library_is_recognized_by_its_name() {
        assert_eq!(allocator_of_library("/usr/lib/libjemalloc.so.2"), Some("jemalloc"));
        assert_eq!(allocator_of_library("/usr/lib/libc.so.6"), None);
    }

    #[test]
    fn the_names_of_allocators_alone_are_no_texts_of_them() {
        // Texts in MariaDB, which uses none of these allocators.
        let search = |text: &[u8]| Markers::from_reversed(&REVERSED_MARKERS).search(text).unwrap();
        assert!(search(b"jemalloc tcmalloc %s.%d.%d").is_empty());
        assert_eq!(search(b"<jemalloc>: , max-old-space-size"), BTreeSet::from(["jemalloc", "V8"]));
    }

    #[test]
    fn this_program_contains_no_text_of_an_allocator() {
        let program = File::open(std::env::current_exe().unwrap()).unwrap();
        // The tests contain some.
        let expected = BTreeSet::from(["jemalloc", "V8"]);
        let markers = Markers::from_reversed(&REVERSED_MARKERS);
        assert!(markers.search(program).unwrap().is_subset(&expected));
    }

    #[test]
    fn a_shell_needs_no_filter() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo; read line"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut shell = command.spawn().unwrap();
        // Before its first output the process may still execute this program.
        shell.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        let pid = shell.id();
        let report = scan_allocators(&[pid]);
        drop(shell.stdin.take());
        shell.wait().unwrap();
        assert_eq!(report.unwrap().of(pid), Some(ZeroReliance::Unfiltered));
    }

    #[test]
    fn a_process_that_has_ended_is_left_out() {
        assert!(scan_allocators(&[u32::MAX >> 1]).unwrap().is_empty());
    }
}
