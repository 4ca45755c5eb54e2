//! Whether an app's processes may share their memory: what is mapped from a file does not turn to zeros when an allocator
//! gives it up with `MADV_DONTNEED`, it turns to what the file holds. Most allocators do not mind, for they promise
//! nothing about what they hand out, or clear it themselves. Those that count on zeros are known by their files' names,
//! or by words that every program holds which they were linked into.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use memchr::memmem::Finder;

/// Names of libraries, and whose they are.
const LIBRARIES: [(&str, &str); 6] = [
    ("libjemalloc", "jemalloc"),
    ("libtcmalloc", "tcmalloc"),
    ("libmimalloc", "mimalloc"),
    ("libcoreclr", ".NET"),
    ("libclrgc", ".NET"),
    ("libnode", "node"),
];

/// Words in programs and libraries, and whose they are. Names alone would be too little: MariaDB names all of them.
const WORDS: [(&[u8], &str); 9] = [
    (b"<jemalloc>: ", "jemalloc"),
    (b"_rjem_malloc", "jemalloc"),
    (b"TCMALLOC_MAX_TOTAL_THREAD_CACHE_BYTES", "tcmalloc"),
    (b"tcmalloc: large alloc", "tcmalloc"),
    (b"mimalloc: ", "mimalloc"),
    (b"\xff Go buildinf:", "Go"),
    (b"max-old-space-size", "V8"),
    (b"max_old_space_size", "V8"),
    (b"pas_page_malloc", "JavaScriptCore"),
];

/// Bytes that are looked at together.
const PART: usize = 1 << 20;

/// Why these processes must not share their memory; `None` where nothing speaks against it. What cannot be looked at
/// does.
pub(in super::super) fn objection(processes: &[u32]) -> Option<String> {
    let finders = WORDS.map(|(word, owner)| (Finder::new(word), owner));
    let mut seen = HashSet::new();
    for pid in processes {
        let proc = Path::new("/proc").join(pid.to_string());
        let maps = match fs::read_to_string(proc.join("maps")) {
            Ok(maps) => maps,
            // It has ended.
            Err(error) if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(3) => {
                continue;
            }
            Err(error) => return Some(format!("process {pid} cannot be looked at: {error}")),
        };
        for program in maps.lines().filter_map(Mapped::of) {
            if !seen.insert((program.device.to_owned(), program.inode.to_owned())) {
                continue;
            }
            if let Some(owner) = library(program.path) {
                return Some(format!("{} is {owner}'s, which counts on zeros", program.path));
            }
            match program.open(&proc).and_then(|file| search(file, &finders)) {
                Ok(None) => {}
                Ok(Some(owner)) => {
                    return Some(format!("{} has {owner}, which may count on zeros", program.path));
                }
                Err(error) => return Some(format!("{} cannot be looked at: {error}", program.path)),
            }
        }
    }
    None
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
fn search(mut from: impl Read, finders: &[(Finder<'_>, &'static str)]) -> io::Result<Option<&'static str>> {
    // What may be the beginning of a word at the end of a part is looked at again with the next.
    let overlap = WORDS.iter().map(|(word, _)| word.len()).max().unwrap_or(0);
    let mut buffer = Vec::with_capacity(PART + overlap);
    loop {
        let read = (&mut from).take(PART as u64).read_to_end(&mut buffer)?;
        if read == 0 {
            return Ok(None);
        }
        if let Some((_, owner)) = finders.iter().find(|(finder, _)| finder.find(&buffer).is_some()) {
            return Ok(Some(owner));
        }
        buffer.drain(..buffer.len().saturating_sub(overlap));
    }
}

#[cfg(test)]
mod tests {
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
        let finders = WORDS.map(|(word, owner)| (Finder::new(word), owner));
        for at in [0, 5, PART - 6, PART - 1, PART, 2 * PART - 3] {
            let mut bytes = vec![b'.'; at];
            bytes.extend(b"<jemalloc>: ");
            assert_eq!(search(bytes.as_slice(), &finders).unwrap(), Some("jemalloc"), "{at}");
        }
        // What MariaDB holds, which runs without it.
        assert_eq!(search(b"jemalloc tcmalloc %s.%d.%d".as_slice(), &finders).unwrap(), None);
    }

    #[test]
    fn a_process_that_is_gone_says_nothing() {
        assert_eq!(objection(&[u32::MAX >> 1]), None);
    }
}
