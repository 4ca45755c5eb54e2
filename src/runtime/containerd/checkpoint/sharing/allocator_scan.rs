//! Whether an app's processes may share their memory: what is mapped from a file does not turn to zeros when an allocator
//! gives it up with `MADV_DONTNEED`, it turns to what the file holds. Most allocators do not mind, for they promise
//! nothing about what they hand out, or clear it themselves. Those that count on zeros are known by their files' names,
//! or by words that every program holds which they were linked into. Some of those get along with memory that cannot be
//! given up, and hear as much in copies (`advice`).

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use memchr::memmem::Finder;

use super::madvise_events::DiscardedRanges;
use super::madvise_filter;

/// Names of libraries, and whose they are.
const LIBRARIES: [(&str, &str); 6] = [
    ("libjemalloc", "jemalloc"),
    ("libtcmalloc", "tcmalloc"),
    ("libmimalloc", "mimalloc"),
    ("libcoreclr", ".NET"),
    ("libclrgc", ".NET"),
    ("libnode", "V8"),
];

/// Words in programs and libraries, and whose they are. Names alone would be too little: MariaDB names all of them. They
/// are written backwards, or this program, which is the sample app too, would hold every one.
const SDROW: [(&[u8], &str); 9] = [
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

/// Bytes that are looked at together.
const PART: usize = 1 << 20;

/// How a process gives memory up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ZeroReliance {
    /// Whatever it does then was watched, or it does not mind what it finds there afterwards.
    Plain,
    /// As a hint, of which nothing may come: then it finds what was there.
    Hints,
    /// It asks whether that worked, and helps itself or counts on nothing where it did not.
    Asks,
}

/// The habit of those who count on zeros and yet get along with memory that stays as it is; `None` for those of whom that
/// is not known.
fn habit(owner: &str) -> Option<ZeroReliance> {
    match owner {
        // `DiscardSystemPages` in its `include/v8-platform.h` is "a hint", a failure ends it, and what has to be zero it maps
        // anew.
        "V8" => Some(ZeroReliance::Hints),
        // `sysUnusedOS` in its `src/runtime/mem_linux.go` maps anew what cannot be given up.
        "Go" => Some(ZeroReliance::Asks),
        // `pages_purge_forced` and `pages_purge_lazy` in its `src/pages.c` tell whether it worked, and what was not purged
        // does not count as zero.
        "jemalloc" => Some(ZeroReliance::Asks),
        _ => None,
    }
}

/// What is known of an app beyond its images, for copies that share its memory.
#[derive(Debug, Default)]
pub(crate) struct Evidence {
    pub(crate) habits: AllocatorReport,
    pub(crate) given_up: DiscardedRanges,
}

/// The habits of processes, by their numbers in their container.
#[derive(Debug, Default)]
pub(crate) struct AllocatorReport(HashMap<u32, ZeroReliance>);

impl AllocatorReport {
    /// That of a process; `None` if it was not looked at.
    pub(super) fn of(&self, pid: u32) -> Option<ZeroReliance> {
        self.0.get(&pid).copied()
    }
}

impl<I: IntoIterator<Item = (u32, ZeroReliance)>> From<I> for AllocatorReport {
    fn from(of: I) -> Self {
        Self(of.into_iter().collect())
    }
}

/// A word, and whose it is.
type Word = (Finder<'static>, &'static str);

fn finders() -> Vec<Word> {
    let forwards = |word: &[u8]| word.iter().rev().copied().collect::<Vec<_>>();
    SDROW.iter().map(|(word, owner)| (Finder::new(&forwards(word)).into_owned(), *owner)).collect()
}

/// Looks at what these processes are made of.
///
/// # Errors
/// Why they must not share their memory. What cannot be looked at speaks against it.
pub(crate) fn examine(processes: &[u32]) -> Result<AllocatorReport, String> {
    let finders = finders();
    let (mut habits, mut seen) = (HashMap::new(), HashMap::new());
    for pid in processes {
        let proc = Path::new("/proc").join(pid.to_string());
        let looked = fs::read_to_string(proc.join("status"))
            .and_then(|status| Ok((status, fs::read_to_string(proc.join("maps"))?)));
        let (status, maps) = match looked {
            Ok(looked) => looked,
            // It has ended.
            Err(error) if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(3) => {
                continue;
            }
            Err(error) => return Err(format!("process {pid} cannot be looked at: {error}")),
        };
        let mut of_process: Option<(&str, ZeroReliance)> = None;
        for program in maps.lines().filter_map(Mapped::of) {
            let file = (program.device.to_owned(), program.inode.to_owned());
            let owners = match seen.entry(file) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(unknown) => unknown.insert(program.owners(&proc, &finders)?),
            };
            for owner in owners.iter() {
                let Some(habit) = habit(owner).filter(|_| madvise_filter::CAN_BE_ANSWERED) else {
                    return Err(format!("{} has {owner}, which may count on zeros", program.path));
                };
                match of_process {
                    Some((other, unlike)) if unlike != habit => {
                        return Err(format!(
                            "{} has {owner}, and {other} is in the same process",
                            program.path
                        ));
                    }
                    _ => of_process = Some((owner, habit)),
                }
            }
        }
        let inside = inside(&status).ok_or_else(|| format!("process {pid} has no number"))?;
        habits.insert(inside, of_process.map_or(ZeroReliance::Plain, |(_, habit)| habit));
    }
    Ok(habits.into())
}

