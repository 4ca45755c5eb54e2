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
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use memchr::memmem::Finder;

use super::madvise_filter;
use super::zero_reliance::{AllocatorReport, ZeroReliance};
use crate::runtime::containerd::checkpoint::procfs;

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

/// Bytes of a file that are searched at a time.
const CHUNK_BYTES: usize = 1 << 20;

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

/// A search for a text, and the allocator that the text belongs to.
type Marker = (Finder<'static>, &'static str);

fn markers() -> Vec<Marker> {
    let forwards = |text: &[u8]| text.iter().rev().copied().collect::<Vec<_>>();
    let marker =
        |(text, allocator): &(&[u8], &'static str)| (Finder::new(&forwards(text)).into_owned(), *allocator);
    REVERSED_MARKERS.iter().map(marker).collect()
}

/// Searches the code of processes for allocators that rely on zeros. Processes that ended meanwhile are left out.
///
/// # Errors
/// Why the processes must not share memory: an allocator does not work with that, two in one process need different
/// filters, or a process cannot be examined.
pub(crate) fn scan_allocators(processes: &[u32]) -> Result<AllocatorReport, String> {
    let markers = markers();
    let (mut report, mut scanned) = (HashMap::new(), HashMap::new());
    for pid in processes {
        let proc = Path::new("/proc").join(pid.to_string());
        let read = fs::read_to_string(proc.join("status"))
            .and_then(|status| Ok((status, fs::read_to_string(proc.join("maps"))?)));
        let (status, maps) = match read {
            Ok(read) => read,
            // The process has ended: `ENOENT` or `ESRCH`.
            Err(error) if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(3) => {
                continue;
            }
            Err(error) => return Err(format!("cannot examine process {pid}: {error}")),
        };
        let mut found: Option<(&str, ZeroReliance)> = None;
        for code in maps.lines().filter_map(MappedCode::read) {
            let file = (code.device.to_owned(), code.inode.to_owned());
            let allocators = match scanned.entry(file) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(unknown) => unknown.insert(code.allocators(&proc, &markers)?),
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
        let number = procfs::innermost_pid(&status).ok_or_else(|| format!("process {pid} has no number"))?;
        report.insert(number, found.map_or(ZeroReliance::Unfiltered, |(_, reliance)| reliance));
    }
    Ok(report.into())
}

/// Code that a process has mapped from a file.
struct MappedCode<'a> {
    range: &'a str,
    device: &'a str,
    inode: &'a str,
    path: &'a str,
}

impl<'a> MappedCode<'a> {
    /// Reads a line of a process's `maps`; `None` if it is no code from a file.
    fn read(line: &'a str) -> Option<Self> {
        let mut words = line.splitn(6, ' ');
        let (range, permissions) = (words.next()?, words.next()?);
        let (_offset, device, inode) = (words.next()?, words.next()?, words.next()?);
        let path = words.next()?.trim_start();
        (permissions.contains('x') && path.starts_with('/')).then_some(Self { range, device, inode, path })
    }

    /// Returns the allocators in the file that rely on zeros.
    fn allocators(&self, proc: &Path, markers: &[Marker]) -> Result<BTreeSet<&'static str>, String> {
        let found = self.open(proc).and_then(|file| search(file, markers));
        let mut allocators = found.map_err(|error| format!("cannot examine {}: {error}", self.path))?;
        allocators.extend(allocator_of_library(self.path));
        Ok(allocators)
    }

    fn open(&self, proc: &Path) -> io::Result<File> {
        // This link leads to the mapped file, even if another file has that path by now.
        let file = File::open(proc.join("map_files").join(self.range));
        file.or_else(|_| File::open(proc.join("root").join(self.path.trim_start_matches('/'))))
    }
}

/// Returns the allocator whose library has this path.
fn allocator_of_library(path: &str) -> Option<&'static str> {
    let name = path.rsplit('/').next()?;
    LIBRARIES.iter().find(|(library, _)| name.starts_with(library)).map(|(_, allocator)| *allocator)
}

/// Returns the allocators whose texts are in a file.
fn search(mut file: impl Read, markers: &[Marker]) -> io::Result<BTreeSet<&'static str>> {
    // A text may begin in one chunk and end in the next, so the end of each chunk is searched again with the next.
    let overlap = REVERSED_MARKERS.iter().map(|(text, _)| text.len()).max().unwrap_or(0);
    let (mut buffer, mut allocators) = (Vec::with_capacity(CHUNK_BYTES + overlap), BTreeSet::new());
    loop {
        let read = (&mut file).take(CHUNK_BYTES as u64).read_to_end(&mut buffer)?;
        if read == 0 {
            return Ok(allocators);
        }
        let found = markers.iter().filter(|(text, _)| text.find(&buffer).is_some());
        allocators.extend(found.map(|(_, allocator)| *allocator));
        buffer.drain(..buffer.len().saturating_sub(overlap));
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn mapped_code_is_found_in_maps() {
        let code = "7f10-7f20 r-xp 00001000 fe:00 12345                      /usr/lib/a b.so";
        let found = MappedCode::read(code).unwrap();
        assert_eq!((found.range, found.inode, found.path), ("7f10-7f20", "12345", "/usr/lib/a b.so"));
        for other in [
            "7f10-7f20 rw-p 00001000 fe:00 12345 /usr/lib/a.so",
            "7f10-7f20 r-xp 00000000 00:00 0 [vdso]",
            "7f10-7f20 rwxp 00000000 00:00 0",
            "",
        ] {
            assert!(MappedCode::read(other).is_none(), "{other}");
        }
    }

    #[test]
    fn a_library_is_recognized_by_its_name() {
        assert_eq!(allocator_of_library("/usr/lib/libjemalloc.so.2"), Some("jemalloc"));
        assert_eq!(allocator_of_library("/usr/lib/libc.so.6"), None);
    }

    #[test]
    fn a_text_is_found_wherever_it_is_in_a_file() {
        let markers = markers();
        for at in [0, 5, CHUNK_BYTES - 6, CHUNK_BYTES - 1, CHUNK_BYTES, 2 * CHUNK_BYTES - 3] {
            let mut bytes = vec![b'.'; at];
            bytes.extend(b"<jemalloc>: ");
            bytes.extend(b" max-old-space-size");
            assert_eq!(
                search(bytes.as_slice(), &markers).unwrap(),
                BTreeSet::from(["jemalloc", "V8"]),
                "{at}"
            );
        }
        // Texts in MariaDB, which uses none of these allocators.
        assert!(search(b"jemalloc tcmalloc %s.%d.%d".as_slice(), &markers).unwrap().is_empty());
    }

    #[test]
    fn this_program_contains_no_text_of_an_allocator() {
        let program = File::open(std::env::current_exe().unwrap()).unwrap();
        // The tests contain some.
        let expected = BTreeSet::from(["jemalloc", "V8"]);
        assert!(search(program, &markers()).unwrap().is_subset(&expected));
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