/// The number of a process in the innermost of its namespaces.
pub(crate) fn inside(status: &str) -> Option<u32> {
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    numbers.split_whitespace().last()?.parse().ok()
}

/// Code that is mapped from a file.
struct Mapped<'a> {
    range: &'a str,
    device: &'a str,
    inode: &'a str,
    path: &'a str,
}

impl<'a> Mapped<'a> {
    /// That of a line of a process's list of mappings.
    fn of(line: &'a str) -> Option<Self> {
        let mut words = line.splitn(6, ' ');
        let (range, rights) = (words.next()?, words.next()?);
        let (_offset, device, inode) = (words.next()?, words.next()?, words.next()?);
        let path = words.next()?.trim_start();
        (rights.contains('x') && path.starts_with('/')).then_some(Self { range, device, inode, path })
    }

    /// Who of those that count on zeros is in there, in order.
    fn owners(&self, proc: &Path, finders: &[Word]) -> Result<BTreeSet<&'static str>, String> {
        let found = self.open(proc).and_then(|file| search(file, finders));
        let mut owners = found.map_err(|error| format!("{} cannot be looked at: {error}", self.path))?;
        owners.extend(library(self.path));
        Ok(owners)
    }

    fn open(&self, proc: &Path) -> io::Result<File> {
        // It leads to what is mapped, whatever has that path by now.
        let file = File::open(proc.join("map_files").join(self.range));
        file.or_else(|_| File::open(proc.join("root").join(self.path.trim_start_matches('/'))))
    }
}

/// Whose library has that path.
fn library(path: &str) -> Option<&'static str> {
    let name = path.rsplit('/').next()?;
    LIBRARIES.iter().find(|(library, _)| name.starts_with(library)).map(|(_, owner)| *owner)
}

/// Whose words are in there.
fn search(mut from: impl Read, finders: &[Word]) -> io::Result<BTreeSet<&'static str>> {
    // What may be the beginning of a word at the end of a part is looked at again with the next.
    let overlap = SDROW.iter().map(|(word, _)| word.len()).max().unwrap_or(0);
    let (mut buffer, mut owners) = (Vec::with_capacity(PART + overlap), BTreeSet::new());
    loop {
        let read = (&mut from).take(PART as u64).read_to_end(&mut buffer)?;
        if read == 0 {
            return Ok(owners);
        }
        owners
            .extend(finders.iter().filter(|(word, _)| word.find(&buffer).is_some()).map(|(_, owner)| *owner));
        buffer.drain(..buffer.len().saturating_sub(overlap));
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn code_that_is_mapped_is_found_in_the_list_of_mappings() {
        let code = "7f10-7f20 r-xp 00001000 fe:00 12345                      /usr/lib/a b.so";
        let found = Mapped::of(code).unwrap();
        assert_eq!((found.range, found.inode, found.path), ("7f10-7f20", "12345", "/usr/lib/a b.so"));
        for other in [
            "7f10-7f20 rw-p 00001000 fe:00 12345 /usr/lib/a.so",
            "7f10-7f20 r-xp 00000000 00:00 0 [vdso]",
            "7f10-7f20 rwxp 00000000 00:00 0",
            "",
        ] {
            assert!(Mapped::of(other).is_none(), "{other}");
        }
    }

    #[test]
    fn a_library_is_known_by_its_name() {
        assert_eq!(library("/usr/lib/libjemalloc.so.2"), Some("jemalloc"));
        assert_eq!(library("/usr/lib/libc.so.6"), None);
    }

    #[test]
    fn a_word_is_found_wherever_it_lies() {
        let finders = finders();
        for at in [0, 5, PART - 6, PART - 1, PART, 2 * PART - 3] {
            let mut bytes = vec![b'.'; at];
            bytes.extend(b"<jemalloc>: ");
            bytes.extend(b" max-old-space-size");
            assert_eq!(
                search(bytes.as_slice(), &finders).unwrap(),
                BTreeSet::from(["jemalloc", "V8"]),
                "{at}"
            );
        }
        // What MariaDB holds, which runs without it.
        assert!(search(b"jemalloc tcmalloc %s.%d.%d".as_slice(), &finders).unwrap().is_empty());
    }

    #[test]
    fn a_process_is_known_by_its_number_in_its_container() {
        assert_eq!(inside("Name:\tNSpid: 3\nNSpid:\t4711\t12\nNSsid:\t1\n"), Some(12));
        assert_eq!(inside("Name:\tx\n"), None);
    }

    #[test]
    fn this_program_holds_no_word() {
        let program = File::open(std::env::current_exe().unwrap()).unwrap();
        // The tests hold some.
        let expected = BTreeSet::from(["jemalloc", "V8"]);
        assert!(search(program, &finders()).unwrap().is_subset(&expected));
    }

    #[test]
    fn a_shell_is_plain() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo; read line"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut shell = command.spawn().unwrap();
        // Before it says something it may still be this program.
        shell.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        let pid = shell.id();
        let habits = examine(&[pid]);
        drop(shell.stdin.take());
        shell.wait().unwrap();
        assert_eq!(habits.unwrap().of(pid), Some(ZeroReliance::Plain));
    }

    #[test]
    fn a_process_that_is_gone_says_nothing() {
        assert!(examine(&[u32::MAX >> 1]).unwrap().0.is_empty());
    }
}
